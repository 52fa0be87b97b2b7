"""Kernels for NVIDIA GPUs, in Pallas for Triton, of what XLA does there in several passes over all activations.

A layer norm's backward pass needs sums along both axes, a biased GELU's along one, and XLA makes a pass of each sum:
0.67 and 0.76 ms for 64 windows of Whisper small on an H200, where these take 0.19 and 0.47, and reading and writing
everything once would take 0.14 and 0.41 (docs/performance.md). A program takes a part of the rows, a few at a time,
and keeps the sums over its rows to itself; those of all programs are added up outside. Each is compiled by itself
(`jit`), so that it is translated once for each shape, not for each layer: small's step has 16 of them.

R rows, D columns, C columns at once, P programs.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

CHUNK = 256  # columns that a warp reads at once, 16 bytes a thread


class Tiling(NamedTuple):
    """What a program works on at once, and the warps that do it."""

    rows: int
    warps: int
    columns: int = CHUNK
    programs: int = 0
    """Where sums over rows are kept: so many share all rows; an H100 has 132 processors for them."""
    rounds: int = 1
    """Times at least that each takes rows: their sums, which all of them write, are to be few beside what they read."""


# The fastest of those tried on an H200, but for the rounds, which are by count.
LAYER_NORM = Tiling(rows=1, warps=1)
LAYER_NORM_BACKWARD = Tiling(rows=1, warps=1, columns=1024, programs=4224, rounds=12)
BIASED = Tiling(rows=4, warps=4, columns=1024)
BIASED_BACKWARD = Tiling(rows=1, warps=1, programs=1056)


@functools.partial(jax.jit, static_argnums=3)
def layer_norm(x_RD: Array, scale_D: Array, bias_D: Array, epsilon: float) -> Array:
    """Each row with mean 0 and variance 1, scaled and shifted, in x's type."""

    def kernel(x_ref, scale_ref, bias_ref, out_ref):
        row = _row_places(x_ref.shape, LAYER_NORM, pl.program_id(0))
        _store_normed(out_ref, row, [_load(x_ref, *place) for place in row], scale_ref, bias_ref, epsilon)

    inputs, grid = (x_RD, scale_D, bias_D), (pl.cdiv(len(x_RD), LAYER_NORM.rows),)
    return _call("layer_norm", kernel, LAYER_NORM.warps, *inputs, grid=grid, outs=[(x_RD.shape, x_RD.dtype)])[0]


@functools.partial(jax.jit, static_argnums=5)
def add_layer_norm(
    x_RD: Array, branch_RD: Array, branch_bias_D: Array, scale_D: Array, bias_D: Array, epsilon: float
) -> tuple[Array, Array]:
    """x + branch + its bias, and the layer norm of that, both in x's type."""

    def kernel(x_ref, branch_ref, branch_bias_ref, scale_ref, bias_ref, sum_ref, out_ref):
        row = _row_places(x_ref.shape, LAYER_NORM, pl.program_id(0))
        sums = []
        for place in row:
            sum_RC = _load(x_ref, *place) + _load(branch_ref, *place) + _load_row(branch_bias_ref, *place)
            sum_RC = sum_RC.astype(sum_ref.dtype)  # what is normed is what the backward pass will find
            _store(sum_ref, *place, sum_RC)
            sums.append(sum_RC.astype(jnp.float32))
        _store_normed(out_ref, row, sums, scale_ref, bias_ref, epsilon)

    inputs, grid = (x_RD, branch_RD, branch_bias_D, scale_D, bias_D), (pl.cdiv(len(x_RD), LAYER_NORM.rows),)
    outs = [(x_RD.shape, x_RD.dtype)] * 2
    sum_RD, normed_RD = _call("add_layer_norm", kernel, LAYER_NORM.warps, *inputs, grid=grid, outs=outs)
    return sum_RD, normed_RD


