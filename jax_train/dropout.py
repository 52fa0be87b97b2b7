"""Dropout in training, at Hugging Face's places and rates: hidden states, activations, attention probabilities.

A model is called with a `Dropout` in training and without one everywhere else. Each place of a traced model draws with
a key of its own, so that a step's dropout depends on the key it was given alone.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jax_train.config import TrainConfig
from jax_train.layers import Branch, Stream


class Dropout:
    """The rates of a run, and the keys of one forward pass in the order in which the model asks."""

    def __init__(self, config: TrainConfig, key: PRNGKeyArray) -> None:
        self._config, self._key, self._drawn = config, key, 0

    def hidden(self, x: Array) -> Array:
        """Of embeddings, and of what an attention or a feed-forward adds to the stream."""
        return self._drop(x, self._config.dropout)

    def activation(self, x: Array) -> Array:
        """Inside a feed-forward, after its GELU."""
        return self._drop(x, self._config.activation_dropout)

    @property
    def hides(self) -> bool:
        """Whether hidden states are dropped."""
        return self._config.dropout > 0

    @property
    def attends(self) -> bool:
        """Whether attention probabilities are dropped, which fused attention cannot."""
        return self._config.attention_dropout > 0

    def attention(
        self,
        q_BLHK: Float[Array, "B L H K"],
        k_BSHK: Float[Array, "B S H K"],
        v_BSHK: Float[Array, "B S H K"],
        is_causal: bool,
    ) -> Float[Array, "B L H K"]:
        """As `attention.attend`, with dropped probabilities, which the backward pass computes again."""
        key = self._next()

        def attend(q_BLHK: Array, k_BSHK: Array, v_BSHK: Array) -> Array:
            scores_BHLS = jnp.einsum("blhk,bshk->bhls", q_BLHK, k_BSHK, preferred_element_type=jnp.float32)
            scores_BHLS = scores_BHLS * q_BLHK.shape[-1] ** -0.5
            if is_causal:
                seen_LS = jnp.tril(jnp.ones(scores_BHLS.shape[-2:], bool))
                scores_BHLS = jnp.where(seen_LS[None, None], scores_BHLS, -jnp.inf)
            p_BHLS = drop(jax.nn.softmax(scores_BHLS), self._config.attention_dropout, key).astype(v_BSHK.dtype)
            return jnp.einsum("bhls,bshk->blhk", p_BHLS, v_BSHK)

        return jax.checkpoint(attend)(q_BLHK, k_BSHK, v_BSHK)

    def _next(self) -> PRNGKeyArray:
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)

    def _drop(self, x: Array, rate: float) -> Array:
        return drop(x, rate, self._next()) if rate else x


def hidden(x: Array, dropout: Dropout | None) -> Array:
    """Hidden states, in training as dropout leaves them."""
    return dropout.hidden(x) if dropout else x


def added(x: Array, branch: Branch, dropout: Dropout | None) -> Stream:
    """The stream `x` with a branch, which dropout wants whole."""
    if dropout and dropout.hides:
        return Stream(x + dropout.hidden(branch.whole()))
    return Stream(x, branch)


def drop(x: Array, rate: float, key: PRNGKeyArray) -> Array:
    """`x` with a share of `rate` set to 0 and the rest made larger, so that its mean stays."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), jnp.zeros((), x.dtype))
