"""Dynamic loss scaling, for float16: gradients below 6e-8 would be 0 in it.

The loss is multiplied by a scale as large as float16 bears, and the gradients are divided by it: doubled after some
steps without overflow, halved at one, whose update is left out (arXiv 1710.03740, with the numbers of PyTorch's
`GradScaler`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

INITIAL = 2.0**16
STEPS_TO_DOUBLE = 2000
LEAST = 1.0


class LossScale(NamedTuple):
    """What the loss is multiplied by, and for how many steps that has gone well."""

    scale: Float[Array, ""]
    good_steps: Int[Array, ""]

    @classmethod
    def initial(cls) -> "LossScale":
        """Before the first step."""
        return cls(jnp.asarray(INITIAL, jnp.float32), jnp.zeros((), jnp.int32))

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """After a step whose gradients were, or were not, finite."""
        good_steps = jnp.where(finite, self.good_steps + 1, 0)
        doubles = good_steps >= STEPS_TO_DOUBLE
        scale = jnp.where(finite, jnp.where(doubles, self.scale * 2, self.scale), self.scale / 2)
        return LossScale(jnp.maximum(scale, LEAST), jnp.where(doubles, 0, good_steps))
