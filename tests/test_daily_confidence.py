"""The confidence model: held out by sentence and speaker, better than guessing where it can be, used where it is."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from daily.confidence import MEANINGS, ConfidenceConfig, fit, read_history, scores, train
from daily.held_out import held_out
from daily.registry import CONFIDENCE, MODEL, open_registry
from daily.registry_files import CONFIDENCE_FILE
from daily.store import FEATURES, PREDICTIONS, Store, create_store, write_table
from data.clips import NOT_CONFIDENT
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.finish import REJECTED
from data.records import Shards
from data.source_options import SourceOptions
from serving.confidence import read_confidence

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = ("aria", "mare", "sole", "luna", "vento", "neve", "fuoco", "terra", "stella", "nube", "fiore", "casa")
FACTS = {"source": "festival", "sex": "", "words": 2, "seconds": 2.0, "snr_db": 30.0, "words_per_second": 1.0}
FACTS |= {"recipe": "none", "augmentations": "", "file": "", "audio_sha256": ""}


@pytest.fixture(scope="module")
def with_champion(empty_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a champion."""
    folder: Path = tmp_path_factory.mktemp("confidence") / "store"
    shutil.copytree(empty_registry, folder)
    create_store(folder, "it", "base", 80, "0")
    model = folder.parent / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("weights")
    registry = open_registry(folder)
    registry.promote(MODEL, registry.register(MODEL, "2026-11-23", model, key="base").number)
    return folder


@pytest.fixture
def store(with_champion: Path, tmp_path: Path) -> Store:
    shutil.copytree(with_champion, tmp_path / "store")
    return create_store(tmp_path / "store", "it", "base", 80, "0")


def with_day(store: Store, day: str, clips: int, telling: bool = True) -> None:
    """A day as the other commands leave it; where the signals are `telling`, a sure decoder is mostly right."""
    rng = np.random.default_rng(int(day.replace("-", "")))
    features, predictions = [], []
    for number in range(clips):
        sentence = " ".join(rng.choice(WORDS, 2))
        sure = rng.uniform(-1.0, 0.0)
        errors = int(rng.random() > 1 / (1 + np.exp(-12 * (sure + 0.5)))) if telling else int(rng.integers(2))
        named = {"id": f"{day}-{number:05d}.flac", "day": day}
        signals = {name: float(rng.normal()) for name in MEANINGS}
        signals |= {"mean_log_probability": sure, "hypothesis_words": 2.0}
        features.append({**named, "voice": ("lp", "pc")[number % 2], "sentence": sentence, **FACTS})
        outcome = {"words": 2, "errors": errors, "confidence": None, "trusted": None, "right": errors == 0}
        told = {"model_version": "1", "reference": sentence, "hypothesis": sentence}
        predictions.append({**named, **told, **outcome, **signals})
    write_table(FEATURES, store.features(day), features)
    write_table(PREDICTIONS, store.predictions(day), predictions)


def test_no_sentence_and_no_speaker_is_on_both_sides() -> None:
    """But a voice of more than the share of all clips. People say two sentences each, which others say, too."""
    rng = np.random.default_rng(0)
    sentences = [f"frase {number}" for number in range(300)] * 2
    speakers = [("lp", "pc")[number % 2] for number in range(300)] + [f"persona {number // 2}" for number in range(300)]
    order = rng.permutation(600)
    sentences, speakers = [sentences[place] for place in order], [speakers[place] for place in order]
    chosen, both = held_out(sentences, speakers, 0.2, seed=0)
    assert both == ["lp", "pc"]
    for values in (sentences, [name if name.startswith("persona") else str(row) for row, name in enumerate(speakers)]):
        inside = {value for value, out in zip(values, chosen, strict=True) if out}
        outside = {value for value, out in zip(values, chosen, strict=True) if not out}
        assert min(len(inside), len(outside)) > 0
        assert not inside & outside
    assert 0.18 < chosen.mean() <= 0.2  # groups are of four clips


def test_a_day_more_of_history_holds_out_mostly_what_was_held_out_before() -> None:
    """Sentences held out of 200 stay so with 20 more: the share grows by a tenth, and the order is the sentences'."""
    sentences, speakers = [f"frase {number}" for number in range(220)], ["lp"] * 220
    before, _ = held_out(sentences[:200], speakers[:200], 0.2, seed=0)
    after, _ = held_out(sentences, speakers, 0.2, seed=0)
    assert (before & after[:200]).sum() >= 0.8 * before.sum()
    other, _ = held_out(sentences, speakers, 0.2, seed=1)
    assert (other != after).any()


