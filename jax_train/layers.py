"""How Whisper's parts are made: float32 parameters, computing in the model's type, with PyTorch's numerics."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jax_train.cpu_products import product
from jax_train.ops import add_bias, add_layer_norm, bias_gelu, layer_norm

INITIAL_STDDEV = 0.02  # Hugging Face's init_std


class Branch(NamedTuple):
    """What a layer adds to the stream: a matrix product and a bias."""

    product: Array
    bias: Array

    def whole(self) -> Array:
        """Both added up."""
        return add_bias(self.product, self.bias)


class Stream(NamedTuple):
    """What goes from layer to layer, and a branch that the next layer norm adds to it, as part of its own pass."""

    x: Array
    branch: Branch | None = None

    def whole(self) -> Array:
        """Both added up."""
        return self.x if self.branch is None else self.x + self.branch.whole()


class LayerNorm(nnx.LayerNorm):
    """A layer norm over the last axis."""

    def __call__(self, x: Array) -> Array:
        """The input with mean 0 and variance 1 along its last axis, scaled and shifted."""
        return self.beside(Stream(x))[1]

    def beside(self, stream: Stream) -> tuple[Array, Array]:
        """The whole stream, for a layer to add its branch to, and its layer norm."""
        scale, bias = self.scale[...], self.bias[...]
        if stream.branch is not None:
            return add_layer_norm(stream.x, *stream.branch, scale, bias)
        both: tuple[Array, Array] = layer_norm(stream.x, scale, bias)
        return both


class Matrix(nnx.Param[Array]):
    """A linear layer's matrix, whole on this device (or not: `gathering.Split`)."""

    def into(self, part: Callable[..., Array], *inputs: Array) -> Array:
        """What `part` makes of the matrix and the inputs."""
        return part(self[...], *inputs)


class Linear(nnx.Linear):
    """A matrix and a bias, computing in the layer's type."""

    def __init__(self, n_in: int, n_out: int, **options: Any) -> None:
        super().__init__(n_in, n_out, **options)
        self.kernel: Matrix = Matrix(self.kernel.get_value())

    def __call__(self, x: Array) -> Array:
        """The input times the matrix, plus the bias."""
        return self.product(x) if self.bias is None else add_bias(self.product(x), self.bias[...])

    def gelu(self, x: Array) -> Array:
        """GELU of that."""
        return bias_gelu(self.product(x), self.bias[...])

    def branch(self, x: Array) -> Branch:
        """What the layer makes of `x`, its bias not added yet."""
        return Branch(self.product(x), self.bias[...])

    def of_biased(self, x: Array, bias: Array) -> Branch:
        """What the layer makes of `x` plus a bias: its own bias, and the matrix's product with that one, come last."""
        own, bias = self.bias[...].astype(jnp.float32), bias.astype(jnp.float32)

        def through(kernel: Array, bias: Array) -> Array:
            return jnp.matmul(bias, kernel.astype(jnp.float32), precision="highest")

        return Branch(self.product(x), own + self.kernel.into(through, bias))

    def product(self, x: Array) -> Array:
        """The input times the matrix."""
        return self.kernel.into(lambda kernel, x: product(x, kernel.astype(self.dtype)), x.astype(self.dtype))


class Conv(nnx.Conv):
    """A convolution along the one axis there is, computing in the layer's type."""

    def gelu(self, x: Array) -> Array:
        """GELU of the input (B, F, channels) convolved, plus the bias."""
        product = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (self.strides,),
            self.padding,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return bias_gelu(product, self.bias[...])


class Table(nnx.Embed):
    """Vectors looked up in float32 and then cast: tokens that come often add their gradients up in float32 too."""

    def __call__(self, inputs: Array) -> Array:
        """The vectors of these rows."""
        return jnp.take(self.embedding[...], inputs, axis=0).astype(self.dtype)


Remat = Literal["none", "feed_forward", "layers"]
"""What the backward pass computes again, of each layer: nothing, its feed-forward half, all."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """Builds the model's layers: float32 parameters, computing in `dtype`; without `rngs` their shapes alone.

    Shapes alone, because tracing the random initial values of a large model takes minutes that loading throws away.
    """

    dtype: DTypeLike
    rngs: nnx.Rngs | None
    remat: Remat = "none"

    def linear(self, n_in: int, n_out: int, use_bias: bool = True) -> Linear:
        """A matrix and a bias."""
        return Linear(n_in, n_out, use_bias=use_bias, **self._weights())

    def conv(self, n_in: int, n_out: int, stride: int) -> Conv:
        """A convolution three frames wide."""
        return Conv(n_in, n_out, (3,), strides=stride, padding=((1, 1),), **self._weights())

    def norm(self, d_model: int) -> LayerNorm:
        """A layer norm."""
        ones = self._or_shape(nnx.initializers.ones_init())
        zeros = self._or_shape(nnx.initializers.zeros_init())
        return LayerNorm(d_model, scale_init=ones, bias_init=zeros, rngs=self.rngs or nnx.Rngs(0))

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
