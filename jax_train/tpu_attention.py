"""Softmax attention for TPUs, forward and backward one Pallas kernel each, whose scores never leave the chip.

Decision: XLA writes a layer's scores to memory and reads them several times, which takes a TPU longer than its
products. A window's keys and values of one head are small (0.4 MB) beside its fast memory, so that a block of queries
has whole rows of scores there: no running maximum as in FlashAttention (arXiv 2205.14135), and the backward pass keeps
queries, keys and values alone. JAX's own TPU kernels want lengths that are multiples of a block, which 1500 is not, and
cannot be in a `shard_map` that checks what varies. Figures in docs/performance.md.

Heads lie side by side as projections make them, two of 64 to a block, whose row is whole lanes; nothing is transposed.

B batch, L query positions, Q queries of a block, S key positions, D all heads' sizes, K size of a head.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

LANES = 128
QUERIES = 768  # at most, of a block: the more, the less the products wait for each other
ROWS = 16  # of bfloat16 in a tile


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attention(
    q_BLD: Float[Array, "B L D"], k_BSD: Float[Array, "B S D"], v_BSD: Float[Array, "B S D"], size: int, causal: bool
) -> Float[Array, "B L D"]:
    """Attention of scaled queries by heads of `size`, the softmax in float32; causal: query l sees keys 0 to l."""
    return _forward(q_BLD, k_BSD, v_BSD, size, causal)


def _attention_forward(
    q_BLD: Array, k_BSD: Array, v_BSD: Array, size: int, causal: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _forward(q_BLD, k_BSD, v_BSD, size, causal), (q_BLD, k_BSD, v_BSD)


def _attention_backward(
    size: int, causal: bool, kept: tuple[Array, Array, Array], grad_BLD: Array
) -> tuple[Array, Array, Array]:
    return _backward(*kept, grad_BLD, size, causal)


attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _forward(q_BLD: Array, k_BSD: Array, v_BSD: Array, size: int, causal: bool) -> Array:
    def kernel(q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any) -> None:
        for head in _heads(q_ref, size):
            scores_QS = _dot(q_ref[:, head], k_ref[:, head], (1, 1))
            if causal:
                scores_QS = _seen(scores_QS, 0)
            weights_QS = jnp.exp(scores_QS - scores_QS.max(1, keepdims=True))
            total_Q1 = weights_QS.sum(1, keepdims=True)
            out_QK = _dot(weights_QS.astype(v_ref.dtype), v_ref[:, head], (1, 0)) / total_Q1
            out_ref[:, head] = out_QK.astype(out_ref.dtype)

    return _call("attention", kernel, [q_BLD], [k_BSD, v_BSD], whole_outs=0)[0]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _backward(
    q_BLD: Array, k_BSD: Array, v_BSD: Array, grad_BLD: Array, size: int, causal: bool
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values. Scores lie by columns, as four of the five products want them."""
    length = q_BLD.shape[1]

    def kernel(
        q_ref: Any, grad_ref: Any, k_ref: Any, v_ref: Any, grad_q_ref: Any, grad_k_ref: Any, grad_v_ref: Any, *sums: Any
    ) -> None:
        sum_k_ref, sum_v_ref = sums
        block = pl.program_id(2)

        @pl.when(block == 0)
        def _() -> None:
            for sum_ref in sums:
                sum_ref[...] = jnp.zeros_like(sum_ref)

        def there(ref: Any, head: slice) -> Array:
            """A head's rows: past the last query, where a block may hold anything, zeros."""
            if length % len(ref) == 0:
                return ref[:, head]
            rows_QK = block * len(ref) + jax.lax.broadcasted_iota(jnp.int32, (len(ref), size), 0)
            return jnp.where(rows_QK < length, ref[:, head], jnp.zeros((), ref.dtype))

        for head in _heads(q_ref, size):
            q_QK, grad_QK, k_SK, v_SK = there(q_ref, head), there(grad_ref, head), k_ref[:, head], v_ref[:, head]
            scores_SQ = _dot(k_SK, q_QK, (1, 1))
            if causal:
                scores_SQ = _seen(scores_SQ, 1)
            weights_SQ = jnp.exp(scores_SQ - scores_SQ.max(0, keepdims=True))
            weights_SQ = weights_SQ / weights_SQ.sum(0, keepdims=True)
            sum_v_ref[:, head] += _dot(weights_SQ.astype(q_QK.dtype), grad_QK, (1, 0))
            grad_weights_SQ = _dot(v_SK, grad_QK, (1, 1))
            along_1Q = (weights_SQ * grad_weights_SQ).sum(0, keepdims=True)
            grad_scores_SQ = (weights_SQ * (grad_weights_SQ - along_1Q)).astype(q_QK.dtype)
            sum_k_ref[:, head] += _dot(grad_scores_SQ, q_QK, (1, 0))
            grad_q_ref[:, head] = _dot(grad_scores_SQ, k_SK, (0, 0)).astype(grad_q_ref.dtype)

        @pl.when(block == pl.num_programs(2) - 1)
        def _() -> None:
            grad_k_ref[...] = sum_k_ref[...].astype(grad_k_ref.dtype)
            grad_v_ref[...] = sum_v_ref[...].astype(grad_v_ref.dtype)

    grads = _call("attention_backward", kernel, [q_BLD, grad_BLD], [k_BSD, v_BSD], whole_outs=2)
    grad_q_BLD, grad_k_BSD, grad_v_BSD = grads
    return grad_q_BLD, grad_k_BSD, grad_v_BSD


