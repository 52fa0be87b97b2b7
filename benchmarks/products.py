"""Matrix products of Whisper base on the CPU in float32: our kernel's, XLA's, PyTorch's.

Of an encoder of some windows, forward, for the gradient of what is multiplied and for the matrix' own; and of a
decoder's next tokens, of which there are few: by many matrices in turn, as the next one is never in the cache.
GFLOP/s; the ratio is that of the time of all of the encoder's, ours to PyTorch's. All cores, the arms in turns,
medians.

    make bench-products [ARGS="--windows 8"]
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro

from benchmarks.in_turns import median_seconds
from benchmarks.result import result_line
from data.errors import command
from jax_train.cpu_products import product

D_MODEL, FFN, POSITIONS = 512, 2048, 1500  # Whisper base's encoder
MATRICES = {"attention": (D_MODEL, D_MODEL), "fc1": (D_MODEL, FFN), "fc2": (FFN, D_MODEL)}
NEXT_TOKENS = 40  # matrices that few rows are multiplied with
OURS, PEER = "ours", "PyTorch"


@dataclasses.dataclass(frozen=True)
class ProductsBenchmark:
    """GFLOP/s of products with a matrix."""

    windows: int = 8
    """30 s windows at a time, and rows of the decoder."""
    repeats: int = 9
    """Timed turns."""


Of = Literal["forward", "gradient", "matrix' gradient"]


def timed(x: np.ndarray, factors: list[np.ndarray], of: Of, turns: int) -> dict[str, float]:
    """Median seconds of each arm.

    `x` times the factors, which are matrices; a gradient's products with their transposes; or the transpose of `x`
    times gradients, which are the factors then.
    """
    rows, others = jnp.asarray(x), [jnp.asarray(factor) for factor in factors]
    torch_rows, torch_others = torch.from_numpy(x), [torch.from_numpy(factor) for factor in factors]

    def ours(rows: jax.Array, others: list[jax.Array]) -> list[jax.Array]:
        if of == "forward":
            return [product(rows, w) for w in others]
        if of == "gradient":
            given = jnp.zeros((len(rows), len(others[0])), jnp.float32)
            return [jax.vjp(lambda x, w=w: product(x, w), given)[1](rows)[0] for w in others]
        given = jnp.zeros((rows.shape[1], others[0].shape[1]), jnp.float32)
        return [jax.vjp(lambda w: product(rows, w), given)[1](grad)[0] for grad in others]

    def plain(rows: Any, others: list[Any]) -> list[Any]:
        left = rows.T if of == "matrix' gradient" else rows
        return [left @ (w.T if of == "gradient" else w) for w in others]

    compiled = jax.jit(ours), jax.jit(plain)
    runs = {
        OURS: lambda: jax.block_until_ready(compiled[0](rows, others)),
        "XLA": lambda: jax.block_until_ready(compiled[1](rows, others)),
        PEER: lambda: plain(torch_rows, torch_others),
    }
    return median_seconds(runs, turns)


@command
def main() -> None:
    config = tyro.cli(ProductsBenchmark)
    rng = np.random.default_rng(0)
    encoder: dict[str, float] = {}
    print(f"{'rows':>7}{'':28}{OURS:>10}{'XLA':>10}{PEER:>10}   GFLOP/s")
    many, few = config.windows * POSITIONS, config.windows
    kinds: list[tuple[int, Of, int]] = [(many, of, 1) for of in get_args(Of)]
    for rows, of, copies in (*kinds, (few, "forward", NEXT_TOKENS)):
        for name, (summed, columns) in MATRICES.items():
            shape = (rows, columns) if of == "matrix' gradient" else (summed, columns)
            factors = [rng.standard_normal(shape, np.float32) for _ in range(copies)]
            x = rng.standard_normal((rows, columns if of == "gradient" else summed), np.float32)
            found = timed(x, factors, of, config.repeats)
            if rows == many:
                encoder = {arm: encoder.get(arm, 0.0) + seconds for arm, seconds in found.items()}
            speeds = [2e-9 * copies * rows * summed * columns / seconds for seconds in found.values()]
            print(f"{rows:7}  {f'{name}, {of}':26}" + "".join(f"{speed:10.0f}" for speed in speeds))
    more = {"xla": encoder["XLA"]}
    print(result_line("products", "s", encoder[OURS], encoder[PEER], less_is_better=True, more=more))


if __name__ == "__main__":
    main()
