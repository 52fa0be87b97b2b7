"""The input pipeline alone: shards to batches on the host, with 0, 1 and 2 Grain worker processes.

The shards are generated: random features at Common Voice's lengths, which cost as much to read as real ones, though
they lie in the page cache. Each setting runs in a process of its own, whose memory, workers included, is watched from
outside. Windows per second are to be held against the fastest train step measured; the first batches, which start the
workers, are not counted.

    make bench-input [ARGS="--clips 5000"]
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tyro
from upath import UPath

from benchmarks.result import result_line
from data.errors import command
from data.log_mel import N_FRAMES
from data.records import Record, Shards, ShardWriter
from data.set_files import FORMAT_VERSION, MANIFEST, write_index
from jax_train.batches import Windows, batches, plan_run
from jax_train.config import TrainConfig
from jax_train.windows import Prompt, plan_epoch

MEAN_SECONDS, DEVIATION = 5.36, 5.36 / 3  # Common Voice 11 Italian's clips; the deviation is a guess
TOKENS_PER_SECOND = 2.5
PROMPT = Prompt(previous=50_361, start=50_258, language=50_274, transcribe=50_359, no_timestamps=50_363, end=50_257)
SPEAKERS = 100
WARM_UP = 8  # batches
MB = 1_000_000


@dataclasses.dataclass(frozen=True)
class InputBenchmark:
    """Records, windows and seconds of speech per second, and memory, by number of workers."""

    clips: int = 10_000
    """Generated clips, 43 kB each."""
    plan_clips: int = 170_000
    """Clips of the epoch whose planning is timed; they have an index and no shards."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Grain worker processes; 0: one thread of the command itself."""
    batch_size: int = 16
    seconds: float = 10.0
    """Time over which each setting is measured, unless the epochs end before."""
    epochs: int = 20
    measured: Path | None = None
    """Set by the benchmark itself: shards to read in this process, with the first of `workers`."""


def lengths(clips: int) -> dict[str, np.ndarray]:
    """Index columns of clips as long as Common Voice's."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.normal(MEAN_SECONDS, DEVIATION, clips), 1.0, 20.0)
    return {
        "id": np.array([f"generated_{number:06d}.mp3" for number in range(clips)], object),
        "copy": np.zeros(clips, np.int32),
        "frames": np.ceil(seconds * 100 + 1.25).astype(np.int32),
        "tokens": np.maximum(1, np.round(seconds * TOKENS_PER_SECOND)).astype(np.int32),
        "seconds": seconds.astype(np.float32),
    }


def generate(folder: Path, clips: int, per_shard: int = 2500, n_mels: int = 80) -> None:
    """A split `train` of random features in `folder`."""
    split = UPath(folder) / "train"
    split.mkdir(parents=True)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (4000, n_mels), np.uint8)
    index, parts, shards = lengths(clips), [], []
    for number, first in enumerate(range(0, clips, per_shard)):
        with ShardWriter(split / f"{number:05d}.tfrecord") as shard:
            for row in range(first, min(first + per_shard, clips)):
                start = int(rng.integers(0, 1000))
                features = noise[start : start + int(index["frames"][row])]
                tokens = tuple(rng.integers(300, 50_000, int(index["tokens"][row])).tolist())
                speaker = f"speaker {row % SPEAKERS}"
                shard.write(Record(index["id"][row], 0, features, 1.0, "", tokens, speaker, index["seconds"][row]))
        parts.append(shard.rows | {"shard": [number] * len(shard.rows["id"])})
        shards.append({"file": shard.path.name, "bytes": shard.size, "sha256": shard.sha256})
    write_index(split, parts)
    manifest = {"format_version": FORMAT_VERSION, "records": clips, "shards": shards, "features": {"n_mels": n_mels}}
    (split / MANIFEST).write_text(json.dumps(manifest))


def plan_seconds(config: InputBenchmark) -> tuple[float, float]:
    """Seconds to plan an epoch, and how full its windows are, those of one clip left out."""
    index = lengths(config.plan_clips)
    settings = TrainConfig(shards=Path(), run=Path(), epochs=1, batch_size=config.batch_size)
    started = time.perf_counter()
    epoch = plan_epoch(index, seed=0, epoch=0, windows="packed", timestamps=0.5, single=settings.single)
    taken = time.perf_counter() - started
    packed = [rows for rows in epoch.rows if len(rows) > 1]
    return taken, float(index["frames"][np.concatenate(packed)].sum()) / (len(packed) * N_FRAMES)


def measure(config: InputBenchmark, shards_dir: Path) -> dict[str, float]:
    """Rates of reading the batches of `shards_dir` in this process with the first of `config.workers`."""
    shards = Shards.open(shards_dir, "train")
    settings = TrainConfig(shards=shards_dir, run=Path(), epochs=config.epochs, batch_size=config.batch_size)
    plan = plan_run(shards.index, settings)
    iterator = batches(Windows(shards, plan, PROMPT), config.workers[0])
    for _ in range(WARM_UP):
        next(iterator)
    step, started = WARM_UP, time.perf_counter()
    while time.perf_counter() < started + config.seconds and step < plan.steps:
        next(iterator)
        step += 1
    taken = time.perf_counter() - started
    rows = np.concatenate([plan.rows_of_step(done) for done in range(WARM_UP, step)])
    return {
        "records": len(rows) / taken,
        "windows": (step - WARM_UP) * config.batch_size / taken,
        "speech_seconds": float(shards.index["seconds"][rows].sum()) / taken,
    }


def watched(config: InputBenchmark, shards_dir: Path, workers: int) -> dict[str, float]:
    """`measure` in a process of its own, with the most memory that it and its workers had together."""
    options = [f"--measured={shards_dir}", f"--workers={workers}", f"--seconds={config.seconds}"]
    process = psutil.Popen(
        [sys.executable, "-m", "benchmarks.input", *options, f"--batch-size={config.batch_size}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    own = with_files = 0
    while process.poll() is None:
        sizes = [memory(each.pid) for each in (process, *process.children(recursive=True))]
        own, with_files = max(own, sum(size[0] for size in sizes)), max(with_files, sum(size[1] for size in sizes))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{workers} workers: ended with exit code {process.returncode}")
    found: dict[str, float] = json.loads(process.stdout.read().splitlines()[-1])
    return found | {"memory_mb": own / MB, "memory_with_files_mb": with_files / MB}


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process that no file holds, and all of them; what several share is divided between them. Linux."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1024 * (kib["Pss_Anon"] + kib["Pss_Shmem"]), 1024 * kib["Pss"]


@command
def main() -> None:
    config = tyro.cli(InputBenchmark)
    if config.measured:
        print(json.dumps(measure(config, config.measured)))
        return
    seconds, filled = plan_seconds(config)
    print(f"plan of {config.plan_clips:,} clips: {seconds:.2f} s; windows of several clips {filled:.2%} full")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), config.clips)
        for workers in config.workers:
            found[workers] = watched(config, Path(folder), workers)
            one = found[workers]
            print(
                f"{workers} workers: {one['records']:,.0f} records, {one['windows']:,.0f} windows, "
                f"{one['speech_seconds']:,.0f} seconds of speech per second; {one['memory_mb']:,.0f} MB, "
                f"{one['memory_with_files_mb']:,.0f} MB with libraries and shards",
                flush=True,
            )
    result = {"plan_seconds": seconds, "filled": filled, "by_workers": found}
    print(result_line("input", "windows/s", max(one["windows"] for one in found.values()), None, more=result))


if __name__ == "__main__":
    main()
