"""A day is heard once, by the champion, as people hear it; errors are the project's; a second run changes nothing."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from daily import inference
from daily.inference import InferenceConfig, infer, normaliser, scored
from daily.registry import MODEL, Registry, open_registry
from daily.store import FEATURES, Store, connect, create_store, write_table
from data.errors import UserError
from jax_train.scores import edits

REPOSITORY = Path(__file__).resolve().parent.parent
DAY = "2026-11-23"
FACTS = {"source": "festival", "voice": "lp_diphone", "sex": "female", "snr_db": 30.0, "words_per_second": 2.0}
FACTS |= {"recipe": "none", "augmentations": "", "audio_sha256": ""}
SIGNALS = {
    "mean_log_probability": -0.2, "lowest_log_probability": -1.0, "compression_ratio": 0.9, "tokens": 4.0,
    "no_speech_probability": 0.01, "hypothesis_words": 3.0, "words_per_second": 1.5, "snr_db": 30.0,
}  # fmt: skip


@pytest.fixture
def store(empty_registry: Path, tmp_path: Path) -> Store:
    """A store with an empty registry."""
    shutil.copytree(empty_registry, tmp_path / "store")
    return create_store(tmp_path / "store", "it", "base", 80, "0")


def with_champion(store: Store, folder: Path) -> Registry:
    registry = open_registry(store.folder)
    registry.promote(MODEL, registry.register(MODEL, DAY, folder, key="base").number)
    return registry


def with_day(store: Store, sentences: Sequence[str], files: Sequence[str] = ()) -> None:
    """The day's features, as `daily.features` writes them."""
    rows = [
        {
            "id": f"{DAY}-{number}.flac", "day": DAY, "sentence": sentence, "words": len(sentence.split()),
            "seconds": 2.0, "file": files[number] if files else f"clips/{DAY}/{number}.flac", **FACTS,
        }
        for number, sentence in enumerate(sentences)
    ]  # fmt: skip
    if not files:
        store.clips(DAY).mkdir(parents=True)
        for row in rows:
            (store.folder / str(row["file"])).touch()
    write_table(FEATURES, store.features(DAY), rows)


class Scripted:
    """In `serving.batch`'s place: writes these texts for the clips it is given."""

    def __init__(self, *texts: str | None, **more: object) -> None:
        """Of None it says that it cannot hear the clip."""
        self.texts, self.more, self.heard = texts, more, list[str]()

    def __call__(self, command: Sequence[str]) -> None:
        assert command[1:3] == ["-m", "serving.batch"]
        options = dict(zip(command[3::2], command[4::2], strict=True))
        assert options["--language"] == "it"
        with Path(options["--clips"]).open(newline="") as file:
            self.heard = [row["file_name"] for row in csv.DictReader(file)]
        rows = [
            {"file_name": name, "text": "", "problem": f"{name}: is silent"}
            if text is None
            else {"file_name": name, "text": text, "language": "it", "seconds": 2.0, **SIGNALS, **self.more}
            for name, text in zip(self.heard, self.texts, strict=True)
        ]
        Path(options["--out"]).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    return folder


def test_a_day_is_heard_by_the_champion_and_a_second_run_changes_nothing(store, champion, monkeypatch, capsys) -> None:
    """The second sentence has one of three words wrong, the third none by the normaliser."""
    with_champion(store, champion)
    with_day(store, ["Buongiorno a tutti.", "Il mare calmo.", "Sì, grazie."])
    batch = Scripted("buongiorno a tutti", "Il mare caldo.", "Sì grazie!")
    monkeypatch.setattr(inference, "run", batch)
    infer(InferenceConfig(store.folder, DAY))
    assert "version 1, WER 12.5 over 3 clips, 2 right" in capsys.readouterr().out

    assert [Path(name).relative_to(store.folder) for name in batch.heard] == [
        Path(f"clips/{DAY}/{number}.flac") for number in range(3)
    ]
    rows = pq.read_table(store.predictions(DAY)).to_pylist()
    assert [row["id"] for row in rows] == [f"{DAY}-{number}.flac" for number in range(3)]
    assert [(row["words"], row["errors"], row["right"]) for row in rows] == [(3, 0, True), (3, 1, False), (2, 0, True)]
    assert {(row["day"], row["model_version"], row["confidence"], row["trusted"]) for row in rows} == {
        (DAY, "1", None, None)
    }
    assert all({name: row[name] for name in SIGNALS} == SIGNALS for row in rows)
    assert {row["bound"] for row in rows} == {0.0}

    before = store.predictions(DAY).read_bytes()
    monkeypatch.setattr(inference, "run", None)
    infer(InferenceConfig(store.folder, DAY))
    assert store.predictions(DAY).read_bytes() == before
    with connect(store) as connection:
        assert connection.execute("select count(*), sum(errors) from history").fetchone() == (3, 1)


