"""Layer norm, biases and GELU, with backward passes of our own.

Decision: on a GPU they are a third of a training step, as each reads and writes all activations, and XLA's derivatives
do so up to five times as often as is needed (figures in docs/performance.md). These keep nothing for the backward pass
but their input, as computing again costs less than reading more, and add up over positions in float32 whatever the
type. Large NVIDIA GPUs have kernels for them (`kernels.py`), all other devices the same in plain operations.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_train.precision import has_kernels

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which Whisper was trained with
ROOT_OF_HALF = np.float32(0.5**0.5)
DENSITY_AT_0 = np.float32((2 * np.pi) ** -0.5)
ERFC_P = 0.3275911
ERFC_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""erfc(z) = (a1 t + ... + a5 t^5) exp(-z²), t = 1 / (1 + p z), z >= 0 (Abramowitz and Stegun 7.1.26)."""
LARGE = 1 << 20
"""Numbers from which on a kernel pays; a decoder's step has fewer, which XLA does along with what comes before."""


@jax.custom_vjp
def layer_norm(
    x_BLD: Float[Array, "B L D"], scale_D: Float[Array, "D"], bias_D: Float[Array, "D"]
) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
    """`x` itself, and `x` with mean 0 and variance 1 along its last axis, scaled and shifted; in x's type.

    Both, because a layer adds its branch to what it normalizes: their gradients are added up in one pass.
    """
    if _on_kernels(x_BLD):
        from jax_train import kernels  # a tenth of a command's start, and only GPUs ask for it

        normed_RD = kernels.layer_norm(_rows(x_BLD), scale_D, bias_D, LAYER_NORM_EPSILON)
        return x_BLD, normed_RD.reshape(x_BLD.shape)
    normed_BLD, _ = _normed(x_BLD.astype(jnp.float32))
    return x_BLD, (normed_BLD * _wide(scale_D) + _wide(bias_D)).astype(x_BLD.dtype)


