"""What only a GPU or TPU can show of the trainer, in one command that ends in time: for machines lent by the minute.

One after another, each in a process of its own, until the minutes are used up: a training step of ours, packed and
padded, beside PyTorch's in bfloat16, steps of larger models alone, and the input pipeline, which has to be faster than
the fastest of them. What each printed is kept in a file that is complete after every one of them.

    make bench-accelerator [ARGS="--minutes 8"]
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result import result_line
from data.errors import command
from jax_train.runlog import write_json

HALF = "--compute-dtype bfloat16 --turns 1 --steps 8"
WORTH_MOST_FIRST = (
    f"train --model small --batch-size 64 {HALF}",
    "step --model small --batch-size 128",
    "step --model medium --batch-size 48",
    "step --model large-v3-turbo --batch-size 32",
    "step --model tiny --batch-size 256",
    "input --clips 4000 --workers 0 4 8 --batch-size 64 --seconds 4",
    "step --model small --batch-size 64 --profile",
    f"train --model small --batch-size 16 {HALF}",
    f"train --model medium --batch-size 16 {HALF}",
    "step --model large-v3 --batch-size 16 --remat feed_forward",
)


@dataclasses.dataclass(frozen=True)
class AcceleratorBenchmark:
    """Which benchmarks, and for how long."""

    minutes: float = 8.0
    """No benchmark is started after this, and the one that runs then is ended."""
    runs: tuple[str, ...] = WORTH_MOST_FIRST
    """Each the name of a benchmark and its options."""
    out: Path = Path("build/accelerator.json")
    """What each printed, or why it ended without a result."""


def run_one(words: str, seconds: float) -> dict[str, Any]:
    """The result of a benchmark that has so many seconds."""
    name, *options = words.split()
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            printed, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too, holds the accelerator
            return {"run": words, "failed": f"not done within {seconds:.0f} s"}
    found = {"run": words, "seconds": time.monotonic() - started}
    if process.returncode:
        return found | {"failed": said.strip().splitlines()[-1:]}
    print(printed, flush=True)
    return found | {"printed": printed, "result": json.loads(printed.splitlines()[-1])}


@command
def main() -> None:
    config = tyro.cli(AcceleratorBenchmark, description=__doc__)
    ends = time.monotonic() + 60 * config.minutes
    found: list[dict[str, Any]] = []
    for words in config.runs:
        left = ends - time.monotonic()
        found.append(run_one(words, left) if left > 0 else {"run": words, "failed": "no time left"})
        if "failed" in found[-1]:
            print(f"{words}: {found[-1]['failed']}", file=sys.stderr, flush=True)
        write_json(config.out, {"runs": found})
    done = [one for one in found if "result" in one]
    first: dict[str, Any] = done[0]["result"] if done else {"ours": 0.0, "peer": None}
    print(result_line("accelerator", "runs done", len(done), None, more={"first": first, "out": config.out}))


if __name__ == "__main__":
    main()