@functools.partial(jax.jit, static_argnums=(4, 5))
def layer_norm_backward(
    x_RD: Array, grad_RD: Array, beside_RD: Array, scale_D: Array, epsilon: float, had_branch: bool
) -> tuple[Array, ...]:
    """Gradients of x, to which `beside` is added, of scale and of bias, given the result's.

    If x had a branch added to it, also of that one's bias: the sum of x's own.
    """
    rows, width = x_RD.shape
    tiling = LAYER_NORM_BACKWARD._replace(columns=min(LAYER_NORM_BACKWARD.columns, pl.next_power_of_2(width)))
    programs, rounds = _shares(rows, tiling)
    firsts = range(0, width, tiling.columns)
    warps = tiling.warps * pl.next_power_of_2(len(firsts))  # as many numbers a thread for a wider model
    summed = 3 if had_branch else 2

    def kernel(x_ref, grad_ref, beside_ref, scale_ref, out_ref, sums_ref):
        program = pl.program_id(0)

        def one_round(number: Array, sums: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
            row = _row_places(x_ref.shape, tiling, program * rounds + number)
            grads = [_load(grad_ref, *place) for place in row]
            normed, factor_R1 = _normed(row, [_load(x_ref, *place) for place in row], width, epsilon)
            scaled = [grad_RC * _load_row(scale_ref, *place) for grad_RC, place in zip(grads, row, strict=True)]
            mean_R1 = _along(scaled) / width
            along_R1 = _along([one * other for one, other in zip(scaled, normed, strict=True)]) / width
            added = []
            for place, grad_RC, scaled_RC, normed_RC in zip(row, grads, scaled, normed, strict=True):
                out_RC = factor_R1 * (scaled_RC - mean_R1 - normed_RC * along_R1) + _load(beside_ref, *place)
                _store(out_ref, *place, out_RC)
                added.append((grad_RC * normed_RC, grad_RC, out_RC)[:summed])
            return [tuple(map(operator.add, *both)) for both in zip(sums, added, strict=True)]

        nothing = jnp.zeros((tiling.rows, tiling.columns), jnp.float32)
        sums = jax.lax.fori_loop(0, rounds, one_round, [(nothing,) * summed] * len(firsts))
        for first_column, of_columns in zip(firsts, sums, strict=True):
            for number, sums_RC in enumerate(of_columns):
                _store_sum(sums_ref, sums_RC, program, first_column, width, number)

    outs = [(x_RD.shape, x_RD.dtype), ((programs, summed * width), jnp.float32)]
    inputs = (x_RD, grad_RD, beside_RD, scale_D)
    out_RD, sums_PD = _call("layer_norm_backward", kernel, warps, *inputs, grid=(programs,), outs=outs)
    return out_RD, *jnp.split(sums_PD.sum(0), summed)


@functools.partial(jax.jit, static_argnums=2)
def biased(x_RD: Array, bias_D: Array, function: Callable[[Array], Array]) -> Array:
    """A function by elements, given in float32, of x + bias, in x's type."""

    def kernel(x_ref, bias_ref, out_ref):
        place = _places(x_ref.shape, BIASED, pl.program_id(0), pl.program_id(1) * BIASED.columns)
        _store(out_ref, *place, function(_load(x_ref, *place) + _load_row(bias_ref, *place)))

    grid = (pl.cdiv(len(x_RD), BIASED.rows), pl.cdiv(x_RD.shape[1], BIASED.columns))
    return _call("biased", kernel, BIASED.warps, x_RD, bias_D, grid=grid, outs=[(x_RD.shape, x_RD.dtype)])[0]


@functools.partial(jax.jit, static_argnums=3)
def biased_backward(
    x_RD: Array, bias_D: Array, grad_RD: Array, derivative: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Gradients of x and of bias of a function by elements of x + bias, whose derivative is given, in float32."""
    rows, width = x_RD.shape
    columns = BIASED_BACKWARD.columns
    programs, rounds = _shares(rows, BIASED_BACKWARD)

    def kernel(x_ref, bias_ref, grad_ref, out_ref, grad_bias_ref):
        program, first_column = pl.program_id(0), pl.program_id(1) * columns

        def one_round(number: Array, sums_RD: Array) -> Array:
            place = _places(x_ref.shape, BIASED_BACKWARD, program * rounds + number, first_column)
            out_RD = derivative(_load(x_ref, *place) + _load_row(bias_ref, *place)) * _load(grad_ref, *place)
            _store(out_ref, *place, out_RD)
            return sums_RD + out_RD

        sums_RD = jax.lax.fori_loop(0, rounds, one_round, jnp.zeros((BIASED_BACKWARD.rows, columns), jnp.float32))
        _store_sum(grad_bias_ref, sums_RD, program, first_column, width)

    grid = (programs, pl.cdiv(width, columns))
    outs = [(x_RD.shape, x_RD.dtype), ((programs, width), jnp.float32)]
    out_RD, grad_bias_PD = _call(
        "biased_backward", kernel, BIASED_BACKWARD.warps, x_RD, bias_D, grad_RD, grid=grid, outs=outs
    )
    return out_RD, grad_bias_PD.sum(0)


def _shares(rows: int, tiling: Tiling) -> tuple[int, int]:
    """Programs that have rows, and how many times each takes some."""
    rounds = max(pl.cdiv(rows, tiling.programs * tiling.rows), tiling.rounds)
    return pl.cdiv(rows, rounds * tiling.rows), rounds


Place = tuple[Array, Array, Array]
"""Row and column numbers, and which of the elements there are."""


def _places(shape: tuple[int, ...], tiling: Tiling, block: Array, first_column: int | Array) -> Place:
    rows_R1 = (block * tiling.rows + jnp.arange(tiling.rows))[:, None]
    columns_1C = (first_column + jnp.arange(tiling.columns))[None]
    return rows_R1, columns_1C, (rows_R1 < shape[0]) & (columns_1C < shape[1])


def _row_places(shape: tuple[int, ...], tiling: Tiling, block: Array) -> list[Place]:
    """All columns, a chunk at a time: a warp has whole rows, and adds along them without the others."""
    return [_places(shape, tiling, block, first_column) for first_column in range(0, shape[1], tiling.columns)]


def _load(ref: Any, rows_R1: Array, columns_1C: Array, there_RC: Array) -> Float[Array, "R C"]:
    """Elements in float32, 0 where there are none."""
    return plgpu.load(ref.at[rows_R1, columns_1C], mask=there_RC, other=0.0).astype(jnp.float32)


def _load_row(ref: Any, _rows_R1: Array, columns_1C: Array, _there_RC: Array) -> Float[Array, "1 C"]:
    return plgpu.load(ref.at[columns_1C], mask=columns_1C < ref.shape[0], other=0.0).astype(jnp.float32)


def _store(ref: Any, rows_R1: Array, columns_1C: Array, there_RC: Array, value_RC: Array) -> None:
    plgpu.store(ref.at[rows_R1, columns_1C], value_RC.astype(ref.dtype), mask=there_RC)


def _store_sum(
    ref: Any, sums_RC: Array, program: Array, first_column: int | Array, width: int, number: int = 0
) -> None:
    """A program's sum over its rows, in its row of a table of one or several such sums side by side."""
    columns_C = first_column + jnp.arange(sums_RC.shape[1])
    plgpu.store(ref.at[program, number * width + columns_C], sums_RC.sum(0), mask=columns_C < width)


def _store_normed(ref: Any, row: list[Place], x: list[Array], scale_ref: Any, bias_ref: Any, epsilon: float) -> None:
    normed, _ = _normed(row, x, ref.shape[1], epsilon)
    for place, normed_RC in zip(row, normed, strict=True):
        _store(ref, *place, normed_RC * _load_row(scale_ref, *place) + _load_row(bias_ref, *place))


def _along(chunks: list[Array]) -> Float[Array, "R 1"]:
    """The sum along rows."""
    return functools.reduce(operator.add, [chunk_RC.sum(1, keepdims=True) for chunk_RC in chunks])


def _normed(row: list[Place], x: list[Array], width: int, epsilon: float) -> tuple[list[Array], Array]:
    """Chunks of rows with mean 0 and variance 1, and what their deviations were multiplied by."""
    mean_R1 = _along(x) / width
    deviations = [jnp.where(there_RC, x_RC - mean_R1, 0.0) for (_, _, there_RC), x_RC in zip(row, x, strict=True)]
    factor_R1 = jax.lax.rsqrt(_along([one_RC * one_RC for one_RC in deviations]) / width + epsilon)
    return [one_RC * factor_R1 for one_RC in deviations], factor_R1


def _call(
    name: str,
    kernel: Callable[..., None],
    warps: int,
    *inputs: Array,
    grid: tuple[int, ...],
    outs: Sequence[tuple[tuple[int, ...], jax.typing.DTypeLike]],
) -> list[Array]:
    """Arrays of these shapes and types, made by a kernel (interpreted on a CPU, for tests)."""
    varies = jax.typeof(inputs[0]).manual_axis_type  # over which devices, in `shard_map`
    made: list[Array] = pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varies) for shape, dtype in outs],
        compiler_params=plgpu.CompilerParams(num_warps=warps),
        interpret=_interpreted(),
        name=name,
    )(*inputs)
    return made


def _interpreted() -> bool:
    return jax.default_backend() == "cpu"