def _normed(x_BLD: Array) -> tuple[Array, Array]:
    """Mean 0 and variance 1, and what the deviations were multiplied by.

    Not by E[x²] − E[x]², which would lose the digits that parity with PyTorch needs.
    """
    deviation_BLD = x_BLD - x_BLD.mean(-1, keepdims=True)
    factor_BL1 = jax.lax.rsqrt((deviation_BLD * deviation_BLD).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return deviation_BLD * factor_BL1, factor_BL1


def _layer_norm_forward(x_BLD: Array, scale_D: Array, bias_D: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return layer_norm(x_BLD, scale_D, bias_D), (x_BLD, scale_D)


def _layer_norm_backward(kept: tuple[Array, Array], grads: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    (x_BLD, scale_D), (beside_BLD, grad_BLD) = kept, grads
    if _on_kernels(x_BLD):
        from jax_train import kernels

        grad_x_RD, grad_scale_D, grad_bias_D = kernels.layer_norm_backward(
            _rows(x_BLD), _rows(grad_BLD), _rows(beside_BLD), scale_D, LAYER_NORM_EPSILON, False
        )
        return grad_x_RD.reshape(x_BLD.shape), grad_scale_D, grad_bias_D
    normed_BLD, factor_BL1 = _normed(_again(x_BLD).astype(jnp.float32))
    wide_BLD = grad_BLD.astype(jnp.float32)
    scaled_BLD = wide_BLD * _wide(scale_D)
    along_BL1 = (scaled_BLD * normed_BLD).mean(-1, keepdims=True)
    grad_x_BLD = factor_BL1 * (scaled_BLD - scaled_BLD.mean(-1, keepdims=True) - normed_BLD * along_BL1)
    grad_x_BLD = grad_x_BLD.astype(x_BLD.dtype) + beside_BLD
    return grad_x_BLD, (wide_BLD * normed_BLD).sum((0, 1)), wide_BLD.sum((0, 1))


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def add_layer_norm(
    x_BLD: Float[Array, "B L D"],
    branch_BLD: Float[Array, "B L D"],
    branch_bias_D: Float[Array, "D"],
    scale_D: Float[Array, "D"],
    bias_D: Float[Array, "D"],
) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
    """`x` with a branch and its bias added, and the layer norm of that, as `layer_norm` has it.

    On kernels in one pass, and backwards the sum for the branch's bias in another's. XLA adds branches within a matrix
    product, which writes over x, of which it makes a copy first.
    """
    if _on_kernels(x_BLD):
        summed: tuple[Array, Array] = _add_layer_norm(x_BLD, branch_BLD, branch_bias_D, scale_D, bias_D)
        return summed
    both: tuple[Array, Array] = layer_norm(x_BLD + add_bias(branch_BLD, branch_bias_D), scale_D, bias_D)
    return both


@jax.custom_vjp
def _add_layer_norm(
    x_BLD: Array, branch_BLD: Array, branch_bias_D: Array, scale_D: Array, bias_D: Array
) -> tuple[Array, Array]:
    from jax_train import kernels

    both = kernels.add_layer_norm(_rows(x_BLD), _rows(branch_BLD), branch_bias_D, scale_D, bias_D, LAYER_NORM_EPSILON)
    return both[0].reshape(x_BLD.shape), both[1].reshape(x_BLD.shape)


def _add_layer_norm_forward(
    x_BLD: Array, branch_BLD: Array, branch_bias_D: Array, scale_D: Array, bias_D: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    both = _add_layer_norm(x_BLD, branch_BLD, branch_bias_D, scale_D, bias_D)
    return both, (both[0], scale_D)


def _add_layer_norm_backward(kept: tuple[Array, Array], grads: tuple[Array, Array]) -> tuple[Array, ...]:
    from jax_train import kernels

    (sum_BLD, scale_D), (beside_BLD, grad_BLD) = kept, grads
    grad_RD, grad_scale_D, grad_bias_D, grad_branch_bias_D = kernels.layer_norm_backward(
        _rows(sum_BLD), _rows(grad_BLD), _rows(beside_BLD), scale_D, LAYER_NORM_EPSILON, True
    )
    grad_sum_BLD = grad_RD.reshape(sum_BLD.shape)
    return grad_sum_BLD, grad_sum_BLD, grad_branch_bias_D, grad_scale_D, grad_bias_D


_add_layer_norm.defvjp(_add_layer_norm_forward, _add_layer_norm_backward)


@jax.custom_vjp
def twice(x: Array) -> tuple[Array, Array]:
    """`x` for a matrix product, and for all who read it later.

    As `(x, x)`, but that the product's gradient comes first in their sum, as cuBLAS has to have it to add the others'
    itself: else each sum is a pass over all activations.
    """
    return x, x


def _twice_backward(_kept: None, grads: tuple[Array, Array]) -> tuple[Array]:
    return (grads[0] + grads[1],)


twice.defvjp(lambda x: ((x, x), None), _twice_backward)


@jax.custom_vjp
def add_bias(x_BLD: Float[Array, "B L D"], bias_D: Float[Array, "D"]) -> Float[Array, "B L D"]:
    """`x` plus a float32 bias, in x's type."""
    return x_BLD + bias_D.astype(x_BLD.dtype)[None, None]


def _add_bias_forward(x_BLD: Array, bias_D: Array) -> tuple[Array, None]:
    return add_bias(x_BLD, bias_D), None


def _add_bias_backward(_kept: None, grad_BLD: Array) -> tuple[Array, Array]:
    return grad_BLD, grad_BLD.astype(jnp.float32).sum((0, 1))


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def bias_gelu(x_BLD: Float[Array, "B L D"], bias_D: Float[Array, "D"]) -> Float[Array, "B L D"]:
    """Exact GELU, y · Φ(y), of y = x + a float32 bias, as PyTorch's; computed in float32, in x's type.

    In float32 Φ is by `erf`. In half-precision types it is by an exponential that its derivative has too; that differs
    by at most 7e-8, and by less of Φ than bfloat16 holds down to y = -6, below which Φ is under 1e-9.
    """
    if _on_kernels(x_BLD):
        from jax_train import kernels

        return kernels.biased(_rows(x_BLD), bias_D, _fast_gelu).reshape(x_BLD.shape)
    wide_BLD = x_BLD.astype(jnp.float32) + _wide(bias_D)
    return (wide_BLD * _normal(wide_BLD, x_BLD.dtype)[0]).astype(x_BLD.dtype)


def _normal(x: Array, dtype: jax.typing.DTypeLike) -> tuple[Array, Array]:
    """The normal distribution's Φ and density, as precisely as a type needs."""
    if dtype != jnp.float32:
        return _fast_normal(x)
    return 0.5 * (1.0 + jax.lax.erf(x * ROOT_OF_HALF)), jnp.exp(-0.5 * x * x) * DENSITY_AT_0


def _fast_normal(x: Array) -> tuple[Array, Array]:
    """In few instructions, as a GPU's kernel is bound by them: a power of 2, and no division but a reciprocal root."""
    bell = jnp.exp2(x * x * float(-0.5 * np.log2(np.e)))
    base = 1.0 + float(ERFC_P * ROOT_OF_HALF) * jnp.abs(x)
    t = jax.lax.rsqrt(base * base)
    series = jnp.full_like(t, 0.5 * ERFC_A[-1])
    for a in reversed(ERFC_A[:-1]):
        series = series * t + 0.5 * a
    tail = series * t * bell
    return jnp.where(x < 0, tail, 1.0 - tail), bell * float(DENSITY_AT_0)


def _bias_gelu_forward(x_BLD: Array, bias_D: Array) -> tuple[Array, tuple[Array, Array]]:
    return bias_gelu(x_BLD, bias_D), (x_BLD, bias_D)


def _bias_gelu_backward(kept: tuple[Array, Array], grad_BLD: Array) -> tuple[Array, Array]:
    x_BLD, bias_D = kept
    if _on_kernels(x_BLD):
        from jax_train import kernels

        grad_x_RD, grad_bias_D = kernels.biased_backward(_rows(x_BLD), bias_D, _rows(grad_BLD), _fast_derivative)
        return grad_x_RD.reshape(x_BLD.shape), grad_bias_D
    wide_BLD = _again(x_BLD).astype(jnp.float32) + _wide(bias_D)
    cdf_BLD, density_BLD = _normal(wide_BLD, x_BLD.dtype)
    grad_x_BLD = (cdf_BLD + wide_BLD * density_BLD) * grad_BLD.astype(jnp.float32)
    return grad_x_BLD.astype(x_BLD.dtype), grad_x_BLD.sum((0, 1))


def _fast_gelu(x: Array) -> Array:
    return x * _fast_normal(x)[0]


def _fast_derivative(x: Array) -> Array:
    cdf, density = _fast_normal(x)
    return cdf + x * density


bias_gelu.defvjp(_bias_gelu_forward, _bias_gelu_backward)


def _again(x: Array) -> Array:
    """What is kept for the backward pass, which else the compiler would extend by what the forward pass made of it."""
    kept: Array = jax.lax.optimization_barrier(x)
    return kept


def _wide(x_D: Array) -> Array:
    """Of every position and in float32, in which a decoder's weights may not be kept."""
    return x_D.astype(jnp.float32)[None, None]


def _rows(x_BLD: Array) -> Array:
    return x_BLD.reshape(-1, x_BLD.shape[-1])


def _on_kernels(x: Array) -> bool:
    return x.size >= LARGE and has_kernels(jax.devices()[0], x.dtype.name)