def programs(length: int, width: int) -> int:
    """Programs that a kernel has for each row of a batch."""
    columns, rows = _block(length, width)
    return (width // columns) * pl.cdiv(length, rows)


def _block(length: int, width: int) -> tuple[int, int]:
    """Columns and queries of a block: a row of lanes, and as few parts of the queries as there may be."""
    parts = pl.cdiv(length, QUERIES)
    rows = length if parts == 1 else pl.cdiv(pl.cdiv(length, parts), ROWS) * ROWS
    return LANES if width % LANES == 0 else width, rows


def _heads(ref: Any, size: int) -> Iterator[slice]:
    """The columns of each head of a block."""
    return (slice(first, first + size) for first in range(0, ref.shape[1], size))


def _dot(a: Array, b: Array, along: tuple[int, int]) -> Array:
    """Float32 product along an axis of each."""
    dimensions = (((along[0],), (along[1],)), ((), ()))
    product: Array = jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
    return product


def _seen(scores: Array, query_axis: int) -> Array:
    """Scores of the keys that each of the block's queries sees."""
    first = pl.program_id(2) * scores.shape[query_axis]
    queries = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, query_axis)
    return jnp.where(queries >= jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1 - query_axis), scores, -jnp.inf)


def _call(
    name: str, kernel: Callable[..., None], by_block: list[Array], whole: list[Array], whole_outs: int
) -> list[Array]:
    """What a kernel makes (interpreted on a CPU, for tests): an array like the first, and so many like those of keys.

    A program takes a row of the batch, the heads of a row of lanes, a block of queries of the arrays `by_block`, all
    keys of the others, and has a float32 array for the sums of each of these that it makes.
    """
    (batch, length, width), keys = by_block[0].shape, whole[0].shape[1]
    columns, rows = _block(length, width)
    of_queries = pl.BlockSpec((None, rows, columns), lambda row, heads, block: (row, block, heads))
    of_keys = pl.BlockSpec((None, keys, columns), lambda row, heads, _block: (row, 0, heads))
    varies = jax.typeof(by_block[0]).manual_axis_type  # over which devices, in `shard_map`
    outs = [by_block[0], *whole[:whole_outs]]
    made: list[Array] = pl.pallas_call(
        kernel,
        grid=(batch, width // columns, pl.cdiv(length, rows)),
        in_specs=[of_queries] * len(by_block) + [of_keys] * len(whole),
        out_specs=[of_queries] + [of_keys] * whole_outs,
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype, manual_axis_type=varies) for array in outs],
        scratch_shapes=[pltpu.VMEM((keys, columns), jnp.float32)] * whole_outs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=jax.default_backend() == "cpu",
        name=name,
    )(*by_block, *whole)
    return made
