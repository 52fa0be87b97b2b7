"""Attention of one encoder layer of Whisper base on the CPU, forward and backward: ours, XLA's, PyTorch's fused.

And ours without its softmax, which says how much of it are products.

Ours against PyTorch's `scaled_dot_product_attention` is the ratio; the float32 arithmetic is the same. All cores.

    make bench-attention [ARGS="--windows 2"]
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro

from benchmarks.result import result_line
from data.errors import command
from jax_train.attention import attend

POSITIONS, HEADS, HEAD_SIZE = 1500, 8, 64  # Whisper base's encoder


@dataclasses.dataclass(frozen=True)
class AttentionBenchmark:
    """Seconds for the forward and backward pass of one layer's attention."""

    windows: int = 2
    """30 s windows at a time."""
    repeats: int = 7
    """Timed runs, after one that is not; the median counts."""


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of `run`, after a first that compiles."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def of_jax(attention: Callable[..., jax.Array], qkv: list[np.ndarray], repeats: int) -> tuple[float, float]:
    """Seconds forward alone, and forward with backward."""
    arrays = [jnp.asarray(array) for array in qkv]
    forward = jax.jit(attention)
    both = jax.jit(jax.value_and_grad(lambda *qkv: attention(*qkv).sum(), (0, 1, 2)))
    return (
        seconds(lambda: jax.block_until_ready(forward(*arrays)), repeats),
        seconds(lambda: jax.block_until_ready(both(*arrays)), repeats),
    )


def of_torch(qkv: list[np.ndarray], repeats: int) -> tuple[float, float]:
    """The same of PyTorch's fused attention."""
    q, k, v = [torch.from_numpy(array.transpose(0, 2, 1, 3).copy()).requires_grad_() for array in qkv]

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def both() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    return seconds(forward, repeats), seconds(both, repeats)


def products_alone(q_BLHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array) -> jax.Array:
    """Ours without the softmax: what is left are its matrix products."""
    heads = [jnp.swapaxes(x, 1, 2).reshape(-1, POSITIONS, HEAD_SIZE) for x in (q_BLHK, k_BSHK, v_BSHK)]
    return jax.lax.map(lambda head: (head[0] @ head[1].T) @ head[2], tuple(heads))


@command
def main() -> None:
    config = tyro.cli(AttentionBenchmark)
    rng = np.random.default_rng(0)
    shape = (config.windows, POSITIONS, HEADS, HEAD_SIZE)
    qkv = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    batched = jax.checkpoint(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation="xla"))
    found = {
        "one head at a time (ours)": of_jax(attend, qkv, config.repeats),
        "its two products alone": of_jax(products_alone, qkv, config.repeats),
        "jax.nn.dot_product_attention": of_jax(batched, qkv, config.repeats),
        "PyTorch's fused attention": of_torch(qkv, config.repeats),
    }
    print(f"{'':32}{'forward':>10}{'with backward':>16}   ({config.windows} windows, {jax.default_backend()})")
    for name, (forward, both) in found.items():
        print(f"{name:32}{forward:8.3f} s{both:14.3f} s")
    ours, peer = found["one head at a time (ours)"][1], found["PyTorch's fused attention"][1]
    print(result_line("attention", "s", ours, peer, less_is_better=True))


if __name__ == "__main__":
    main()
