"""Softmax attention that never keeps its probabilities, by the fastest way each device has.

Kept for the backward pass, the probabilities are most of a training step's memory (72 MB a layer and window for eight
heads in float32). A GPU has cuDNN's fused kernel for that, a TPU and a CPU ours (`tpu_attention`, `cpu_attention`).
Elsewhere the same is done in plain operations: all heads at once, or on a CPU without a compiler, where that is faster,
one after another (`make bench-attention`; figures in docs/performance.md).

B batch, L query positions, Q queries of a block, S key positions, H heads, K head size, N blocks.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_train import cpu_attention
from jax_train.precision import has_cudnn_attention, has_tpu_attention
from jax_train.softmax import top_and_total

BLOCKS = {"cpu": 256, "gpu": 750, "tpu": 256}
"""Queries of a block in the backward pass: on a CPU 1.5 MB of scores for 1500 keys. A GPU has nowhere to keep them, and
each block reads and writes the gradients of all keys and values."""


def attend(
    q_BLHK: Float[Array, "B L H K"],
    k_BSHK: Float[Array, "B S H K"],
    v_BSHK: Float[Array, "B S H K"],
    is_causal: bool = False,
) -> Float[Array, "B L H K"]:
    """Softmax attention scaled by K^-1/2, the softmax in float32; causal: query l sees keys 0 to l."""
    if _has_cudnn(q_BLHK):
        return jax.nn.dot_product_attention(q_BLHK, k_BSHK, v_BSHK, is_causal=is_causal, implementation="cudnn")
    if _has_tpu_kernel(q_BLHK):
        return _on_tpu(q_BLHK, k_BSHK, v_BSHK, is_causal)
    if cpu_attention.takes(q_BLHK):
        return cpu_attention.attention(q_BLHK, k_BSHK, v_BSHK, is_causal)
    return plain(q_BLHK, k_BSHK, v_BSHK, is_causal)


def plain(
    q_BLHK: Float[Array, "B L H K"],
    k_BSHK: Float[Array, "B S H K"],
    v_BSHK: Float[Array, "B S H K"],
    is_causal: bool = False,
) -> Float[Array, "B L H K"]:
    """The same in XLA's operations, for devices without a kernel."""
    return _by_head(functools.partial(_one_head, is_causal), q_BLHK, k_BSHK, v_BSHK)


def attend_counted(
    q_BLHK: Float[Array, "B L H K"],
    k_BSHK: Float[Array, "B S H K"],
    v_BSHK: Float[Array, "B S H K"],
    log_count_S: Float[Array, "S"],
) -> Float[Array, "B L H K"]:
    """Softmax attention in which key s counts as often as exp(`log_count_S`) says. Not for training."""
    if cpu_attention.takes(q_BLHK):
        return cpu_attention.counted(q_BLHK, k_BSHK, v_BSHK, log_count_S)
    if jax.default_backend() != "cpu":
        bias_111S = log_count_S.astype(q_BLHK.dtype)[None, None, None]
        return jax.nn.dot_product_attention(q_BLHK, k_BSHK, v_BSHK, bias_111S, implementation="xla")

    def one_head(q_LK: Array, k_SK: Array, v_SK: Array) -> Array:
        weights_LS = jax.nn.softmax(_dot(q_LK, k_SK.T) + log_count_S[None], axis=-1)
        return _dot(weights_LS.astype(v_SK.dtype), v_SK).astype(q_LK.dtype)

    return _by_head(one_head, q_BLHK, k_BSHK, v_BSHK)


def _has_cudnn(q_BLHK: Array) -> bool:
    """Whether cuDNN's fused attention takes these queries."""
    return has_cudnn_attention(jax.devices()[0], q_BLHK.dtype.name, q_BLHK.shape[-1])


def _has_tpu_kernel(q_BLHK: Array) -> bool:
    return has_tpu_attention(jax.devices()[0], q_BLHK.dtype.name, q_BLHK.shape[-1])


def _on_tpu(q_BLHK: Array, k_BSHK: Array, v_BSHK: Array, is_causal: bool) -> Array:
    from jax_train import tpu_attention  # Pallas for TPUs takes time to import, and only they ask for it

    size = q_BLHK.shape[-1]
    q_BLHK = q_BLHK * jnp.asarray(size**-0.5, q_BLHK.dtype)
    joined = (x.reshape(*x.shape[:2], -1) for x in (q_BLHK, k_BSHK, v_BSHK))
    return tpu_attention.attention(*joined, size, is_causal).reshape(q_BLHK.shape)


def _one_by_one() -> bool:
    return jax.default_backend() == "cpu"


