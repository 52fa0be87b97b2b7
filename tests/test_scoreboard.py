"""The scoreboard: a line for each preset and for what they start from, by the commands people run."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from jax_train.runlog import read_rows
from jax_train.scoreboard import ScoreboardConfig, scoreboard
from jax_train.stages import score_once
from tests.conftest import thorough

OPTIONS = ["--batch-size", "8", "--steps", "1", "--learning-rate", "1e-3", "--compute-dtype", "float32"]


@thorough
def test_each_preset_is_trained_and_scored_once_and_all_stand_in_the_table(
    small_shards: Path, small_model_dir: Path, tmp_path: Path, capfd
):
    config = ScoreboardConfig(
        presets=("sample/base", "sample/lora"),
        shards=small_shards,
        out=tmp_path,
        model=str(small_model_dir),
        limit=3,
        score_batch_size=1,
    )
    rows = scoreboard(config, OPTIONS)
    assert {row["name"] for row in rows} == {str(small_model_dir), "sample/base", "sample/lora"}
    assert [row["wer_normalised"] for row in rows] == sorted(row["wer_normalised"] for row in rows)
    assert len(read_rows(tmp_path / "sample/lora")) == 1
    assert json.loads((tmp_path / "sample/lora/config.json").read_text())["lora"]["rank"] == 8
    table = (tmp_path / "scoreboard.md").read_text()
    for row in rows:
        assert f"| {row['name']} | {row['wer_normalised']:.2f} | {row['wer']:.2f} | {row['description']} |" in table
    assert "Normalised: transformers BasicTextNormalizer(remove_diacritics=False)." in table
    capfd.readouterr()
    assert scoreboard(config, OPTIONS) == rows
    again = capfd.readouterr().out
    assert again.count("already trained") == 2
    assert "jax_train.evaluate" not in again


def test_scores_are_made_anew_for_other_settings_alone(tmp_path: Path, monkeypatch):
    made = []

    def evaluated(_title: str, _module: str, *words: object):
        made.append(words)
        (tmp_path / "scores.json").write_text(json.dumps({"settings": {"limit": words[1], "out": str(tmp_path)}}))

    monkeypatch.setattr("jax_train.stages.stage", evaluated)
    for limit in (3, 3, 2):
        assert score_once("a", {"limit": limit, "out": tmp_path}, "--batch-size", 1)["settings"]["limit"] == limit
    assert made == [("--limit", limit, "--out", tmp_path, "--batch-size", 1) for limit in (3, 2)]


def test_an_unknown_preset_is_said_before_anything_runs(tmp_path: Path):
    with pytest.raises(UserError, match="--preset sample/bas: there are "):
        scoreboard(ScoreboardConfig(presets=("sample/base", "sample/bas"), shards=tmp_path), [])
