"""A training step alone: its seconds and MFU while batches wait on the device, its memory, and its slowest operations.

What `benchmarks/train.py` measures with the input pipeline and beside PyTorch, taken apart: it says what bounds a step
on a GPU. MFU as there. `--profile` adds its slowest operations, as of a run (`jax_train/trace.py`).

    make bench-step [ARGS="--model small --batch-size 64 --profile"]
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from benchmarks.input import generate
from benchmarks.result import result_line
from benchmarks.train import GB, TrainBenchmark, forward_flops, peak_flops, prepare
from data.errors import command
from data.records import Shards
from jax_train.config import PUBLISHED, compilation_cache
from jax_train.layers import Remat
from jax_train.precision import suited
from jax_train.step import TrainState
from jax_train.trace import newest, table
from jax_train.windows import IGNORE

DISTINCT = 4  # batches, taken in turn
PROFILED = 2  # steps


@dataclasses.dataclass(frozen=True)
class StepBenchmark:
    """Seconds, MFU and memory of our step."""

    model: str = "small"
    """Published size; random weights."""
    batch_size: int = 64
    windows: Literal["packed", "padded"] = "packed"
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """By default what suits the device."""
    remat: Remat = "none"
    clips: int = 3000
    """Generated clips, 43 kB each."""
    steps: int = 20
    """Steps on end that are timed, after one: long enough for a GPU to lower its clock if it has to."""
    profile: bool = False
    """List the slowest operations too."""


def profile(run: Callable[[], object]) -> str:
    """The slowest operations of `run`, which takes `PROFILED` steps; on a GPU they are its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            run()
        return table(newest(Path(folder))[1], PROFILED)


def measure(config: StepBenchmark, shards: Shards) -> dict[str, Any]:
    """The figures, and the slowest operations if they are asked for."""
    device, peak = peak_flops()
    dtype = config.compute_dtype or suited(jax.devices()[0])
    training = TrainBenchmark(config.model, config.batch_size, dtype, config.remat)
    step, state, ahead, _ = prepare(training, shards, config.windows, steps=DISTINCT)
    waiting = [ahead.take()[0] for _ in range(DISTINCT)]
    started = time.perf_counter()
    compiled = step.lower(state, waiting[0]).compile()
    compiling = time.perf_counter() - started
    state, _ = jax.block_until_ready(compiled(state, waiting[0]))

    def steps(state: TrainState, count: int) -> tuple[TrainState, float]:
        started = time.perf_counter()
        for batch in itertools.islice(itertools.cycle(waiting), count):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        return state, (time.perf_counter() - started) / count

    state, seconds = steps(state, config.steps)
    tokens = np.mean([(np.asarray(batch.labels_L) != IGNORE).sum() for batch in waiting]) / config.batch_size
    flops = 3 * config.batch_size * forward_flops(PUBLISHED[config.model], float(tokens))
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "device": device,
        "compute_dtype": dtype,
        "step_seconds": seconds,
        "windows_per_second": config.batch_size / seconds,
        "compile_seconds": compiling,
        **({"peak_memory_gb": stats["peak_bytes_in_use"] / GB} if "peak_bytes_in_use" in stats else {}),
        **({"mfu": flops / seconds / peak} if peak else {}),
        "profile": profile(lambda: steps(state, PROFILED)) if config.profile else "",
    }


@command
def main() -> None:
    config = tyro.cli(StepBenchmark, description=__doc__)
    compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), config.clips, n_mels=PUBLISHED[config.model].num_mel_bins)
        found = measure(config, Shards.open(Path(folder), "train"))
    operations = found.pop("profile")
    print(f"{config.model}, {config.batch_size} {config.windows} windows, {found['compute_dtype']}, {found['device']}")
    for name, value in found.items():
        if isinstance(value, float):
            print(f"  {name:20} {value:10.3f}")
    if operations:
        print(operations)
    print(result_line("step", "windows per second", found["windows_per_second"], None, more=found))


if __name__ == "__main__":
    main()
