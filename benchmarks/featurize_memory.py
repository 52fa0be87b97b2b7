"""Memory over the length of a corpus: the largest resident set of a featurize worker, and of the command itself.

`make bench-featurize_memory`. Clips are short noise, each different, so that 100,000 rows take minutes, not an
hour; a worker holds one clip at a time, so only their number could matter.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile
import tyro

from benchmarks.featurize import watch_memory
from benchmarks.result import result_line
from jax_train.pretrained import fetch_base


@dataclass(frozen=True)
class MemoryBenchmark:
    """Featurize corpora of several lengths."""

    rows: tuple[int, ...] = (1_000, 10_000, 100_000)
    seconds: float = 0.3
    """Of each clip."""
    workers: int = 2


def main(config: MemoryBenchmark) -> None:
    """Print the peaks."""
    model = fetch_base(Path(".cache/models"))
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "it"
        made, peaks = 0, {}
        for rows in config.rows:
            extend(corpus, made, rows, config.seconds)
            made = rows
            shards = Path(folder) / f"shards-{rows}"
            options = {"source": corpus, "shards": shards, "model": model, "workers": config.workers}
            command = [
                sys.executable,
                "-m",
                "data.featurize",
                *(f"--{name}={value}" for name, value in options.items()),
            ]
            started = time.perf_counter()
            peak = watch_memory(psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wall = time.perf_counter() - started
            peaks[rows] = peak["worker"] / 1e6
            records = json.loads((shards / "train" / "manifest.json").read_text())["records"]
            print(
                f"{rows:>7,} rows, {records:>7,} records: {peak['worker'] / 1e6:.0f} MB a worker, "
                f"{peak['parent'] / 1e6:.0f} MB the command, {wall:.0f} s",
                flush=True,
            )
    most, least = peaks[max(peaks)], peaks[min(peaks)]
    print(result_line("featurize_memory: most rows, fewest", "MB a worker", most, least, less_is_better=True))


def extend(corpus: Path, first: int, last: int, seconds: float) -> None:
    """Clips `first` to `last` of `corpus`, and its TSV with all of them."""
    (corpus / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        noise_N = np.random.default_rng(number).normal(0, 3000, int(16_000 * seconds)).astype(np.int16)
        soundfile.write(corpus / "clips" / f"{number:06d}.wav", noise_N, 16_000)
    lines = ["client_id\tpath\tsentence\tlocale"]
    lines += [f"speaker-{number % 1000:0120d}\t{number:06d}.wav\tFrase numero {number}.\tit" for number in range(last)]
    (corpus / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(MemoryBenchmark, prog="python -m benchmarks.featurize_memory"))
