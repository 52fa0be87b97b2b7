"""Attention of one encoder layer of Whisper base on the CPU, forward and backward: ours, XLA's, PyTorch's fused.

Ours against PyTorch's `scaled_dot_product_attention` is the ratio; the float32 arithmetic is the same. All cores, the
arms in turns, medians.

    make bench-attention [ARGS="--windows 2"]
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro

from benchmarks.in_turns import median_seconds
from benchmarks.result import result_line
from data.errors import command
from jax_train.attention import attend, plain

POSITIONS, HEADS, HEAD_SIZE = 1500, 8, 64  # Whisper base's encoder
OURS, PEER = "ours", "PyTorch's fused attention"


@dataclasses.dataclass(frozen=True)
class AttentionBenchmark:
    """Seconds for the forward and backward pass of one layer's attention."""

    windows: int = 2
    """30 s windows at a time."""
    repeats: int = 7
    """Timed turns."""


def of_jax(attention: Callable[..., jax.Array], qkv: list[np.ndarray]) -> list[Callable[[], object]]:
    """Forward alone, and forward with backward."""
    arrays = [jnp.asarray(array) for array in qkv]
    forward = jax.jit(attention)
    both = jax.jit(jax.value_and_grad(lambda *qkv: attention(*qkv).sum(), (0, 1, 2)))
    return [lambda: jax.block_until_ready(forward(*arrays)), lambda: jax.block_until_ready(both(*arrays))]


def of_torch(qkv: list[np.ndarray]) -> list[Callable[[], object]]:
    """The same of PyTorch's fused attention."""
    q, k, v = [torch.from_numpy(array.transpose(0, 2, 1, 3).copy()).requires_grad_() for array in qkv]

    def forward() -> None:
        with torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def both() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    return [forward, both]


@command
def main() -> None:
    config = tyro.cli(AttentionBenchmark)
    rng = np.random.default_rng(0)
    shape = (config.windows, POSITIONS, HEADS, HEAD_SIZE)
    qkv = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    batched = jax.checkpoint(functools.partial(jax.nn.dot_product_attention, implementation="xla"))
    arms = {
        OURS: of_jax(attend, qkv),
        "XLA's operations, head by head": of_jax(plain, qkv),
        "jax.nn.dot_product_attention": of_jax(batched, qkv),
        PEER: of_torch(qkv),
    }
    forward, both = (
        median_seconds({name: runs[which] for name, runs in arms.items()}, config.repeats) for which in (0, 1)
    )
    print(f"{'':32}{'forward':>10}{'with backward':>16}   ({config.windows} windows, {jax.default_backend()})")
    for name in arms:
        print(f"{name:32}{forward[name]:8.3f} s{both[name]:14.3f} s")
    more = {"forward_ratio": forward[PEER] / forward[OURS]}
    print(result_line("attention", "s", both[OURS], both[PEER], less_is_better=True, more=more))


if __name__ == "__main__":
    main()
