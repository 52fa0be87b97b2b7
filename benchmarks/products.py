"""Matrix products of Whisper base on the CPU in float32: our kernel's, XLA's, PyTorch's.

Of an encoder of some windows, forward and for the gradient of what is multiplied, and of a decoder's next tokens, of
which there are few: by many matrices in turn, as the next one is never in the cache. GFLOP/s; the ratio is that of the
time of all of the encoder's, ours to PyTorch's. All cores, the arms in turns, medians.

    make bench-products [ARGS="--windows 8"]
"""

import dataclasses

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


def timed(x: np.ndarray, matrices: list[np.ndarray], backward: bool, turns: int) -> dict[str, float]:
    """Median seconds of each arm: `x` times the matrices, or a gradient's products with their transposes."""
    rows, weights = jnp.asarray(x), [jnp.asarray(matrix) for matrix in matrices]
    torch_rows, torch_weights = torch.from_numpy(x), [torch.from_numpy(matrix) for matrix in matrices]
    given = jnp.zeros((len(x), len(matrices[0])), jnp.float32)

    def ours(rows: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
        if backward:
            return [jax.vjp(lambda x, w=w: product(x, w), given)[1](rows)[0] for w in weights]
        return [product(rows, w) for w in weights]

    compiled = jax.jit(ours), jax.jit(lambda rows, weights: [rows @ (w.T if backward else w) for w in weights])
    runs = {
        OURS: lambda: jax.block_until_ready(compiled[0](rows, weights)),
        "XLA": lambda: jax.block_until_ready(compiled[1](rows, weights)),
        PEER: lambda: [torch_rows @ (w.T if backward else w) for w in torch_weights],
    }
    return median_seconds(runs, turns)


@command
def main() -> None:
    config = tyro.cli(ProductsBenchmark)
    rng = np.random.default_rng(0)
    encoder: dict[str, float] = {}
    print(f"{'rows':>7}{'':28}{OURS:>10}{'XLA':>10}{PEER:>10}   GFLOP/s")
    many, few = config.windows * POSITIONS, config.windows
    for rows, backward, copies in ((many, False, 1), (many, True, 1), (few, False, NEXT_TOKENS)):
        for name, (summed, columns) in MATRICES.items():
            matrices = [rng.standard_normal((summed, columns), np.float32) for _ in range(copies)]
            x = rng.standard_normal((rows, columns if backward else summed), np.float32)
            found = timed(x, matrices, backward, config.repeats)
            if rows == many:
                encoder = {arm: encoder.get(arm, 0.0) + seconds for arm, seconds in found.items()}
            what = f"{name}, {'gradient' if backward else 'forward'}"
            speeds = [2e-9 * copies * rows * summed * columns / seconds for seconds in found.values()]
            print(f"{rows:7}  {what:26}" + "".join(f"{speed:10.0f}" for speed in speeds))
    more = {"xla": encoder["XLA"]}
    print(result_line("products", "s", encoder[OURS], encoder[PEER], less_is_better=True, more=more))


if __name__ == "__main__":
    main()
