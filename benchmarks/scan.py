"""The encoder's layers one after the other, or as one `jax.lax.scan` over their stacked parameters.

A scan compiles a layer once, which pays where compiling is slow; but its parameters must lie stacked (or be stacked in
each step, and their gradients taken apart again), and its backward pass keeps each layer's input in one array. Forward
and backward pass of the layers alone, random weights, all cores or the first device. Turns alternate.

    make bench-scan [ARGS="--layers 12 --d-model 768"]
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks.result import result_line
from data.errors import command
from jax_train.config import WhisperConfig
from jax_train.layers import Layers
from jax_train.model import EncoderLayer


@dataclasses.dataclass(frozen=True)
class ScanBenchmark:
    """Seconds to compile and to run, and temporary memory."""

    layers: int = 6
    d_model: int = 512
    windows: int = 1
    """30 s windows at a time."""
    positions: int = 1500
    repeats: int = 3
    """Timed runs of each, after one that is not; the median counts."""


def programs(config: ScanBenchmark) -> dict[str, tuple[Any, Any]]:
    """A jitted loss of the layers' output with its gradient, and the parameters it takes, by way of running them."""
    size, heads = config.d_model, config.d_model // 64
    whisper = WhisperConfig(size, config.layers, heads, config.layers, heads, 4 * size, 4 * size)
    build = Layers(jnp.float32, nnx.Rngs(0))
    split = [nnx.split(EncoderLayer(whisper, build)) for _ in range(config.layers)]
    graph, states = split[0][0], [state for _, state in split]

    def layer(state: Any, x_BSD: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x_BSD)

    def stack(states: list[Any]) -> Any:
        return jax.tree.map(lambda *values: jnp.stack(values), *states)

    def one_after_the_other(states: list[Any], x_BSD: jax.Array) -> jax.Array:
        for state in states:
            x_BSD = layer(state, x_BSD)
        return jnp.square(x_BSD).mean()

    def scanned(stacked: Any, x_BSD: jax.Array) -> jax.Array:
        return jnp.square(jax.lax.scan(lambda x_BSD, state: (layer(state, x_BSD), None), x_BSD, stacked)[0]).mean()

    ways = {
        "one after the other": (one_after_the_other, states),
        "scan, kept stacked": (scanned, stack(states)),
        "scan, stacked in the step": (lambda states, x_BSD: scanned(stack(states), x_BSD), states),
    }
    return {name: (jax.jit(jax.value_and_grad(loss)), params) for name, (loss, params) in ways.items()}


def measure(config: ScanBenchmark) -> dict[str, dict[str, float]]:
    """Figures by way of running the layers."""
    x_BSD = jax.random.normal(jax.random.key(0), (config.windows, config.positions, config.d_model))
    table: dict[str, dict[str, float]] = {}
    compiled = {}
    for name, (program, params) in programs(config).items():
        started = time.perf_counter()
        lowered = program.lower(params, x_BSD)
        traced = time.perf_counter()
        compiled[name] = (lowered.compile(), params)
        memory = compiled[name][0].memory_analysis().temp_size_in_bytes / 1e9
        table[name] = {
            "trace_s": traced - started,
            "compile_s": time.perf_counter() - traced,
            "temporary_gb": memory,
            "loss": float(compiled[name][0](params, x_BSD)[0]),
        }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(config.repeats):
        for name, (run, params) in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(run(params, x_BSD))
            seconds[name].append(time.perf_counter() - started)
    return {name: row | {"step_s": statistics.median(seconds[name])} for name, row in table.items()}


@command
def main() -> None:
    config = tyro.cli(ScanBenchmark, description=__doc__)
    table = measure(config)
    print(f"{config.layers} layers of {config.d_model}, {config.windows} windows, {jax.default_backend()}")
    for name, row in table.items():
        print(f"  {name:28}" + "".join(f"  {figure} {value:.3f}" for figure, value in row.items()))
    ours = table["one after the other"]
    best = table["scan, kept stacked"]
    ratios = {figure: best[figure] / ours[figure] for figure in ("compile_s", "step_s", "temporary_gb")}
    figures = ours["step_s"], best["step_s"]
    print(
        result_line("scan: one layer after the other, a stacked scan", "s", *figures, less_is_better=True, more=ratios)
    )


if __name__ == "__main__":
    main()
