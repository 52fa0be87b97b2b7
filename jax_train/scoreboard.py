"""The command that runs a list of presets on the same data and writes the table: model, WER, description.

Decision: each line is the train and the evaluate command a user would run, in processes of their own; a killed
scoreboard is continued by running it again, and a preset added later costs its own run alone. The model that all start
from is scored first: a fine-tune is judged by what it changed.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from data.errors import UserError, command
from jax_train.conditions import lacks
from jax_train.presets import Preset, find_preset
from jax_train.runlog import SUMMARY, write_json
from jax_train.stages import score_once, stage

FIGURES = ("wer", "wer_normalised", "cer", "cer_normalised", "clips", "normaliser")
INDEX = "index_sha256"  # tells one test set from another


@dataclasses.dataclass(frozen=True)
class ScoreboardConfig:
    """Trains and scores a list of presets. Options it does not know go to every train command, after the preset's."""

    presets: tuple[str, ...]
    """Names of presets, see `jax_train.presets`."""
    shards: Path
    """Folder written by featurize."""
    out: Path = Path("scoreboard")
    """Folder for the runs, scoreboard.json and scoreboard.md."""
    model: str = ""
    """Whisper folder or hub name that all start from, in place of each preset's own."""
    split: str = "train"
    """Split to train on."""
    test_split: str = "test"
    """Split to score on."""
    limit: int = 0
    """Score only its first clips; 0: all."""
    score_batch_size: int = 8
    """30 s windows at a time on each device when scoring."""


def scoreboard(config: ScoreboardConfig, train_options: list[str]) -> list[dict[str, Any]]:
    """The table's lines, the lowest normalised WER first, as in scoreboard.json. Raises `UserError` as the commands."""
    if not config.presets:
        raise UserError("--presets: name at least one, for example sample/base")
    presets = {name: find_preset(name) for name in config.presets}
    models = dict.fromkeys(config.model or preset.settings["model"] for preset in presets.values())
    rows = [before(config, model) for model in models]
    rows += [line(config, name, preset, train_options) for name, preset in presets.items()]
    if len({(row["clips"], row[INDEX]) for row in rows}) > 1:
        raise UserError(f"{config.shards}: the test set became another meanwhile; run the same command again")
    rows.sort(key=lambda row: float(row["wer_normalised"]))
    write_json(config.out / "scoreboard.json", {"split": config.test_split, "rows": rows})
    (config.out / "scoreboard.md").write_text(table(rows, config.test_split) + "\n", encoding="utf-8")
    return rows


def before(config: ScoreboardConfig, model: str) -> dict[str, Any]:
    """The score of a model that runs start from, in a folder named by all of its path: two may share the last part."""
    scores = _score(config, f"before/{model.replace('/', '--')}", model=model)
    return {"name": model, "description": "Before training.", **scores}


def line(config: ScoreboardConfig, name: str, preset: Preset, train_options: list[str]) -> dict[str, Any]:
    """Train and score one preset, unless both are done."""
    run = config.out / name
    start = ["--preset", name, *(["--model", config.model] if config.model else [])]
    place = ["--shards", config.shards, "--split", config.split, "--run", run]
    stage(f"{name}: train", "jax_train.train", *start, *place, *train_options)
    summary = json.loads((run / SUMMARY).read_text())
    found = _score(config, name, run=run)
    return {"name": name, "description": preset.doc, "steps": summary["step"], "loss": summary["loss"]} | found


def _score(config: ScoreboardConfig, name: str, **model_or_run: object) -> dict[str, Any]:
    place = {"shards": config.shards, "split": config.test_split, "limit": config.limit}
    settings = model_or_run | place | {"out": config.out / name / "scores"}
    found = score_once(name, settings, "--batch-size", config.score_batch_size)
    told = {"lacks": lacks(found["settings"]), INDEX: found["data"].get(INDEX)}
    return {figure: found[figure] for figure in FIGURES} | told


def table(rows: list[dict[str, Any]], split: str) -> str:
    """The scoreboard as Markdown, its normalisation stated."""
    lines = [f"| model | WER normalised | WER as written | description ({split}, {rows[0]['clips']} clips) |"]
    lines.append("| --- | --- | --- | --- |")
    lines += [f"| {r['name']} | {r['wer_normalised']:.2f} | {r['wer']:.2f} | {r['description']} |" for r in rows]
    if rows[0]["lacks"]:
        lines += ["", f"Not the split's score: {'; '.join(rows[0]['lacks'])}."]
    return "\n".join([*lines, "", f"Normalised: {rows[0]['normaliser']}."])


@command
def main() -> None:
    config, train_options = tyro.cli(ScoreboardConfig, return_unknown_args=True)
    rows = scoreboard(config, train_options)
    print(f"\n{table(rows, config.test_split)}\n{config.out / 'scoreboard.md'}")


if __name__ == "__main__":
    main()
