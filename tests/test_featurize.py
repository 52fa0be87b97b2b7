"""The command: the same bytes however it is run, and every bad input one clear line or one row."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from transformers import AutoTokenizer, WhisperFeatureExtractor
from upath import UPath

from data import budget
from data.audio import decode, resample
from data.augment import RECIPES
from data.clips import AudioFile, Clip, Split
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.log_mel import restore
from data.plan import make_settings
from data.records import Shards
from data.sources import read_split
from data.tokens import load_tokenizer, text_tokens


@pytest.fixture(name="config")
def small_run(sample_corpus, base_model_dir, tmp_path):
    """Sixty clips of the sample corpus with one copy each: two shards."""
    return FeaturizeConfig(sample_corpus, tmp_path / "shards", str(base_model_dir), workers=1, limit=60)


@pytest.fixture(name="finished", scope="module")
def finished_set(sample_corpus, base_model_dir, tmp_path_factory):
    """The shards of `config`, made by two workers."""
    folder = tmp_path_factory.mktemp("finished")
    featurize(FeaturizeConfig(sample_corpus, folder, str(base_model_dir), workers=2, limit=60))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set but its timing."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timing.json"}


def make_corpus(folder: Path, rows: list[tuple[str, str]]) -> Path:
    (folder / "clips").mkdir(parents=True)
    lines = ["client_id\tpath\tsentence\tlocale", *(f"s\t{name}\t{sentence}\tit" for name, sentence in rows)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_manifest_and_index_add_up_to_the_shards(finished):
    shards = Shards.open(finished, "train")
    manifest = shards.manifest
    assert manifest["records"] == len(shards) == 120
    assert manifest["copies"] == 1
    assert manifest["language"] == "it"
    assert manifest["recipe"]["name"] == "standard"
    assert manifest["features"] == {"sample_rate": 16_000, "n_fft": 400, "hop_length": 160, "n_mels": 80}
    assert len(manifest["shards"]) == 2
    for number, shard in enumerate(manifest["shards"]):
        content = (finished / "train" / shard["file"]).read_bytes()
        assert len(content) == shard["bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert (shards.index["shard"] == number).sum() == shard["records"]
    assert manifest["bytes"] == sum(shard["bytes"] for shard in manifest["shards"])
    assert manifest["seconds"] == pytest.approx(shards.index["seconds"].sum(dtype=float), abs=1e-3)
    clean = shards.index["seconds"][shards.index["copy"] == 0].sum(dtype=float)
    assert manifest["clean_seconds"] == pytest.approx(clean, abs=1e-3)
    assert manifest["clean_seconds"] < manifest["seconds"]
    timing = json.loads((finished / "train" / "timing.json").read_text())
    assert timing["speech_seconds"] == manifest["seconds"]
    assert timing["bytes_per_speech_second"] == pytest.approx(manifest["bytes"] / manifest["seconds"], abs=0.1)
    assert sorted(path.name for path in (finished / "train").iterdir() if path.name.startswith(".")) == []


def test_a_special_token_that_a_sentence_spells_is_text(base_model_dir):
    tokenizer = load_tokenizer(str(base_model_dir))
    tokens = text_tokens(tokenizer, " Ciao <|endoftext|>\n")
    assert max(tokens) < tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.decode(tokens) == " Ciao <|endoftext|>"


def test_a_clean_record_is_hugging_faces_features_and_tokens_of_the_clip(finished, sample_corpus, base_model_dir):
    """1/255 for eight bits, 3e-5 as in test_log_mel."""
    shards = Shards.open(finished, "train")
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    extractor = WhisperFeatureExtractor()
    for position in range(0, len(shards), 20):
        record = shards[position]
        assert record.copy == 0
        assert list(record.tokens) == tokenizer(" " + record.text, add_special_tokens=False).input_ids
        audio_N = resample(*decode(sample_corpus / "clips" / record.id))
        assert record.seconds == pytest.approx(len(audio_N) / 16_000)
        want_MF = extractor(audio_N, sampling_rate=16_000, return_tensors="np").input_features[0]
        got_FM = restore(record.log_mel_q, record.log_mel_max)
        np.testing.assert_allclose(got_FM.T, want_MF[:, : len(got_FM)], rtol=0, atol=1 / 255 + 3e-5)


def test_copies_differ_from_the_clip_as_their_index_row_says(finished):
    shards = Shards.open(finished, "train")
    sped = 0
    for position in range(0, len(shards), 2):
        clean, copy = shards[position], shards[position + 1]
        drawn = json.loads(shards.index["augmentations"][position + 1])
        assert (clean.copy, copy.copy, copy.id, copy.tokens) == (0, 1, clean.id, clean.tokens)
        assert shards.index["augmentations"][position] == ""
        assert copy.seconds == pytest.approx(clean.seconds / drawn.get("speed", 1.0), abs=2 / 16_000)
        if set(drawn) == {"gain_db"}:  # 10·log10(power) / 10 / 4 in normalised units
            assert copy.log_mel_max - clean.log_mel_max == pytest.approx(drawn["gain_db"] / 40, abs=1e-4)
        sped += "speed" in drawn
    assert sped > 30


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_byte(config, finished, workers):
    featurize(replace(config, workers=workers))
    assert contents(config.shards / "train") == contents(finished / "train")


def test_a_killed_run_continues_and_gives_the_same_bytes(sample_corpus, base_model_dir, tmp_path):
    def command(shards: Path) -> list[str]:
        options = {"source": sample_corpus, "shards": shards, "model": base_model_dir, "workers": 2, "copies": 3}
        return [sys.executable, "-m", "data.featurize", *(f"--{name}={value}" for name, value in options.items())]

    killed = tmp_path / "killed" / "train"
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command(killed.parent), stdout=log, stderr=log)
        while run.poll() is None and len(list(killed.glob(".*.tfrecord.json"))) < 3:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not (killed / "manifest.json").exists()
    with pytest.raises(UserError, match=r"has no split 'train' .*not finished"):
        Shards.open(killed.parent, "train")

    again = subprocess.run(command(killed.parent), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "of 16 shards are done" in again.stdout
    whole = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert contents(killed) == contents(tmp_path / "whole" / "train")


def test_a_finished_set_is_not_made_again(config, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "train").iterdir()}
    featurize(replace(config, shards=finished))
    assert "is already there, made with the same settings: 60 clips, 120 records" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (finished / "train").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "seed is 0 there, 5 asked"),
        ({"limit": 59}, "clips is 60 there, 59 asked"),
        ({"copies": 2}, "copies is 1 there, 2 asked"),
        ({"recipe": "none"}, "recipe.name is 'standard' there, 'none' asked"),
        ({"language": "fr"}, "language is 'it' there, 'fr' asked"),
    ],
)
def test_a_set_made_with_other_settings_is_not_touched(config, finished, change, said):
    with pytest.raises(UserError, match=f"made with other settings .*{said}"):
        featurize(replace(config, shards=finished, **change))


@pytest.mark.parametrize(
    "change", [{"id": "b.mp3"}, {"sentence": "Altro."}, {"speaker": "t"}, {"start": 1.0}, {"length": 2.0}]
)
def test_settings_are_others_for_other_clips(base_model_dir, change):
    """What a corpus says of a clip may be mended; the same clips anywhere else have the same settings."""
    clip = Clip("a.mp3", AudioFile("a.mp3"), "Uno.", "s", start=0.5, length=1.0)

    def clips_sha256(of: Clip, root: str = "corpus") -> str:
        rest = ("train", "it", base_model_dir / "tokenizer.json", 80, RECIPES["none"], 0, 0)
        return make_settings(Split(root, [of]), *rest).clips_sha256

    assert clips_sha256(replace(clip, audio=AudioFile("elsewhere/a.mp3")), "elsewhere") == clips_sha256(clip)
    assert clips_sha256(replace(clip, **change)) != clips_sha256(clip)


def test_recipe_none_makes_the_clean_clips_alone(config):
    featurize(replace(config, recipe="none", copies=4, limit=10))
    assert set(Shards.open(config.shards, "train").index["copy"]) == {0}


def test_a_model_of_128_mel_bins_gets_shards_of_128(config, base_model_dir, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(base_model_dir / "tokenizer.json", model)
    settings = json.loads((base_model_dir / "config.json").read_text()) | {"num_mel_bins": 128}
    (model / "config.json").write_text(json.dumps(settings))
    featurize(replace(config, model=str(model), limit=3))
    assert Shards.open(config.shards, "train")[0].log_mel_q.shape[1] == 128


def test_every_clip_left_out_has_its_reason_and_is_counted(config, tmp_path, sample_corpus, capsys):
    good = min((sample_corpus / "clips").iterdir())
    rows = [
        ("good.mp3", "Buongiorno."),
        ("broken.mp3", "Rotto."),
        ("missing.mp3", "Manca."),
        ("good2.mp3", "  "),
        ("long.wav", "Lungo."),
        ("short.wav", "Corto."),
        ("good3.mp3", "parola " * 500),
        ("nan.wav", "Strano."),
        ("../good.mp3", "Fuori."),
        ("good.mp3", "Due volte."),
    ]
    corpus = make_corpus(tmp_path / "corpus", rows)
    for name in ("good.mp3", "good2.mp3", "good3.mp3"):
        shutil.copy(good, corpus / "clips" / name)
    (corpus / "clips" / "broken.mp3").write_bytes(b"no audio" * 1000)
    for name, audio_N in (("long", np.zeros(31 * 8000)), ("short", np.zeros(700)), ("nan", np.full(8000, np.nan))):
        soundfile.write(corpus / "clips" / f"{name}.wav", audio_N, 8000, subtype="FLOAT")
    featurize(replace(config, source=corpus, limit=None, max_rejected="100%"))
    assert list(Shards.open(config.shards, "train").index["id"]) == ["good.mp3", "good.mp3"]
    lines = (config.shards / "train" / "rejected.tsv").read_text().splitlines()
    reasons = {tuple(line.split("\t")[:2]) for line in lines[1:]}
    assert lines[0] == "id\treason\tdetail"
    assert reasons == {
        ("broken.mp3", "does not decode"),
        ("missing.mp3", "no such file"),
        ("good2.mp3", "empty sentence"),
        ("long.wav", "longer than 30 s"),
        ("short.wav", "shorter than 0.1 s"),
        ("good3.mp3", "more than 443 tokens"),
        ("nan.wav", "samples are not finite"),
        ("../good.mp3", "path is not a file name"),
        ("good.mp3", "listed twice"),
    }
    screen = capsys.readouterr().out
    assert all(f"left out: 1 × {reason}" in screen for _, reason in reasons)


def test_a_corpus_without_one_usable_clip_is_an_error(config, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [("broken.mp3", "Rotto.")])
    (corpus / "clips" / "broken.mp3").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"no clip could be used; .*rejected.tsv says why"):
        featurize(replace(config, source=corpus, max_rejected="100%"))


def test_what_would_not_fit_the_budget_is_not_begun(config):
    with pytest.raises(UserError, match=r"would take about \d.* MB, the budget is 1.0 MB: raise --budget"):
        featurize(replace(config, budget="1MB"))
    assert list(config.shards.rglob("*.tfrecord*")) == []


def test_what_would_not_fit_the_disk_is_not_begun(config, monkeypatch):
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(UserError, match=r"need about .* MB more, the disk of .* has 5.0 kB free"):
        featurize(config)
    assert list(config.shards.rglob("*.tfrecord*")) == []
    place = UPath(config.shards)
    budget.check_room(9000, present=4000, budget=10**6, folder=place)  # what a killed run left counts as there
    with pytest.raises(UserError, match=r"need about 5.0 kB more, the disk of .* has 5.0 kB free"):
        budget.check_room(9001, present=4000, budget=10**6, folder=place)


def test_as_many_copies_fit_as_budget_and_disk_have_room_for():
    """10 bytes a copy, the clean one among them."""
    assert [budget.copies_that_fit(10, 100, free) for free in (float("inf"), 55.0, 9.0)] == [9, 4, -1]
    assert budget.copies_that_fit(10, 35, 100.0) == 2


@pytest.mark.parametrize("durations", [False, True])
def test_the_estimate_is_near_the_truth_with_and_without_clip_durations(config, finished, tmp_path, durations):
    """A tenth: 60 clips of very unequal length, half of them looked at; copies' speeds move the total by a percent."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "clips").symlink_to(config.source / "clips")
    shutil.copy(config.source / "train.tsv", corpus)
    clips = read_split(corpus, "train")
    clips = replace(clips, clips=clips.clips[:60])
    if durations:
        rows = (f"{clip.id}\t{round(soundfile.info(clip.audio.load()).duration * 1000)}" for clip in clips.clips)
        (corpus / "clip_durations.tsv").write_text("\n".join(["clip\tduration[ms]", *rows]) + "\n")
    copy_bytes = budget.bytes_per_copy(budget.estimate_seconds(clips), 60, n_mels=80)
    assert 2 * copy_bytes == pytest.approx(Shards.open(finished, "train").manifest["bytes"], rel=0.1)
