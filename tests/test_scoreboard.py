"""The scoreboard: a line for each preset and for what they start from, by the commands people run."""

import json
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from jax_train.presets import Preset
from jax_train.runlog import read_rows
from jax_train.scoreboard import ScoreboardConfig, scoreboard
from jax_train.scores_folder import weights_of
from jax_train.stages import score_once
from tests.conftest import thorough

OPTIONS = ["--batch-size", "8", "--steps", "1", "--learning-rate", "1e-3", "--compute-dtype", "float32"]


@pytest.mark.usefixtures("two_devices")
def test_models_and_presets_are_scored_in_folders_of_their_own_and_stand_in_the_table(
    small_shards: Path, terse_model_dir: Path, tmp_path: Path, commands_here: list[str], monkeypatch
):
    """The whole of it in this process: two presets that start from two models of one name."""
    other = tmp_path / "other" / terse_model_dir.name
    shutil.copytree(terse_model_dir, other)
    presets = {
        name: Preset(f"From {name}.", 16, {"model": str(model), "batch_size": 2, "steps": 1, "learning_rate": 1e-3})
        for name, model in (("made/terse", terse_model_dir), ("made/other", other))
    }
    monkeypatch.setattr("jax_train.presets.PRESETS", presets)
    config = ScoreboardConfig(tuple(presets), small_shards, tmp_path / "out", limit=1, score_batch_size=1)
    rows = scoreboard(config, [])
    assert sorted(commands_here) == ["jax_train.evaluate"] * 4 + ["jax_train.train"] * 2
    assert {row["name"] for row in rows} == {str(terse_model_dir), str(other), *presets}
    assert [row["wer_normalised"] for row in rows] == sorted(row["wer_normalised"] for row in rows)
    scored = sorted(path.parent.parent.relative_to(tmp_path / "out") for path in tmp_path.rglob("scores.json"))
    assert len(scored) == len(set(scored)) == 4
    text = (tmp_path / "out" / "scoreboard.md").read_text()
    for row in rows:
        assert f"| {row['name']} | {row['wer_normalised']:.2f} | {row['wer']:.2f} | {row['description']} |" in text
        assert row["lacks"] == ["the split's first 1 clips alone"]
    assert "\nNot the split's score: the split's first 1 clips alone.\n" in text
    assert text.endswith("Normalised: transformers BasicTextNormalizer(remove_diacritics=False).\n")
    commands_here.clear()
    assert scoreboard(config, []) == rows
    assert commands_here == ["jax_train.train"] * 2  # which find their runs done
    found = iter([{**rows[0], "index_sha256": name} for name in "abab"])
    monkeypatch.setattr("jax_train.scoreboard._score", lambda *_, **__: next(found))
    with pytest.raises(UserError, match="the test set became another meanwhile; run the same command again"):
        scoreboard(config, [])
    assert (tmp_path / "out" / "scoreboard.md").read_text() == text


def test_presets_are_trained_from_the_model_given_on_one_split_scored_on_another_and_the_best_stands_first(
    tmp_path: Path, monkeypatch
):
    presets = {name: Preset(f"{name}.", 16, {"model": f"of-{name}"}) for name in ("one", "two")}
    trained, scored, rates = [], [], iter([(20.0, 30.0), (12.0, 25.0), (9.0, 40.0)])

    def train(_title: str, _module: str, *words: object):
        trained.append(dict(zip(map(str, words[::2]), words[1::2], strict=True)))
        (tmp_path / str(trained[-1]["--preset"])).mkdir()
        (tmp_path / str(trained[-1]["--preset"]) / "summary.json").write_text('{"step": 7, "loss": 1.5}')

    def score(_title: str, settings: dict[str, object], *_words: object):
        scored.append(settings)
        normal, written = next(rates)
        made = {"wer": written, "wer_normalised": normal, "cer": 5.0, "cer_normalised": 4.0, "clips": 9}
        return made | {"normaliser": "none", "settings": {}, "data": {"index_sha256": "same"}}

    monkeypatch.setattr("jax_train.presets.PRESETS", presets)
    monkeypatch.setattr("jax_train.scoreboard.stage", train)
    monkeypatch.setattr("jax_train.scoreboard.score_once", score)
    config = ScoreboardConfig(tuple(presets), Path("shards"), tmp_path, model="mine", split="dev", test_split="quiz")
    rows = scoreboard(config, ["--steps", "7"])
    assert [(row["name"], row.get("steps"), row.get("loss")) for row in rows] == [
        ("two", 7, 1.5), ("one", 7, 1.5), ("mine", None, None),
    ]  # fmt: skip
    assert [[words[f"--{name}"] for name in ("preset", "model", "split", "steps")] for words in trained] == [
        ["one", "mine", "dev", "7"], ["two", "mine", "dev", "7"],
    ]  # fmt: skip
    assert [settings["split"] for settings in scored] == ["quiz"] * 3
    assert [settings.get("run") for settings in scored] == [None, tmp_path / "one", tmp_path / "two"]
    assert "| two | 9.00 | 40.00 | two. |\n" in (tmp_path / "scoreboard.md").read_text()


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


def test_scores_of_other_clips_or_of_another_model_at_the_same_path_are_made_anew(tmp_path: Path, monkeypatch):
    """By what manifest, model folder and summary are now; only the last set of settings is of a run."""
    made, manifest, model = [], tmp_path / "shards" / "test" / "manifest.json", tmp_path / "model"
    for folder in (manifest.parent, model, tmp_path / "run"):
        folder.mkdir(parents=True)

    def evaluated(_title: str, _module: str, *words: object):
        settings = dict(zip((str(word)[2:] for word in words[::2]), map(str, words[1::2]), strict=True))
        facts = {"data": json.loads(manifest.read_text()), "weights": weights_of(model), "settings": settings}
        Path(settings["out"], "scores.json").write_text(json.dumps(facts))
        made.append("run" if "run" in settings else "model")

    def changes(path: Path, text: str, *whose: dict[str, object]):
        path.write_text(text)
        for settings in whose * 2:
            score_once("a", settings | {"shards": tmp_path / "shards", "split": "test"})

    monkeypatch.setattr("jax_train.stages.stage", evaluated)
    of_model, of_run = {"model": model, "out": model}, {"run": tmp_path / "run", "out": tmp_path / "run"}
    weights = model / "model.safetensors"
    changes(manifest, '{"index_sha256": "one"}', of_model)
    changes(manifest, '{"index_sha256": "two"}', of_model)
    changes(weights, "other weights", of_model)
    assert made == ["model"] * 3
    changes(manifest, '{"index_sha256": "two"}', of_run)
    changes(weights, "more other weights", of_run)  # none of the run's
    changes(manifest, '{"index_sha256": "three"}', of_run)
    assert made[3:] == ["run"] * 2


def test_an_unknown_preset_is_said_before_anything_runs(tmp_path: Path):
    with pytest.raises(UserError, match="--preset sample/bas: there are "):
        scoreboard(ScoreboardConfig(presets=("sample/base", "sample/bas"), shards=tmp_path), [])
