"""Kernels for NVIDIA GPUs, in Pallas for Triton, of what XLA does there in several passes over all activations.

A layer norm's backward pass needs sums along both axes, a biased GELU's along one, and XLA makes a pass of each sum:
0.67 and 0.76 ms for 64 windows of Whisper small on an H200, where these take 0.19 and 0.54, and reading and writing
everything once would take 0.14 and 0.41 (docs/performance.md). A program takes a part of the rows, a few at a time,
and keeps the sums over its rows to itself; those of all programs are added up outside.

R rows, D columns, P programs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

PROGRAMS = 4224  # with rows to add up; 32 for each of an H100's processors
COLUMNS = 1024  # of a program by elements


class Tiling(NamedTuple):
    """What a program works on at once, and the warps that do it."""

    rows: int
    warps: int


# The fastest of those tried on an H200.
LAYER_NORM = Tiling(rows=4, warps=8)
LAYER_NORM_BACKWARD = Tiling(rows=1, warps=1)
BIASED = Tiling(rows=8, warps=8)
BIASED_BACKWARD = Tiling(rows=2, warps=4)


def layer_norm(x_RD: Array, scale_D: Array, bias_D: Array, epsilon: float) -> Array:
    """Each row with mean 0 and variance 1, scaled and shifted, in x's type."""

    def kernel(x_ref, scale_ref, bias_ref, out_ref):
        place = _places(x_ref.shape, LAYER_NORM.rows, pl.program_id(0), 0, pl.next_power_of_2(x_ref.shape[1]))
        normed_RD, _ = _normed(_load(x_ref, *place), place[2], x_ref.shape[1], epsilon)
        scale_D, bias_D = _load_row(scale_ref, *place), _load_row(bias_ref, *place)
        _store(out_ref, *place, normed_RD * scale_D + bias_D)

    return _call(
        "layer_norm",
        kernel,
        LAYER_NORM.warps,
        x_RD,
        scale_D,
        bias_D,
        grid=(pl.cdiv(len(x_RD), LAYER_NORM.rows),),
        outs=[(x_RD.shape, x_RD.dtype)],
    )[0]


