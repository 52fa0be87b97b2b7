"""What lowers the WER: one change at a time to a short fine-tuning of Whisper base on the sample corpus.

Every arm is the featurize, train and evaluate command a user would run, with one thing changed from the first; scored
are the corpus's test clips, and each arm is compared with the first one by a paired bootstrap over clips. A p-value of
0.05 is reached by one arm in twenty by chance alone: with so many arms, one is to be expected. All arms see the same
number of packed windows but where the name says otherwise. A killed run is continued by running it again.

    make bench-improving [ARGS="--arms 'as the demo' 'LoRA, rank 8' --test-clips 83"]
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result import result_line
from data.errors import UserError, command
from jax_train.runlog import SUMMARY, write_json
from jax_train.stages import stage

FIRST = "as the demo"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One experiment: what differs from the first."""

    train: str = ""
    """Options of the train command; the last of two equal options counts."""
    featurize: str = "--recipe standard --copies 1"
    """Options of the featurize command."""
    average: int = 0
    """Score the mean of so many checkpoints, the newest."""


ARMS = {
    FIRST: Arm(),
    # the data
    "no augmented copy": Arm(featurize="--recipe none"),
    "three augmented copies": Arm(featurize="--recipe standard --copies 3"),
    "the lab's recipe": Arm(featurize="--recipe lab --copies 1"),
    "half of the clips, as many windows": Arm(featurize="--recipe standard --copies 1 --limit 200"),
    "half of the clips and of the windows": Arm("--steps 6", "--recipe standard --copies 1 --limit 200"),
    "twice the windows": Arm("--steps 24"),
    # the windows
    "padded windows, 16 a step": Arm("--windows padded --batch-size 16"),
    "no timestamps": Arm("--timestamps 0"),
    "all windows with timestamps": Arm("--timestamps 1"),
    # the model
    "a third of the learning rate": Arm("--learning-rate 1e-5"),
    "three times the learning rate": Arm("--learning-rate 9e-5"),
    "weight decay 0.1": Arm("--weight-decay 0.1"),
    "encoder frozen": Arm("--freeze model.encoder.*"),
    "LoRA, rank 8": Arm("--lora.rank 8 --learning-rate 3e-4"),
    "LoRA, rank 32": Arm("--lora.rank 32 --learning-rate 3e-4"),
    "SpecAugment": Arm("--spec-augment.mask-time-prob 0.05 --spec-augment.mask-feature-prob 0.05"),
    "mean of the last three checkpoints": Arm("--save-steps 2 --keep 3", average=3),
}


@dataclasses.dataclass(frozen=True)
class ImprovingBenchmark:
    """Fine-tunes once per arm."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Which of them; the first is always run, as the others are compared with it."""
    test_clips: int = 0
    """Score only the first test clips; 0: all."""
    seed: int = 0
    """Of training: order of clips and windows."""
    steps: int = 12
    """Steps of two packed windows; twelve are two thirds of a pass."""
    folder: Path = Path("build/improving")
    """Where everything is written, and found again."""
    corpus: Path = Path("sample/it")


def run_arm(config: ImprovingBenchmark, name: str, base: str) -> dict[str, Any]:
    """Featurize, train and score one arm, unless it is done; its figures."""
    arm = ARMS[name]
    shards = config.folder / "shards" / "_".join(word.strip("-") for word in arm.featurize.split())
    run = config.folder / f"seed {config.seed}" / name
    source = ["--source", config.corpus, "--shards", shards, "--model", base]
    stage(f"{name}: featurize", "data.featurize", *source, "--split", "train", *arm.featurize.split())
    start = ["--batch-size", 2, "--steps", config.steps, "--learning-rate", 3e-5, "--seed", config.seed]
    place = ["--shards", shards, "--model", base, "--run", run]
    stage(f"{name}: train", "jax_train.train", *place, *start, *arm.train.split())
    scored = run
    if arm.average:
        scored = run.with_name(f"{name}, averaged")
        if not scored.exists():
            stage(f"{name}: average", "jax_train.average", "--run", run, "--out", scored, "--last", arm.average)
    found = score(config, name, base, "--run", scored)
    summary = json.loads((run / SUMMARY).read_text())
    return {**found, "steps": summary["step"], "speech_seconds_per_second": summary["speech_seconds_per_second"]}


def score(config: ImprovingBenchmark, name: str, base: str, *model_or_run: object) -> dict[str, Any]:
    """The figures of a model or run on the test clips, and how it differs from the first arm."""
    shards = config.folder / "shards" / "test"
    source = ["--source", config.corpus, "--shards", shards, "--model", base]
    stage("the test clips: featurize", "data.featurize", *source, "--split", "test", "--recipe", "none")
    out = config.folder / f"seed {config.seed}" / "scores" / name
    if not (out / "scores.json").is_file():
        place = ["--shards", shards, "--out", out, "--limit", config.test_clips, "--report-clips", 0]
        stage(f"{name}: score", "jax_train.evaluate", *model_or_run, *place)
    found = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    row = {figure: found[figure] for figure in ("wer_normalised", "wer", "clips", "normaliser")}
    first = out.with_name(FIRST)
    if name != FIRST and first.is_dir():
        compared = out.with_name(f"{name}, compared")
        pair = ["--a", first, "--b", out, "--out", compared, "--report-clips", 0]
        stage(f"{name}: compare", "jax_train.compare", *pair)
        row["difference"] = json.loads((compared / "compare.json").read_text(encoding="utf-8"))["over_clips"][
            "wer_normalised"
        ]
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: WERs, and the difference to the first arm with its interval."""
    lines = ["| arm | WER normalised | less the first's, 95 % interval | p | WER as written |", "|" + " --- |" * 5]
    for name, row in rows.items():
        d = row.get("difference")
        by = (
            f"{d['difference']:+.2f} ({d['interval'][0]:+.2f} to {d['interval'][1]:+.2f}) | {d['p_value']:.3f}"
            if d and d["interval"]  # which so few clips as five do not give
            else " | "
        )
        lines.append(f"| {name} | {row['wer_normalised']:.2f} | {by} | {row['wer']:.2f} |")
    return "\n".join(lines)


@command
def main() -> None:
    config = tyro.cli(ImprovingBenchmark, description=__doc__)
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise UserError(f"--arms {unknown}: there are {', '.join(ARMS)}")
    base = stage("weights", "jax_train.pretrained", "--cache", ".cache/models")
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys((FIRST, *config.arms)):
        rows[name] = run_arm(config, name, base)
        write_json(config.folder / f"seed {config.seed}" / "improving.json", rows)
    rows["before training"] = score(config, "before training", base, "--model", base)
    write_json(config.folder / f"seed {config.seed}" / "improving.json", rows)
    print(f"\n{table(rows)}\n")
    ours, before = (rows[name]["wer_normalised"] for name in (FIRST, "before training"))
    print(result_line("improving", "% WER normalised", ours, before, less_is_better=True, more={"arms": rows}))


if __name__ == "__main__":
    main()