def _by_head(one_head: Callable[[Array, Array, Array], Array], q_BLHK: Array, k_BSHK: Array, v_BSHK: Array) -> Array:
    """`one_head` of scaled queries, keys and values: of each head of each row, on the CPU one after another."""
    batch, _, heads, size = q_BLHK.shape

    def by_head(x_BLHK: Array) -> Array:
        return jnp.swapaxes(x_BLHK, 1, 2).reshape(batch * heads, -1, size)

    qkv = (by_head(q_BLHK * jnp.asarray(size**-0.5, q_BLHK.dtype)), by_head(k_BSHK), by_head(v_BSHK))
    out_NLK = jax.lax.map(lambda one: one_head(*one), qkv) if _one_by_one() else jax.vmap(one_head)(*qkv)
    return jnp.swapaxes(out_NLK.reshape(batch, heads, -1, size), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _one_head(is_causal: bool, q_LK: Array, k_SK: Array, v_SK: Array) -> Array:
    return _one_head_forward(is_causal, q_LK, k_SK, v_SK)[0]


def _one_head_forward(is_causal: bool, q_LK: Array, k_SK: Array, v_SK: Array) -> tuple[Array, tuple[Array, ...]]:
    scores_LS = _scores(is_causal, q_LK, k_SK.T)
    if _one_by_one():
        top_L1 = scores_LS.max(-1, keepdims=True)
        weights_LS = jnp.exp(scores_LS - top_L1)
        total_L1 = weights_LS.sum(-1, keepdims=True)
    else:
        top_L1, total_L1 = (x_L[:, None] for x_L in top_and_total(scores_LS))
        weights_LS = jnp.exp(scores_LS - top_L1)
    out_LK = _dot(weights_LS.astype(v_SK.dtype), v_SK) / total_L1
    out_LK = out_LK.astype(q_LK.dtype)
    return out_LK, (q_LK, k_SK, v_SK, out_LK, top_L1 + jnp.log(total_L1))


def _one_head_backward(is_causal: bool, kept: tuple[Array, ...], grad_LK: Array) -> tuple[Array, Array, Array]:
    """Gradients from the output and the log of the softmax's denominator (arXiv 2205.14135, algorithm 4).

    A block of queries at a time: on a CPU its four arrays of scores stay in the cache, which the forward pass's one
    does anyway.
    """
    q_LK, k_SK, v_SK, out_LK, log_total_L1 = kept
    dtype, length = q_LK.dtype, len(q_LK)
    row_L1 = (grad_LK.astype(jnp.float32) * out_LK.astype(jnp.float32)).sum(-1, keepdims=True)
    most = min(length, BLOCKS[jax.default_backend()])
    block = max(size for size in range(1, most + 1) if length % size == 0)

    def of_block(sums: tuple[Array, Array], rows: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        grad_k_SK, grad_v_SK = sums
        first, q_QK, grad_QK, log_total_Q1, row_Q1 = rows
        p_QS = jnp.exp(_scores(is_causal, q_QK, k_KS, first) - log_total_Q1)
        grad_scores_QS = (p_QS * (_dot(grad_QK, v_KS) - row_Q1)).astype(dtype)
        sums = grad_k_SK + _dot(grad_scores_QS.T, q_QK), grad_v_SK + _dot(p_QS.astype(dtype).T, grad_QK)
        return sums, _dot(grad_scores_QS, k_SK).astype(dtype)

    rows = [x.reshape(-1, block, x.shape[-1]) for x in (q_LK, grad_LK, log_total_L1, row_L1)]
    k_KS, v_KS = k_SK.T, v_SK.T
    nothing_SK = 0 * k_SK.astype(jnp.float32)
    (grad_k_SK, grad_v_SK), grad_q_NQK = jax.lax.scan(
        of_block, (nothing_SK, nothing_SK), (jnp.arange(0, length, block), *rows)
    )
    return grad_q_NQK.reshape(q_LK.shape), grad_k_SK.astype(dtype), grad_v_SK.astype(dtype)


def _scores(is_causal: bool, q_LK: Array, k_KS: Array, first: int | Array = 0) -> Array:
    """Scores of queries from position `first` on."""
    scores_LS = _dot(q_LK, k_KS)
    if is_causal:
        seen_LS = first + jnp.arange(len(q_LK))[:, None] >= jnp.arange(k_KS.shape[1])[None]
        scores_LS = jnp.where(seen_LS, scores_LS, -jnp.inf)
    return scores_LS


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


_one_head.defvjp(_one_head_forward, _one_head_backward)
