"""Folds: every clip in exactly one, no speaker in two, and cross-validation by the commands people run."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.folds import Fold
from data.records import Shards
from jax_train.crossval import CrossvalConfig, crossval, table
from jax_train.runlog import read_rows
from tests.conftest import thorough

SPEAKERS = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"]


class Speech:
    """The part of shards that folds look at."""

    folder = "shards/train"

    def __init__(self, speakers: list[str]) -> None:
        self.index = {
            "speaker": np.array(speakers, object),
            "id": np.array([f"{speaker}{i // 2}" for i, speaker in enumerate(speakers)], object),
            "seconds": np.ones(len(speakers), np.float32),
        }

    def only(self, chosen: np.ndarray) -> np.ndarray:
        return np.flatnonzero(chosen)


def test_every_clip_is_scored_once_and_never_by_a_model_trained_on_its_speaker():
    speech = Speech(SPEAKERS)
    scored = []
    for number in (1, 2, 3):
        fold = Fold(3, number)
        inside, outside = fold.for_scoring(speech).tolist(), fold.for_training(speech).tolist()
        assert sorted(inside + outside) == list(range(len(SPEAKERS)))
        assert not {SPEAKERS[row] for row in inside} & {SPEAKERS[row] for row in outside}
        scored += inside
    assert sorted(scored) == list(range(len(SPEAKERS)))


def test_folds_hold_about_the_same_speech():
    """5 | 3 | 2 + 1 seconds: the best there is with these speakers."""
    sizes = sorted(len(Fold(3, number).for_scoring(Speech(SPEAKERS))) for number in (1, 2, 3))
    assert sizes == [3, 3, 5]


def test_copies_of_a_clip_stay_together_in_folds_by_clip():
    speech = Speech(["a"] * 10)
    for number in range(1, 6):
        rows = Fold(5, number, by="clip").for_scoring(speech)
        assert rows.tolist() == [rows[0], rows[0] + 1]
        assert rows[0] % 2 == 0


def test_the_seed_draws_other_folds_of_the_same_sizes():
    speech = Speech([str(number) for number in range(20)])
    folds = [Fold(4, 1, seed=seed).for_scoring(speech).tolist() for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]
    assert len(folds[0]) == len(folds[2]) == 5


def test_wrong_folds_are_one_clear_line():
    with pytest.raises(UserError, match=r"4 speakers do not fill 5 folds; make fewer folds, or divide by clip \(--fo"):
        Fold(5, 1).for_training(Speech(SPEAKERS))
    with pytest.raises(UserError, match=r"--fold.number 3: 1 to 2"):
        Fold(2, 3)
    with pytest.raises(UserError, match=r"--fold.of 1: at least 2"):
        Fold(1)
    for folds in (-2, 0, 1):
        with pytest.raises(UserError, match=f"--folds {folds}: at least 2"):
            crossval(CrossvalConfig(shards=Path("none"), out=Path("none"), folds=folds), [])


def test_clips_of_unknown_speakers_are_speakers_of_their_own_and_none_known_is_refused():
    """By hand: a speaks 4 s; three clips of 2 s (with their copies) are nobody's, and each fills a fold."""
    speech = Speech(["a"] * 4 + [""] * 6)
    speech.index["id"][4:] = ["x", "x", "y", "y", "z", "z"]
    sizes = [len(Fold(4, number).for_scoring(speech)) for number in (1, 2, 3, 4)]
    assert sorted(sizes) == [2, 2, 2, 4]
    for number in (1, 2, 3, 4):
        rows = Fold(4, number).for_scoring(speech)
        assert len(set(speech.index["id"][rows].tolist())) == len(rows) // 2  # copies stay together
    with pytest.raises(UserError, match=r"cannot keep them apart; divide by clip \(--fold.by clip; --by clip of cr"):
        Fold(2, 1).for_training(Speech([""] * 10))
    assert len(Fold(2, 1, by="clip").for_training(Speech([""] * 10)))


def test_a_view_of_shards_has_their_records_and_travels_to_other_processes(small_shards: Path):
    shards = Shards.open(small_shards, "train")
    chosen = np.arange(len(shards)) % 3 == 1
    view = pickle.loads(pickle.dumps(shards.only(chosen)))
    assert len(view) == chosen.sum()
    assert [view[i].id for i in range(3)] == [shards[i].id for i in np.flatnonzero(chosen)[:3]]


