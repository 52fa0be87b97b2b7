"""The whole way in a few minutes: sample corpus → features → fine-tuned Whisper base → folder → transcript.

Each stage is the command a user would run, in a process of its own; they meet in files under one folder. Running it
again continues where it was stopped.
"""

import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import tyro

from data.errors import command
from jax_train.runlog import write_json
from jax_train.stages import stage

CORPUS = Path("sample/it")
TRAINING = ["--batch-size", 2, "--learning-rate", 3e-5]
"""Small batches for many steps, at a little over base's usual rate."""


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Fine-tunes Whisper base on the sample corpus, and shows what that changed."""

    folder: Path = Path("demo")
    """Where everything is written."""
    test_clips: int = 83
    """How many of the 83 held out are scored, before and after."""
    steps: int = 12
    """Steps of training; 12 are two thirds of a pass over 15 minutes of speech."""


def held_out_clip() -> tuple[Path, str]:
    """The longest sentence of the test split: its recording and text."""
    with (CORPUS / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    row = max(rows, key=lambda row: (len(row["sentence"]), row["path"]))
    return CORPUS / "clips" / row["path"], row["sentence"]


def read(path: Path) -> dict[str, Any]:
    """A JSON file of figures."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@command
def main() -> None:
    config = tyro.cli(DemoConfig)
    demo = config.folder
    shards, run, model_dir = demo / "shards", demo / "run", demo / "model"
    started = time.perf_counter()
    base = stage("weights", "jax_train.pretrained", "--cache", ".cache/models")
    features = ["--source", CORPUS, "--shards", shards, "--model", base]
    stage("featurize train, with an augmented copy", "data.featurize", *features, "--split", "train")
    stage("featurize test, as recorded", "data.featurize", *features, "--split", "test", "--recipe", "none")
    test = ["--shards", shards, "--split", "test", "--limit", config.test_clips, "--windows", "thinned"]
    stage("evaluate before", "jax_train.evaluate", "--model", base, *test, "--out", demo / "before")
    steps = ["--steps", config.steps, *TRAINING]
    stage("train", "jax_train.train", "--shards", shards, "--model", base, "--run", run, *steps)
    stage("evaluate after", "jax_train.evaluate", "--run", run, *test, "--out", demo / "after")
    stage("export", "jax_train.export", "--run", run, "--model-dir", model_dir)
    clip, sentence = held_out_clip()
    heard = stage("transcribe a recording it was not trained on", "serving.transcribe", "--model", model_dir, clip)
    before, after = read(demo / "before" / "scores.json"), read(demo / "after" / "scores.json")
    timing, training = read(shards / "train" / "timing.json"), read(run / "summary.json")
    summary = {
        "wer_before": before["wer_normalised"],
        "wer_after": after["wer_normalised"],
        "wer_before_as_written": before["wer"],
        "wer_after_as_written": after["wer"],
        "wer_normalisation": before["normaliser"],
        "test_clips": after["clips"],
        "featurize_x_realtime": timing["x_realtime"],
        "train_speech_seconds_per_second": training["speech_seconds_per_second"],
        "bytes_per_speech_second": timing["bytes_per_speech_second"],
        "model_dir": str(model_dir),
        "transcript": heard,
        "reference": sentence,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(demo / "summary.json", summary)
    print(table(summary))


def table(summary: dict[str, Any]) -> str:
    """The summary for people."""
    s = summary
    rows = [
        ("word error rate, normalised", f"{s['wer_before']:.1f} % → {s['wer_after']:.1f} %"),
        ("word error rate, as written", f"{s['wer_before_as_written']:.1f} % → {s['wer_after_as_written']:.1f} %"),
        ("measured on", f"{s['test_clips']} clips not trained on (the same two speakers), in thinned windows"),
        ("featurizing", f"{s['featurize_x_realtime']:.0f} seconds of speech per second"),
        ("training", f"{s['train_speech_seconds_per_second']:.1f} seconds of speech per second"),
        ("features on disk", f"{s['bytes_per_speech_second']:,.0f} bytes per second of speech"),
        ("said", s["reference"]),
        ("heard", s["transcript"]),
        ("the model", s["model_dir"]),
        ("took", f"{s['seconds']:.0f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {value}" for name, value in rows]
    return "\n" + "\n".join([*lines, "", "next: make serve"])


if __name__ == "__main__":
    main()
