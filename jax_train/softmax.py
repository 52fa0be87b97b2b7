"""A softmax's denominator in one pass over what it is of, where a device waits for memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LEAST = float(jnp.finfo(jnp.float32).min)  # no -inf, from which nothing can be taken away


def top_and_total(x_RC: Float[Array, "R C"]) -> tuple[Float[Array, "R"], Float[Array, "R"]]:
    """Of each row its largest number, and the sum of exp(x - largest): scaled anew whenever a larger one comes.

    Source: arXiv 1805.02867.
    """

    def joined(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        top = jnp.maximum(one[0], other[0])
        return top, one[1] * jnp.exp(one[0] - top) + other[1] * jnp.exp(other[0] - top)

    none = (jnp.float32(LEAST), jnp.float32(0))
    top_R, total_R = jax.lax.reduce((x_RC, jnp.ones_like(x_RC)), none, joined, (1,))
    return top_R, total_R