def test_scores_are_those_worked_out_by_hand() -> None:
    found = scores(np.array([0.9, 0.6, 0.2, 0.4]), np.array([True, False, False, True]), share=0.5, trusted_from=0.5)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.04 + 0.36) / 4)
    assert found["brier_of_share"] == pytest.approx(0.25)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.4]).mean())
    assert found["roc_auc"] == pytest.approx(3 / 4)  # of the four pairs of a right and a wrong one, one is out of order
    assert found["confusion"] == {"trusted": {"right": 1, "wrong": 1}, "doubted": {"right": 1, "wrong": 1}}


def test_what_the_decoder_tells_is_learned_registered_and_beside_the_champion(store, capsys) -> None:
    for day in ("2026-11-23", "2026-11-24"):
        with_day(store, day, 120)
    train(ConfidenceConfig(store.folder, "2026-11-24"))
    assert "confidence version 1, Brier 0." in capsys.readouterr().out
    folder = store.confidence("2026-11-24")
    found = json.loads((folder / "scores.json").read_text())
    assert (found["clips"], found["speakers_on_both_sides"]) == (240, ["lp", "pc"])
    assert found["brier"] < 0.8 * found["brier_of_share"]
    assert found["roc_auc"] > 0.8
    assert sum(sum(row.values()) for row in found["confusion"].values()) == found["held_out"]
    for name in ("calibration.png", "confusion.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 400

    version = open_registry(store.folder).champion(CONFIDENCE)
    assert (version.number, version.day) == (1, "2026-11-24")
    assert version.metrics["brier"] == pytest.approx(found["brier"])
    confidence = read_confidence(store.champion)
    assert (confidence.language, confidence.bound, confidence.features) == ("it", 0.0, tuple(MEANINGS))
    assert (store.champion / CONFIDENCE_FILE).read_bytes() == (folder / CONFIDENCE_FILE).read_bytes()
    sure, unsure = np.zeros((2, len(MEANINGS)))
    unsure[0] = -1.0
    low, high = confidence.probabilities(np.array([unsure, sure]))
    assert low < 0.3 < 0.7 < high


def test_what_is_held_out_is_drawn_by_the_seed_and_never_learned(store, monkeypatch) -> None:
    with_day(store, "2026-11-23", 120)
    learned = []
    monkeypatch.setattr("daily.confidence.fit", lambda *given: learned.extend(given) or fit(*given))
    monkeypatch.setattr("daily.confidence._register", lambda *_: "")
    train(ConfidenceConfig(store.folder, "2026-11-23", held_out=0.3, seed=5))
    history = read_history(store, "2026-11-23", 0.0)
    chosen, _ = held_out(history.sentences, history.speakers, 0.3, seed=5)
    assert 0.2 < chosen.mean() <= 0.3
    np.testing.assert_array_equal(learned[0], history.signals_CK[~chosen])
    np.testing.assert_array_equal(learned[1], history.right_C[~chosen])
    found = json.loads((store.confidence("2026-11-23") / "scores.json").read_text())
    assert found["right_share"] == history.right_C[~chosen].mean()


def test_a_second_run_changes_nothing_and_an_older_day_does_not_replace_a_newer(store) -> None:
    for day in ("2026-11-23", "2026-11-24"):
        with_day(store, day, 120)
    for day in ("2026-11-24", "2026-11-24", "2026-11-23"):
        train(ConfidenceConfig(store.folder, day))
    registry = open_registry(store.folder)
    assert [version.day for version in registry.versions(CONFIDENCE)] == ["2026-11-24", "2026-11-23"]
    assert registry.champion(CONFIDENCE).day == "2026-11-24"
    registry.roll_back(CONFIDENCE, 2)
    train(ConfidenceConfig(store.folder, "2026-11-24"))
    assert registry.champion(CONFIDENCE).number == 2  # a roll-back stands
    with pytest.raises(
        UserError, match=r"made with --bound 0\.0 --seed 0, not --bound 0\.3 --seed 1, and is made once"
    ):
        train(ConfidenceConfig(store.folder, "2026-11-24", bound=0.3, seed=1))
    assert (
        json.loads((store.confidence("2026-11-23") / "scores.json").read_text())["clips"] == 120
    )  # as it was that day


def test_a_day_that_was_once_run_in_the_future_does_not_keep_the_days_until_then_from_use(store) -> None:
    with_day(store, "2026-11-23", 120)
    with_day(store, "2999-01-01", 120)
    train(ConfidenceConfig(store.folder, "2999-01-01"))
    train(ConfidenceConfig(store.folder, "2026-11-23"))
    assert open_registry(store.folder).champion(CONFIDENCE).day == "2026-11-23"


def test_a_run_killed_before_it_registered_its_model_is_continued(store, monkeypatch) -> None:
    """What it wrote was on the disk before it had its name."""
    with_day(store, "2026-11-23", 120)
    folder, named = store.confidence("2026-11-23"), []
    with monkeypatch.context() as killed:
        killed.setattr(os, "sync", lambda: named.append(folder.exists()))
        killed.setattr("daily.confidence._register", lambda *_: sys.exit(137))
        with pytest.raises(SystemExit):
            train(ConfidenceConfig(store.folder, "2026-11-23"))
    assert named == [False]
    written = (folder / CONFIDENCE_FILE).read_bytes()
    train(ConfidenceConfig(store.folder, "2026-11-23"))
    assert (store.champion / CONFIDENCE_FILE).read_bytes() == written


def test_a_model_that_knows_nothing_is_registered_and_not_used(store, capsys) -> None:
    with_day(store, "2026-11-23", 150, telling=False)
    train(ConfidenceConfig(store.folder, "2026-11-23"))
    assert capsys.readouterr().out.endswith("; not used\n")
    registry = open_registry(store.folder)
    assert registry.champion(CONFIDENCE) is None
    assert "not used" in registry.version(CONFIDENCE, 1).note
    assert read_confidence(store.champion) is None


def test_a_short_history_teaches_nothing_yet_and_says_so(store, capsys) -> None:
    with_day(store, "2026-11-23", 12)
    train(ConfidenceConfig(store.folder, "2026-11-23"))
    assert "no confidence model yet: 12 transcripts so far, 60 are needed" in capsys.readouterr().out
    assert not store.confidence("2026-11-23").exists()


def test_a_quiet_day_teaches_nothing_and_does_not_stop_the_days_after_it(store, capsys) -> None:
    for day in ("2026-11-23", "2026-11-24"):
        with_day(store, day, 0)
        train(ConfidenceConfig(store.folder, day))
        assert f"{day}: nothing new was said" in capsys.readouterr().out
    assert len(read_history(store, "2026-11-24", 0.0).sentences) == 0
    with_day(store, "2026-11-25", 120)
    train(ConfidenceConfig(store.folder, "2026-11-25"))
    assert [version.day for version in open_registry(store.folder).versions(CONFIDENCE)] == ["2026-11-25"]


def test_what_cannot_be_is_refused_in_a_line(store, tmp_path) -> None:
    command = [sys.executable, "-m", "daily.confidence", "--store", str(store.folder), "--day", "2026-11-23"]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (
        2,
        f"error: {store.folder}: no predictions yet: run daily-inference first\n",
    )
    for wrong in ({"bound": 1.5}, {"trusted_from": -0.1}, {"held_out": 0.0}, {"held_out": 1.0}):
        with pytest.raises(UserError, match="give a share"):
            ConfidenceConfig(tmp_path, **wrong)


def test_pseudo_labels_become_shards_without_those_that_nobody_trusts(small_model_dir, tmp_path) -> None:
    """As `serving.batch` writes them; three of four filtered out are no reason to stop at 5 % of clips that fail."""
    rng = np.random.default_rng(0)
    rows = []
    for name, confidence in (("a.wav", 0.9), ("b.wav", 0.3), ("c.wav", None), ("d.wav", 0.0)):
        soundfile.write(tmp_path / name, 0.1 * rng.normal(size=16_000), 16_000)
        rows.append({"file_name": name, "text": "Ciao.", "language": "it", "confidence": confidence})
    heard = tmp_path / "heard.jsonl"
    heard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SourceOptions(min_confidence=0.8)
    config = FeaturizeConfig(
        str(heard), str(tmp_path / "shards"), str(small_model_dir), recipe="none", workers=1, source_options=options
    )
    featurize(config)
    shards = Shards(tmp_path / "shards" / "train")
    assert list(shards.index["id"]) == ["a.wav"]
    assert shards.manifest["rejected"] == {NOT_CONFIDENT: 3}
    left_out = (tmp_path / "shards" / "train" / REJECTED).read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in left_out] == ["b.wav", "c.wav", "d.wav"]
    percent = replace(config, source_options=SourceOptions(min_confidence=80))
    with pytest.raises(UserError, match="min-confidence is 80; it takes 0 to 1"):
        featurize(percent)