def layer_norm_backward(
    x_RD: Array, grad_RD: Array, beside_RD: Array, scale_D: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Gradients of x, to which `beside` is added, of scale and of bias, given the result's."""
    rows, width = x_RD.shape
    programs, rounds = _shares(rows, LAYER_NORM_BACKWARD.rows, PROGRAMS)
    columns = pl.next_power_of_2(width)
    warps = LAYER_NORM_BACKWARD.warps * max(1, columns // 1024)  # as many numbers a thread for a wider model

    def kernel(x_ref, grad_ref, beside_ref, scale_ref, out_ref, grad_scale_ref, grad_bias_ref):
        program = pl.program_id(0)

        def one_round(number: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            place = _places(x_ref.shape, LAYER_NORM_BACKWARD.rows, program * rounds + number, 0, columns)
            normed_RD, factor_R1 = _normed(_load(x_ref, *place), place[2], width, epsilon)
            grad_RD = _load(grad_ref, *place)
            scaled_RD = grad_RD * _load_row(scale_ref, *place)
            mean_R1 = scaled_RD.sum(1, keepdims=True) / width
            along_R1 = (scaled_RD * normed_RD).sum(1, keepdims=True) / width
            out_RD = factor_R1 * (scaled_RD - mean_R1 - normed_RD * along_R1)
            _store(out_ref, *place, out_RD + _load(beside_ref, *place))
            return sums[0] + grad_RD * normed_RD, sums[1] + grad_RD

        nothing = jnp.zeros((LAYER_NORM_BACKWARD.rows, columns), jnp.float32)
        sums = jax.lax.fori_loop(0, rounds, one_round, (nothing, nothing))
        _store_sum(grad_scale_ref, sums[0], program)
        _store_sum(grad_bias_ref, sums[1], program)

    partial = ((programs, width), jnp.float32)
    out_RD, grad_scale_PD, grad_bias_PD = _call(
        "layer_norm_backward",
        kernel,
        warps,
        x_RD,
        grad_RD,
        beside_RD,
        scale_D,
        grid=(programs,),
        outs=[(x_RD.shape, x_RD.dtype), partial, partial],
    )
    return out_RD, grad_scale_PD.sum(0), grad_bias_PD.sum(0)


def biased(x_RD: Array, bias_D: Array, function: Callable[[Array], Array]) -> Array:
    """A function by elements, given in float32, of x + bias, in x's type."""

    def kernel(x_ref, bias_ref, out_ref):
        place = _places(x_ref.shape, BIASED.rows, pl.program_id(0), pl.program_id(1) * COLUMNS, COLUMNS)
        _store(out_ref, *place, function(_load(x_ref, *place) + _load_row(bias_ref, *place)))

    grid = (pl.cdiv(len(x_RD), BIASED.rows), pl.cdiv(x_RD.shape[1], COLUMNS))
    return _call("biased", kernel, BIASED.warps, x_RD, bias_D, grid=grid, outs=[(x_RD.shape, x_RD.dtype)])[0]


def biased_backward(
    x_RD: Array, bias_D: Array, grad_RD: Array, derivative: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Gradients of x and of bias of a function by elements of x + bias, whose derivative is given, in float32."""
    rows, width = x_RD.shape
    blocks = pl.cdiv(width, COLUMNS)
    programs, rounds = _shares(rows, BIASED_BACKWARD.rows, pl.cdiv(PROGRAMS, blocks))

    def kernel(x_ref, bias_ref, grad_ref, out_ref, grad_bias_ref):
        program, first_column = pl.program_id(0), pl.program_id(1) * COLUMNS

        def one_round(number: Array, sums_RD: Array) -> Array:
            place = _places(x_ref.shape, BIASED_BACKWARD.rows, program * rounds + number, first_column, COLUMNS)
            out_RD = derivative(_load(x_ref, *place) + _load_row(bias_ref, *place)) * _load(grad_ref, *place)
            _store(out_ref, *place, out_RD)
            return sums_RD + out_RD

        sums_RD = jax.lax.fori_loop(0, rounds, one_round, jnp.zeros((BIASED_BACKWARD.rows, COLUMNS), jnp.float32))
        _store_sum(grad_bias_ref, sums_RD, program, first_column)

    outs = [(x_RD.shape, x_RD.dtype), ((programs, width), jnp.float32)]
    out_RD, grad_bias_PD = _call(
        "biased_backward", kernel, BIASED_BACKWARD.warps, x_RD, bias_D, grad_RD, grid=(programs, blocks), outs=outs
    )
    return out_RD, grad_bias_PD.sum(0)


def _shares(rows: int, at_once: int, programs: int) -> tuple[int, int]:
    """Programs that have rows, and how many times each takes `at_once` of them."""
    rounds = pl.cdiv(rows, programs * at_once)
    return pl.cdiv(rows, rounds * at_once), rounds


Place = tuple[Array, Array, Array]
"""Row and column numbers, and which of the elements there are."""


def _places(shape: tuple[int, ...], rows: int, block: Array, first_column: int | Array, columns: int) -> Place:
    rows_R1 = (block * rows + jnp.arange(rows))[:, None]
    columns_1D = (first_column + jnp.arange(columns))[None]
    return rows_R1, columns_1D, (rows_R1 < shape[0]) & (columns_1D < shape[1])


def _load(ref: Any, rows_R1: Array, columns_1D: Array, there_RD: Array) -> Float[Array, "R D"]:
    """Elements in float32, 0 where there are none."""
    return plgpu.load(ref.at[rows_R1, columns_1D], mask=there_RD, other=0.0).astype(jnp.float32)


def _load_row(ref: Any, _rows_R1: Array, columns_1D: Array, _there_RD: Array) -> Float[Array, "1 D"]:
    return plgpu.load(ref.at[columns_1D], mask=columns_1D < ref.shape[0], other=0.0).astype(jnp.float32)


def _store(ref: Any, rows_R1: Array, columns_1D: Array, there_RD: Array, value_RD: Array) -> None:
    plgpu.store(ref.at[rows_R1, columns_1D], value_RD.astype(ref.dtype), mask=there_RD)


def _store_sum(ref: Any, sums_RD: Array, program: Array, first_column: int | Array = 0) -> None:
    """A program's sum over its rows, in its row of a table."""
    columns_D = first_column + jnp.arange(sums_RD.shape[1])
    plgpu.store(ref.at[program, columns_D], sums_RD.sum(0), mask=columns_D < ref.shape[1])


def _normed(x_RD: Array, there_RD: Array, width: int, epsilon: float) -> tuple[Array, Array]:
    deviation_RD = jnp.where(there_RD, x_RD - x_RD.sum(1, keepdims=True) / width, 0.0)
    factor_R1 = jax.lax.rsqrt((deviation_RD * deviation_RD).sum(1, keepdims=True) / width + epsilon)
    return deviation_RD * factor_R1, factor_R1


def _call(
    name: str,
    kernel: Callable[..., None],
    warps: int,
    *inputs: Array,
    grid: tuple[int, ...],
    outs: list[tuple[tuple[int, ...], jax.typing.DTypeLike]],
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
