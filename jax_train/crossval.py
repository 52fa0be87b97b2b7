"""The command that cross-validates: a run for each fold, scored on the clips it was not trained on.

Decision: each fold is the train and the evaluate command a user would run, in processes of their own, so that a killed
cross-validation is continued by running it again. Folds share no speaker unless asked. Reported are the mean and the
standard deviation over folds (n − 1), which says how far one split's score can be trusted, not how good a model is.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any, Literal

import tyro

from data.errors import UserError, command
from data.folds import Fold
from data.records import Shards
from jax_train.conditions import lacks
from jax_train.runlog import write_json
from jax_train.stages import score_once, stage

SCORES = ("wer_normalised", "wer", "cer_normalised", "cer")


@dataclasses.dataclass(frozen=True)
class CrossvalConfig:
    """Trains and scores once per fold. Options it does not know go to the train command."""

    shards: Path
    """Folder written by featurize."""
    out: Path
    """Folder for the folds' runs and crossval.json."""
    folds: int = 5
    """Parts of the split: each is left out once, and scored on."""
    by: Literal["speaker", "clip"] = "speaker"
    """What stays together in a fold."""
    split: str = "train"
    """Split to divide."""
    seed: int = 0
    """Draws the folds."""
    limit: int = 0
    """Score only so many clips of a fold; 0: all."""
    score_batch_size: int = 8
    """30 s windows at a time on each device when scoring."""


def crossval(config: CrossvalConfig, train_options: list[str]) -> dict[str, Any]:
    """Every fold's scores with their mean and deviation, as in crossval.json. Raises `UserError` as the commands do."""
    if config.folds < 2:
        raise UserError(f"--folds {config.folds}: at least 2")
    shards = Shards.open(config.shards, config.split)
    folds = [Fold(config.folds, number, config.by, config.seed) for number in range(1, config.folds + 1)]
    for fold in folds:
        fold.for_scoring(shards)  # too many folds are said before any is trained
    found = [one_fold(config, fold, train_options) for fold in folds]
    result: dict[str, Any] = {"folds": found, "by": config.by, "split": config.split}
    clean = shards.index["copy"] == 0
    unknown = int((shards.index["speaker"][clean] == "").sum()) if config.by == "speaker" else 0
    result["clips_of_unknown_speakers"] = unknown
    for name in SCORES:
        values = [scores[name] for scores in found]
        result[name] = {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
    result["lacks"] = list(dict.fromkeys(missing for scores in found for missing in scores["lacks"]))
    result["normaliser"] = found[0]["normaliser"]
    write_json(config.out / "crossval.json", result)
    return result


def one_fold(config: CrossvalConfig, fold: Fold, train_options: list[str]) -> dict[str, Any]:
    """Train without the fold and score on it, unless both are done; the scores."""
    run = config.out / f"fold-{fold.number}"
    place = {"shards": config.shards, "split": config.split, "run": run}
    left_out = ["--fold.of", fold.of, "--fold.number", fold.number, "--fold.by", fold.by, "--fold.seed", fold.seed]
    title = f"fold {fold.number} of {fold.of}"
    words = [word for name, value in place.items() for word in (f"--{name}", value)]
    stage(f"{title}: train", "jax_train.train", *words, *left_out, *train_options)
    scored = place | {"limit": config.limit, "out": run / "scores"}
    found = score_once(title, scored, *left_out, "--batch-size", config.score_batch_size)
    told = {"fold": fold.number, "lacks": lacks(found["settings"], fold_told=True)}
    return {name: found[name] for name in (*SCORES, "clips", "normaliser")} | told


def table(result: dict[str, Any]) -> str:
    """The result for people, as Markdown."""
    lines = ["| fold | clips | WER normalised | WER as written |", "| --- | --- | --- | --- |"]
    for fold in result["folds"]:
        lines.append(f"| {fold['fold']} | {fold['clips']} | {fold['wer_normalised']:.2f} | {fold['wer']:.2f} |")
    normal, written = (f"{result[name]['mean']:.2f} ± {result[name]['deviation']:.2f}" for name in SCORES[:2])
    lines.append(f"| mean ± deviation | {sum(fold['clips'] for fold in result['folds'])} | {normal} | {written} |")
    if result["lacks"]:
        lines += ["", f"Not the folds' scores: {'; '.join(result['lacks'])}."]
    if unknown := result["clips_of_unknown_speakers"]:
        lines += ["", f"Of {unknown} clips the speaker is unknown; each was taken for one of its own."]
    return "\n".join([*lines, "", f"Normalised: {result['normaliser']}."])


@command
def main() -> None:
    config, train_options = tyro.cli(CrossvalConfig, return_unknown_args=True)
    result = crossval(config, train_options)
    print(f"\n{table(result)}\n{config.out / 'crossval.json'}")


if __name__ == "__main__":
    main()
