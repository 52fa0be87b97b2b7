"""Greedy and sampled decoding: each row's likeliest token, or one drawn by its probability, until the row ends.

Decision: encoder, prompt and token loop are one jitted function: no Python and no copy to the host between tokens.
Drawing is Hugging Face's: from the `TOP` likeliest tokens at a temperature. A row's draws depend on its seed alone.

B batch, M mel bins, F mel frames (3000 in 30 s), N new tokens, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jax_train.decoder_steps import Cache, advance, in_stages, prompted
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Whisper

TOP = 50  # `generate`'s default top_k when it samples


class Decoded(NamedTuple):
    """What a batch's rows wrote, and how sure they were."""

    tokens_BN: Int[Array, "B N"]
    """New tokens, from the first after the prompt; `rules.end` from where a row ends."""
    log_prob_B: Float[Array, "B"]
    """Mean log-probability of a row's tokens, its end included, among those that the rules allow."""
    no_speech_B: Float[Array, "B"]
    """Probability of <|nospeech|> after <|startoftranscript|>."""


class Sampling(NamedTuple):
    """How to draw tokens."""

    temperature: Float[Array, ""]
    """Logits are divided by it; more than 0."""
    seed_B: UInt32[Array, "B"]
    """One of each row."""


class State(NamedTuple):
    """The loop's."""

    n_done: Int[Array, ""]
    last_B: Int[Array, "B"]
    tokens_BN: Int[Array, "B N"]
    log_prob_B: Float[Array, "B"]
    cache: Cache


def greedy(
    model: Whisper, log_mel_BFM: Float[Array, "B F M"], rules: DecodingRules, sampling: Sampling | None = None
) -> Decoded:
    """The rows' transcripts: at each place the likeliest token, or with `sampling` one that is drawn."""
    start = prompted(model, log_mel_BFM, rules)
    n_prompt, n_new = len(rules.prompt), rules.max_new_tokens

    def chosen(logits_BV: Float[Array, "B V"], n_done: int | Int[Array, ""]) -> tuple[Array, Array]:
        return _likeliest(logits_BV) if sampling is None else _drawn(logits_BV, sampling, n_done)

    def add_token(state: State) -> State:
        n_done, last_B, tokens_BN, log_prob_B, cache = state
        logits_BV, _, cache = advance(model.decoder, last_B[:, None], n_prompt + n_done - 1, cache, start.cross)
        next_B, more_B = chosen(rules.later(logits_BV, tokens_BN, n_done), n_done)
        next_B = jnp.where(last_B == rules.end, rules.end, next_B)
        log_prob_B = log_prob_B + jnp.where(last_B == rules.end, 0.0, more_B)
        tokens_BN = jax.lax.dynamic_update_slice_in_dim(tokens_BN, next_B[:, None], n_done, axis=1)
        return State(n_done + 1, next_B, tokens_BN, log_prob_B, cache)

    def unfinished(state: State) -> Bool[Array, ""]:
        return (state.n_done < n_new) & jnp.any(state.last_B != rules.end)

    first_B, log_prob_B = chosen(rules.first(start.logits_BV), 0)
    tokens_BN = jnp.full((len(first_B), n_new), rules.end, jnp.int32).at[:, 0].set(first_B)
    end = in_stages(unfinished, add_token, State(jnp.int32(1), first_B, tokens_BN, log_prob_B, start.cache), rules)
    return Decoded(end.tokens_BN, end.log_prob_B / n_written(end.tokens_BN, rules.end), start.no_speech_B)


def n_written(tokens_XN: Int[Array, "*X N"], end: int) -> Float[Array, "*X"]:
    """How many tokens each row wrote, its `end` included if there was a place for it."""
    return jnp.minimum((tokens_XN != end).sum(-1) + 1, tokens_XN.shape[-1]).astype(jnp.float32)


def _likeliest(logits_BV: Float[Array, "B V"]) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    next_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return next_B, logits_BV.max(axis=-1) - jax.nn.logsumexp(logits_BV, axis=-1)


def _drawn(
    logits_BV: Float[Array, "B V"], sampling: Sampling, n_done: int | Int[Array, ""]
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Tokens, and their log-probabilities among the `TOP` likeliest at temperature 1."""
    keys_B = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), n_done))(sampling.seed_B)
    top_BT, tokens_BT = jax.lax.top_k(logits_BV, min(TOP, logits_BV.shape[1]))
    place_B1 = jax.vmap(jax.random.categorical)(keys_B, top_BT / sampling.temperature)[:, None]
    log_prob_B1 = jnp.take_along_axis(jax.nn.log_softmax(top_BT, axis=-1), place_B1, axis=1)
    return jnp.take_along_axis(tokens_BT, place_B1, axis=1)[:, 0], log_prob_B1[:, 0]
