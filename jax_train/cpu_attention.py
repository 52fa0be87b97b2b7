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
    return _forward(q_BLHK, k_BSHK, v_BSHK, is_causal)[0]


def counted(
    q_BLHK: Float[Array, "B L H K"],
    k_BSHK: Float[Array, "B S H K"],
    v_BSHK: Float[Array, "B S H K"],
    log_count_S: Float[Array, "S"] | None,
) -> Float[Array, "B L H K"]:
    """The same in which key s counts as often as exp(`log_count_S`) says, if given. Has no derivative."""
    return _forward(q_BLHK, k_BSHK, v_BSHK, False, log_count_S)[0]


def _forward(
    q_BLHK: Array, k_BSHK: Array, v_BSHK: Array, is_causal: bool, log_count_S: Array | None = None
) -> tuple[Array, Array]:
    """Attention, and the logarithm of each softmax's denominator."""
    batch, length, heads, _ = q_BLHK.shape
    counts = q_BLHK[0, 0, 0, :0] if log_count_S is None else cpu_kernels.own(log_count_S, q_BLHK)
    q_type = jax.typeof(q_BLHK)  # says over which devices it varies, in `shard_map`
    call = jax.ffi.ffi_call("attention_forward", (q_type, q_type.update(shape=(batch, heads, length, 1))))
    out_BLHK, log_total_BHL1 = call(q_BLHK, k_BSHK, v_BSHK, counts, causal=is_causal)
    return out_BLHK, log_total_BHL1


def _kept(q_BLHK: Array, k_BSHK: Array, v_BSHK: Array, is_causal: bool) -> tuple[Array, tuple[Array, ...]]:
    out_BLHK, log_total_BHL1 = _forward(q_BLHK, k_BSHK, v_BSHK, is_causal)
    return out_BLHK, (q_BLHK, k_BSHK, v_BSHK, out_BLHK, log_total_BHL1)


def _backward(is_causal: bool, kept: tuple[Array, ...], grad_BLHK: Array) -> tuple[Array, ...]:
    q_BLHK, k_BSHK, v_BSHK, out_BLHK, log_total_BHL1 = kept
    call = jax.ffi.ffi_call("attention_backward", [jax.typeof(x) for x in (q_BLHK, k_BSHK, v_BSHK)])
    return tuple(call(q_BLHK, k_BSHK, v_BSHK, out_BLHK, grad_BLHK, log_total_BHL1, causal=is_causal))


attention.defvjp(_kept, _backward)
