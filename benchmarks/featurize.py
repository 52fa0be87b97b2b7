"""The featurizer: against its own kernels, against `datasets.map`, with augmentation, and over several workers.

`make bench-featurize`. Ours and the peer's take the same clips in one run on the same machine. Rates are clips per
second of one core, from processor time, so that another program beside it does no harm; medians of several rounds,
taken in turns.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import soundfile
import soxr
import tyro
from upath import UPath

from benchmarks.corpus import joined_corpus
from benchmarks.result import result_line
from data.augment import find_recipe
from data.featurize import FeaturizeConfig
from data.log_mel import SAMPLE_RATE, log_mel, quantize
from data.prepare import prepare
from data.shard_jobs import ShardJob, one_thread, write_shard
from jax_train.pretrained import fetch_base


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure the featurizer."""

    corpus: Path = Path(".cache/bench/joined")
    """Common Voice folder; made of the sample corpus's recordings if it is not there."""
    clips: int = 400
    """How many."""
    peer_clips: int = 60
    """The peer's share of them; it is slow."""
    rounds: int = 5
    workers: tuple[int, ...] = (1, 2, 4)


def main(config: BenchmarkConfig) -> None:
    """Print the figures."""
    corpus = joined_corpus(config.corpus, config.clips)
    model = str(fetch_base(Path(".cache/models")))
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(FeaturizeConfig(str(corpus), folder, model, recipe="none", limit=config.clips))
        clips = run.split.clips
        print(f"{len(clips)} clips, {run.speech_seconds / len(clips):.2f} s each")
        job = replace(
            run.jobs[0],
            path=UPath(folder) / "bench.tfrecord",
            clips=tuple(clips),
            tokenizer_file=UPath(run.tokenizer_file),
        )
        against_kernels(replace(job, clips=job.clips[:200]), config.rounds)
        ours, peer = against_peer(job, corpus, model, config)
        with_augmentation(job, config.rounds)
    over_workers(corpus, model, config)
    print(result_line("featurize", "clips per core-second", ours, peer))


def processor_seconds(work: Callable[[], object]) -> float:
    """Of this process, in `work`."""
    started = time.process_time()
    with one_thread():
        work()
    return time.process_time() - started


def in_turns(rounds: int, **works: Callable[[], object]) -> dict[str, float]:
    """Median processor seconds of each of `works`, a round of all after the other; the first round warms up."""
    taken = [{name: processor_seconds(work) for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(each[name] for each in taken) for name in works}


def kernels(job: ShardJob) -> None:
    """What cannot be left out: decode, resample, log-mel."""
    for clip in job.clips:
        audio_N, rate = soundfile.read(clip.audio.load(), dtype="float32")
        quantize(log_mel(soxr.resample(audio_N, rate, SAMPLE_RATE, quality="HQ"), job.n_mels))


def write(job: ShardJob) -> None:
    """A whole shard: the kernels and everything else."""
    write_shard(job, lambda *_: None)


def against_kernels(job: ShardJob, rounds: int) -> None:
    """Our job beside its own kernels, and what it leaves on disk."""
    taken = in_turns(3 * rounds, kernels=lambda: kernels(job), ours=lambda: write(job))
    result = write_shard(job, lambda *_: None)
    seconds = result.seconds
    for name, spent in taken.items():
        print(f"{name:>20}: {len(job.clips) / spent:6.0f} clips per core-second, {seconds / spent:6,.0f} × real time")
    print(f"ours / kernels: {taken['kernels'] / taken['ours']:.3f}")
    print(f"on disk: {result.bytes / seconds:,.0f} bytes per second of speech")


def against_peer(job: ShardJob, corpus: Path, model: str, config: BenchmarkConfig) -> tuple[float, float]:
    """`datasets.map` with one thread and with its default, beside our job on the same clips; our rate and its best."""
    job = replace(job, clips=job.clips[: config.peer_clips])
    ours = len(job.clips) / in_turns(config.rounds, ours=lambda: write(job))["ours"]
    rates = []
    for name, threads in (("OMP_NUM_THREADS=1", "1"), ("default threads", None)):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        environment |= {"OMP_NUM_THREADS": threads} if threads else {}
        command = [sys.executable, "-m", "benchmarks.featurize_peer", str(corpus), model, str(config.peer_clips)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peer = json.loads(found.stdout.splitlines()[-1])
        rate = peer["clips"] / peer["cpu"]
        wall, size = peer["clips"] / peer["wall"], peer["bytes"] / peer["clips"] / 1000
        print(f"datasets.map, {name}: {rate:.1f} clips per core-second, {wall:.1f} per second, {size:,.0f} kB a clip")
        print(f"ours / peer: {ours / rate:.1f}")
        rates.append(rate)
    return ours, max(rates)


def with_augmentation(job: ShardJob, rounds: int) -> None:
    """What one augmented copy costs, beside the clean clip's own cost."""
    for name, clips in (("standard", len(job.clips)), ("lab", 60)):
        fewer = replace(job, clips=job.clips[:clips])
        augmented = replace(fewer, recipe=find_recipe(name), copies=1)
        taken = in_turns(rounds, clean=partial(write, fewer), both=partial(write, augmented))
        clean, copy = (taken["clean"] / clips * 1000, (taken["both"] - taken["clean"]) / clips * 1000)
        print(f"{name}: {copy:.2f} ms more for a copy, clean clip {clean:.2f} ms; copy / clean: {copy / clean:.2f}")


def over_workers(corpus: Path, model: str, config: BenchmarkConfig) -> None:
    """The whole command, with its start, by number of workers; and the most memory a worker had."""
    for workers in config.workers:
        with tempfile.TemporaryDirectory() as folder:
            options = [f"--source={corpus}", f"--shards={folder}", f"--model={model}", f"--workers={workers}"]
            started = time.perf_counter()
            command = psutil.Popen(
                [sys.executable, "-m", "data.featurize", *options, f"--limit={config.clips}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            peak = watch_memory(command)
            wall = time.perf_counter() - started
            timing = json.loads((Path(folder) / "train" / "timing.json").read_text())
        print(
            f"{workers} workers, clean and standard: {wall:.1f} s with start, {timing['x_realtime']:,} × real time; "
            f"{peak['worker'] / 1e6:.0f} MB a worker, {peak['parent'] / 1e6:.0f} MB the parent"
        )


def watch_memory(command: psutil.Popen) -> dict[str, int]:
    """The largest resident set of `command` and of any of its workers until it ends."""
    peak = {"parent": 0, "worker": 0}
    while command.poll() is None:
        for process in (command, *command.children(recursive=True)):
            try:
                kind = "parent" if process.pid == command.pid else "worker"
                peak[kind] = max(peak[kind], process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    if command.returncode:
        raise RuntimeError(f"featurize ended with exit code {command.returncode}")
    return peak


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig, prog="python -m benchmarks.featurize"))