@pytest.mark.usefixtures("two_devices")
def test_crossval_holds_each_speaker_out_once_and_names_the_normaliser(
    small_shards: Path, terse_model_dir: Path, tmp_path: Path, commands_here: list[str]
):
    """The whole of it in this process: two speakers, a fold each."""
    config = CrossvalConfig(shards=small_shards, out=tmp_path, folds=2, limit=5, score_batch_size=1)
    options = ["--model", str(terse_model_dir), "--batch-size", "2", "--steps", "1", "--learning-rate", "1e-3"]
    result = crossval(config, options)
    assert commands_here == ["jax_train.train", "jax_train.evaluate"] * 2
    shards = Shards.open(small_shards, "train")
    speaker_of = dict(zip(shards.index["id"].tolist(), shards.index["speaker"].tolist(), strict=True))
    heard = []
    for number in (1, 2):
        scored = pq.read_table(tmp_path / f"fold-{number}" / "scores" / "predictions.parquet")["speaker"].to_pylist()
        settings = json.loads((tmp_path / f"fold-{number}" / "config.json").read_text())["fold"]
        assert (settings["of"], settings["number"], settings["by"]) == (2, number, "speaker")
        heard.append(set(scored))
        scores = json.loads((tmp_path / f"fold-{number}" / "scores" / "scores.json").read_text())
        assert scores["settings"]["fold"]["number"] == number
    assert [len(speakers) for speakers in heard] == [1, 1]
    assert heard[0] | heard[1] == set(speaker_of.values())
    values = [fold["wer"] for fold in result["folds"]]
    assert result["wer"]["mean"] == pytest.approx(sum(values) / 2)
    assert json.loads((tmp_path / "crossval.json").read_text()) == result
    said = table(result)
    assert said.endswith("\nNormalised: transformers BasicTextNormalizer(remove_diacritics=False).")
    assert "\nNot the folds' scores: the fold's first 5 clips alone.\n" in said
    assert result["lacks"] == ["the fold's first 5 clips alone"]
    assert "Not the folds'" not in table(result | {"lacks": []})
    assert "Of 3 clips the speaker is unknown" in table(result | {"clips_of_unknown_speakers": 3})
    commands_here.clear()
    assert crossval(config, options) == result
    assert commands_here == ["jax_train.train"] * 2  # which find their runs done


def test_every_fold_is_trained_and_scored_by_the_options_given_and_their_spread_is_the_samples(tmp_path, monkeypatch):
    """By hand: the squares of 10, 20 and 60 less 30 are 400 + 100 + 900, over n - 1 = 700. Each clip has a copy."""
    speech = Speech(["a", "a", "", "", "", ""])
    speech.index |= {"id": np.array(["a0", "a0", "x", "x", "y", "y"], object), "copy": np.tile([0, 1], 3)}
    told, rates = [], iter([10.0, 20.0, 60.0] * 2)

    def scored(_title, settings, *words):
        told.append(dict(zip(words[::2], words[1::2], strict=True)) | settings)
        rate = next(rates)
        figures = {"wer": rate, "wer_normalised": rate, "cer": rate, "cer_normalised": rate, "clips": 1}
        return figures | {"normaliser": "none", "settings": {}}

    def trained(_title, _module, *words):
        told.append(dict(zip(map(str, words[::2]), words[1::2], strict=True)))

    monkeypatch.setattr("jax_train.crossval.Shards.open", lambda *_: speech)
    monkeypatch.setattr("jax_train.crossval.score_once", scored)
    monkeypatch.setattr("jax_train.crossval.stage", trained)
    config = CrossvalConfig(Path("shards"), tmp_path, folds=3, split="dev", seed=7)
    result = crossval(config, ["--steps", "1"])
    assert result["wer"] == {"mean": 30, "deviation": pytest.approx(700**0.5)}
    assert result["clips_of_unknown_speakers"] == 2
    assert crossval(dataclasses.replace(config, by="clip"), [])["clips_of_unknown_speakers"] == 0
    options = [[words[f"--fold.{name}"] for name in ("of", "number", "by", "seed")] for words in told]
    assert options == [[3, n, by, 7] for by in ("speaker", "clip") for n in (1, 2, 3) for _ in ("train", "score")]
    assert [words["--split"] for words in told[::2]] == [words["split"] for words in told[1::2]] == ["dev"] * 6
    assert [words.get("--steps") for words in told[::2]] == ["1"] * 3 + [None] * 3


@thorough
def test_crossval_scores_each_fold_by_a_run_without_it_and_continues_when_run_again(
    small_shards: Path, small_model_dir: Path, tmp_path: Path, capfd
):
    config = CrossvalConfig(shards=small_shards, out=tmp_path, folds=2, by="clip", limit=3, score_batch_size=1)
    options = ["--model", str(small_model_dir), "--batch-size", "8", "--steps", "1", "--learning-rate", "1e-3"]
    result = crossval(config, options)
    values = [fold["wer"] for fold in result["folds"]]
    assert result["wer"]["mean"] == pytest.approx(sum(values) / 2)
    assert result["wer"]["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert [fold["clips"] for fold in result["folds"]] == [3, 3]
    assert "mean ± deviation" in table(result)
    assert json.loads((tmp_path / "crossval.json").read_text()) == result
    assert [len(read_rows(tmp_path / f"fold-{number}")) for number in (1, 2)] == [1, 1]
    before = capfd.readouterr().out
    assert before.count("jax_train.evaluate") == 2
    assert crossval(config, options) == result
    again = capfd.readouterr().out
    assert again.count("already trained") == 2
    assert "jax_train.evaluate" not in again
