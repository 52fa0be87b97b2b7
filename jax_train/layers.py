"""How Whisper's parts are made: float32 parameters, computing in the model's type, with PyTorch's numerics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which Whisper was trained with
INITIAL_STDDEV = 0.02  # Hugging Face's init_std


class LeanLayerNorm(nnx.LayerNorm):
    """A layer norm whose backward pass keeps nothing but its input: computing it again costs less than reading it."""

    def __call__(self, x: Array, **options: Any) -> Array:
        """The input with mean 0 and variance 1 along its last axis, scaled and shifted."""
        normed: Array = jax.checkpoint(lambda x: super(LeanLayerNorm, self).__call__(x, **options))(x)
        return normed


class Table(nnx.Embed):
    """Vectors looked up in float32 and then cast: tokens that come often add their gradients up in float32 too."""

    def __call__(self, inputs: Array) -> Array:
        """The vectors of these rows."""
        return jnp.take(self.embedding[...], inputs, axis=0).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Builds the model's layers: float32 parameters, computing in `dtype`; without `rngs` their shapes alone.

    Shapes alone, because tracing the random initial values of a large model takes minutes that loading throws away.
    """

    dtype: DTypeLike
    rngs: nnx.Rngs | None
    remat: bool = False

    def linear(self, n_in: int, n_out: int, use_bias: bool = True) -> nnx.Linear:
        """A matrix and a bias."""
        return nnx.Linear(n_in, n_out, use_bias=use_bias, **self._weights())

    def conv(self, n_in: int, n_out: int, stride: int) -> nnx.Conv:
        """A convolution three frames wide."""
        return nnx.Conv(n_in, n_out, (3,), strides=stride, padding=((1, 1),), **self._weights())

    def norm(self, d_model: int) -> nnx.LayerNorm:
        """A layer norm; its fast variance, E[x²] − E[x]², would lose the digits that parity with PyTorch needs."""
        ones = self._or_shape(nnx.initializers.ones_init())
        zeros = self._or_shape(nnx.initializers.zeros_init())
        return LeanLayerNorm(
            d_model,
            epsilon=LAYER_NORM_EPSILON,
            use_fast_variance=False,
            dtype=self.dtype,
            scale_init=ones,
            bias_init=zeros,
            rngs=self.rngs or nnx.Rngs(0),
        )

    def embed(self, count: int, d_model: int) -> Table:
        """A table of vectors."""
        initial = self._or_shape(nnx.initializers.normal(INITIAL_STDDEV))
        return Table(count, d_model, dtype=self.dtype, embedding_init=initial, rngs=self.rngs or nnx.Rngs(0))

    def _weights(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "kernel_init": self._or_shape(nnx.initializers.normal(INITIAL_STDDEV)),
            "bias_init": self._or_shape(nnx.initializers.zeros_init()),
            "rngs": self.rngs or nnx.Rngs(0),
        }

    def _or_shape(self, initializer: Callable[..., Any]) -> Callable[..., Any]:
        return initializer if self.rngs else lambda _key, shape, dtype: jax.ShapeDtypeStruct(shape, dtype)
