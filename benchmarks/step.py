"""A training step alone: its seconds and MFU while batches wait on the device, its memory, and its kernels by time.

What `benchmarks/train.py` measures with the input pipeline and beside PyTorch, taken apart: it says what bounds a step
on a GPU. MFU as there. `--kernels` adds what JAX's profiler sees the GPU do, in milliseconds a step.

    make bench-step [ARGS="--model small --batch-size 64 --kernels 30"]
"""

import collections
import dataclasses
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
from jax_train.windows import IGNORE, Window

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
    steps: int = 3
    """Steps on end that are timed; the best of two times counts."""
    kernels: int = 0
    """How many kernels to list, from the dearest; 0: no profile."""


def kernels(run: Callable[[], Any]) -> dict[str, tuple[int, float]]:
    """How often a GPU ran each kernel within `run`, and for how many milliseconds; empty where JAX sees no GPU's."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        found: dict[str, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            lines = plane.lines if plane.name.startswith("/device:GPU") else ()
            for event in (event for line in lines if line.name.startswith("Stream") for event in line.events):
                count, milliseconds = found[event.name]
                found[event.name] = count + 1, milliseconds + event.duration_ns / 1e6
        return found


def measure(config: StepBenchmark, shards: Shards) -> dict[str, Any]:
    """The figures, and kernels if they are asked for."""
    device, peak = peak_flops()
    dtype = config.compute_dtype or suited(jax.devices()[0])
    training = TrainBenchmark(config.model, config.batch_size, dtype, config.remat)
    step, state, ahead, _ = prepare(training, shards, config.windows, steps=config.steps)
    waiting = [ahead.take()[0] for _ in range(config.steps)]
    started = time.perf_counter()
    compiled = step.lower(state, waiting[0]).compile()
    compiling = time.perf_counter() - started
    state, _ = compiled(state, waiting[0])

    def steps(state: TrainState, batches: list[Window]) -> tuple[TrainState, float]:
        started = time.perf_counter()
        for batch in batches:
            state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        return state, (time.perf_counter() - started) / len(batches)

    times = []
    for _ in range(2):
        state, seconds = steps(state, waiting)
        times.append(seconds)
    tokens = np.mean([(np.asarray(batch.labels_L) != IGNORE).sum() for batch in waiting]) / config.batch_size
    flops = 3 * config.batch_size * forward_flops(PUBLISHED[config.model], float(tokens))
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "device": device,
        "compute_dtype": dtype,
        "step_seconds": min(times),
        "windows_per_second": config.batch_size / min(times),
        "compile_seconds": compiling,
        **({"peak_memory_gb": stats["peak_bytes_in_use"] / GB} if "peak_bytes_in_use" in stats else {}),
        **({"mfu": flops / min(times) / peak} if peak else {}),
        "kernels": kernels(lambda: steps(state, waiting[:PROFILED])) if config.kernels else {},
    }


@command
def main() -> None:
    config = tyro.cli(StepBenchmark, description=__doc__)
    compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), config.clips)
        found = measure(config, Shards.open(Path(folder), "train"))
    by_time = sorted(found.pop("kernels").items(), key=lambda one: -one[1][1])
    print(f"{config.model}, {config.batch_size} {config.windows} windows, {found['compute_dtype']}, {found['device']}")
    for name, value in found.items():
        if isinstance(value, float):
            print(f"  {name:20} {value:10.3f}")
    for name, (count, milliseconds) in by_time[: config.kernels]:
        print(f"  {milliseconds / PROFILED:10.3f} ms, {count / PROFILED:6.1f} times  {name[:90]}")
    print(result_line("step", "windows per second", found["windows_per_second"], None, more=found))


if __name__ == "__main__":
    main()