def test_estimates_and_their_bound_are_the_confidence_models(store, champion, monkeypatch) -> None:
    """One of three words wrong is right where a third may be."""
    (champion / "confidence.json").write_text('{"bound": 0.34}')
    with_champion(store, champion)
    with_day(store, ["Il mare calmo."])
    monkeypatch.setattr(inference, "run", Scripted("Il mare caldo.", confidence=0.7, trusted=True))
    infer(InferenceConfig(store.folder, DAY))
    (row,) = pq.read_table(store.predictions(DAY)).to_pylist()
    assert (row["confidence"], row["trusted"], row["right"], row["bound"]) == (0.7, True, True, 0.34)


def test_a_day_without_speech_is_a_day_without_predictions(store, champion, capsys) -> None:
    with_champion(store, champion)
    with_day(store, [])
    store.predictions(DAY).parent.mkdir()
    store.predictions(DAY).touch()  # as a power cut leaves it
    infer(InferenceConfig(store.folder, DAY))
    assert pq.read_table(store.predictions(DAY)).num_rows == 0
    assert "no words over 0 clips" in capsys.readouterr().out


def test_what_is_missing_is_named_and_nothing_is_written(store, champion, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"2026-11-23.parquet is not there: run daily-features for 2026-11-23 first"):
        infer(InferenceConfig(store.folder, DAY))
    with_champion(store, champion)
    with_day(store, ["Sì.", "No.", "Forse."])
    monkeypatch.setattr(inference, "run", Scripted(None, "No.", None))
    with pytest.raises(UserError, match=r"2 of 3 clips cannot be heard; the first: .*0.flac: is silent"):
        infer(InferenceConfig(store.folder, DAY))
    (store.clips(DAY) / "1.flac").unlink()
    with pytest.raises(UserError, match=r"1.flac is not there, though .*2026-11-23.parquet says so"):
        infer(InferenceConfig(store.folder, DAY))
    assert not store.predictions(DAY).exists()


def test_a_clip_that_cannot_be_heard_is_left_out_and_named(store, champion, monkeypatch, capsys) -> None:
    with_champion(store, champion)
    with_day(store, ["Sì.", "No."])
    monkeypatch.setattr(inference, "run", Scripted(None, "No."))
    infer(InferenceConfig(store.folder, DAY))
    assert pq.read_table(store.predictions(DAY))["id"].to_pylist() == [f"{DAY}-1.flac"]
    assert "left out, it cannot be heard: " in capsys.readouterr().out


def test_words_and_errors_are_those_of_the_projects_normalised_wer() -> None:
    """Truth: `jax_train.scores`, which aligns with jiwer."""
    references = ["Perché no? È così.", "«Sì», disse.", "uno due tre", "È", "a b c d"]
    hypotheses = ["perche no e così", "Sì disse", "", "E' vero", "b c x d e"]
    _, normal = edits(references, hypotheses)
    normalise = normaliser()
    got = [scored(wanted, {"text": said}, 0.0, normalise) for wanted, said in zip(references, hypotheses, strict=True)]
    assert [row["words"] for row in got] == normal.words.tolist()
    assert [row["errors"] for row in got] == normal.errors.tolist()
    assert [row["right"] for row in got] == (normal.errors == 0).tolist()


def test_real_whisper_hears_a_day_of_real_speech(store, base_model_dir, sample_corpus) -> None:
    """The whole command on two clips: base makes less than one error in two words of them, and knows how sure it is."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:2]
    clips = store.clips(DAY)
    clips.mkdir(parents=True)
    for row in rows:
        shutil.copy(sample_corpus / "clips" / row["path"], clips)
    with_champion(store, base_model_dir)
    with_day(store, [row["sentence"] for row in rows], [f"clips/{DAY}/{row['path']}" for row in rows])
    command = [sys.executable, "-m", "daily.inference", "--store", str(store.folder), "--day", DAY]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = pq.read_table(store.predictions(DAY)).to_pylist()
    assert sum(row["errors"] for row in found) < 0.5 * sum(row["words"] for row in found)
    for row in found:
        assert -2 < row["mean_log_probability"] < 0
        assert row["lowest_log_probability"] <= row["mean_log_probability"]
        assert 0 <= row["no_speech_probability"] < 0.5
        assert row["tokens"] >= row["hypothesis_words"] > 0
