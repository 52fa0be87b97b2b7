"""Softmax attention on a CPU by a kernel of ours, `cpu_attention.cc`, in float32.

B batch, L query positions, S key positions, H heads, K head size.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_train import cpu_kernels

SIZES = range(16, 257, 16)  # of heads: whole vectors of any processor


def takes(q_BLHK: Array) -> bool:
    """Whether these queries' attention is the kernel's."""
    return q_BLHK.dtype == jnp.float32 and q_BLHK.shape[-1] in SIZES and cpu_kernels.ready()


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attention(
    q_BLHK: Float[Array, "B L H K"], k_BSHK: Float[Array, "B S H K"], v_BSHK: Float[Array, "B S H K"], is_causal: bool
) -> Float[Array, "B L H K"]:
    """Softmax attention scaled by K^-1/2; causal: query l sees keys 0 to l. For queries that the kernel `takes`."""
    return _forward(is_causal, q_BLHK, k_BSHK, v_BSHK)[0]


def counted(
    q_BLHK: Float[Array, "B L H K"],
    k_BSHK: Float[Array, "B S H K"],
    v_BSHK: Float[Array, "B S H K"],
    log_count_S: Float[Array, "S"] | None,
) -> Float[Array, "B L H K"]:
    """The same in which key s counts as often as exp(`log_count_S`) says, if given. Has no derivative."""
    varies = tuple(jax.typeof(q_BLHK).manual_axis_type.varying)  # over which devices, in `shard_map`
    if varies and log_count_S is not None:
        log_count_S = jax.lax.pcast(log_count_S, varies, to="varying")
    return _forward(False, q_BLHK, k_BSHK, v_BSHK, log_count_S)[0]


def _forward(
    is_causal: bool, q_BLHK: Array, k_BSHK: Array, v_BSHK: Array, log_count_S: Array | None = None
) -> tuple[Array, Array]:
    """Attention, and the logarithm of each softmax's denominator."""
    batch, length, heads, _ = q_BLHK.shape
    counts = q_BLHK[0, 0, 0, :0] if log_count_S is None else log_count_S
    q_type = jax.typeof(q_BLHK)  # says over which devices it varies, in `shard_map`
    call = jax.ffi.ffi_call("attention_forward", (q_type, q_type.update(shape=(batch, heads, length, 1))))
    out_BLHK, log_total_BHL1 = call(q_BLHK, k_BSHK, v_BSHK, counts, causal=is_causal)
    return out_BLHK, log_total_BHL1


def _kept(is_causal: bool, q_BLHK: Array, k_BSHK: Array, v_BSHK: Array) -> tuple[Array, tuple[Array, ...]]:
    out_BLHK, log_total_BHL1 = _forward(is_causal, q_BLHK, k_BSHK, v_BSHK)
    return out_BLHK, (q_BLHK, k_BSHK, v_BSHK, out_BLHK, log_total_BHL1)


def _backward(is_causal: bool, kept: tuple[Array, ...], grad_BLHK: Array) -> tuple[Array, ...]:
    q_BLHK, k_BSHK, v_BSHK, out_BLHK, log_total_BHL1 = kept
    call = jax.ffi.ffi_call("attention_backward", [jax.typeof(x) for x in (q_BLHK, k_BSHK, v_BSHK)])
    return tuple(call(q_BLHK, k_BSHK, v_BSHK, out_BLHK, grad_BLHK, log_total_BHL1, causal=is_causal))


attention.defvjp(lambda q, k, v, is_causal: _kept(is_causal, q, k, v), _backward)
