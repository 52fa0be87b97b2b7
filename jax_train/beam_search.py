"""Beam search, step for step as Hugging Face's `generate` does it with its defaults.

Decision: every candidate is kept in fixed shapes, a row's beams share the encoder's memory, and a row's result does not
depend on the others in its batch. Length penalty 1 (scores are means over the tokens) and no early stopping: a row is
done when its best running beam, at the length it has now, is no better than the worst of W finished ones. The mean is
over a sum of log-probabilities among all tokens; `Decoded.log_prob_B` counts the allowed alone, as without beams.

B batch, W beams, R rows of the decoder (B · W), K candidates (2 W: W of them may end, and W go on), M mel bins, F mel
frames, N new tokens, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_train.decoder_steps import Cache, advance, in_stages, prompted
from jax_train.decoding_rules import DecodingRules
from jax_train.greedy import Decoded, n_written
from jax_train.model import Whisper

OUT = -1e9  # the score of what is out of the race


class Beams(NamedTuple):
    """Some transcripts of each row, finished or not: X running, finished or candidate ones."""

    tokens_BXN: Int[Array, "B X N"]
    score_BX: Float[Array, "B X"]
    """What they compete by."""
    log_prob_BX: Float[Array, "B X"]
    """Sum over the tokens, of the log-probabilities among the allowed."""

    def best(self, count: int) -> tuple["Beams", Int[Array, "B W"]]:
        """The `count` of highest score, and their places."""
        place_BW = jax.lax.top_k(self.score_BX, count)[1]
        return self.at(place_BW), place_BW

    def at(self, place_BW: Int[Array, "B W"]) -> "Beams":
        """Those at the given places."""
        return Beams(
            jnp.take_along_axis(self.tokens_BXN, place_BW[:, :, None], axis=1),
            jnp.take_along_axis(self.score_BX, place_BW, axis=1),
            jnp.take_along_axis(self.log_prob_BX, place_BW, axis=1),
        )

    def joined(self, others: "Beams") -> "Beams":
        """These and the others."""
        return Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(self, others, strict=True)))


class State(NamedTuple):
    """The loop's."""

    n_done: Int[Array, ""]
    running: Beams
    finished: Beams
    is_full_B: Bool[Array, "B"]
    """W transcripts are finished and no running one can be better."""
    cache: Cache


def beam_search(model: Whisper, log_mel_BFM: Float[Array, "B F M"], rules: DecodingRules, num_beams: int) -> Decoded:
    """The rows' best transcripts of those that `num_beams` at a time lead to."""
    start = prompted(model, log_mel_BFM, rules)
    rows, n_prompt, n_new = log_mel_BFM.shape[0], len(rules.prompt), rules.max_new_tokens
    row_R = jnp.repeat(jnp.arange(rows), num_beams)

    def add_token(state: State) -> State:
        n_done, running, cache = state.n_done, state.running, state.cache
        tokens_RN = running.tokens_BXN.reshape(-1, n_new)
        last_R = jax.lax.dynamic_index_in_dim(tokens_RN, n_done - 1, axis=1, keepdims=False)
        logits_RV, _, cache = advance(model.decoder, last_R[:, None], n_prompt + n_done - 1, cache, start.cross)
        later_RV = rules.later(jax.nn.log_softmax(logits_RV), tokens_RN, n_done)
        return _continued(state._replace(cache=cache), later_RV, rules)

    def unfinished(state: State) -> Bool[Array, ""]:
        return (state.n_done < n_new) & ~state.is_full_B.all()

    nothing = Beams(
        jnp.full((rows, num_beams, n_new), rules.end, jnp.int32),
        jnp.full((rows, num_beams), OUT),
        jnp.zeros((rows, num_beams)),
    )
    one = nothing._replace(score_BX=nothing.score_BX.at[:, 0].set(0.0))  # the others would say the same
    cache = [memory.of_rows(row_R) for memory in start.cache]
    first_BV = rules.first(jax.nn.log_softmax(start.logits_BV))
    begun = State(jnp.int32(0), one, nothing, jnp.zeros(rows, bool), cache)
    end = in_stages(unfinished, add_token, _continued(begun, first_BV[row_R], rules), rules)
    best_BN, log_prob_B = end.finished.tokens_BXN[:, 0], end.finished.log_prob_BX[:, 0]
    return Decoded(best_BN, log_prob_B / n_written(best_BN, rules.end), start.no_speech_B)


def _continued(state: State, log_prob_RV: Float[Array, "R V"], rules: DecodingRules) -> State:
    """The state one token on, given the log-probabilities of that token, −∞ where it may not be."""
    n_done, running, finished, was_full_B, cache = state
    rows, num_beams, n_new = running.tokens_BXN.shape
    candidates, parent_BK = _candidates(running, log_prob_RV, n_done)
    token_BK = jax.lax.dynamic_index_in_dim(candidates.tokens_BXN, n_done, axis=2, keepdims=False)
    ends_BK = (token_BK == rules.end) | (n_done + 1 == n_new)
    length = (n_done + 1).astype(jnp.float32)

    going_on = candidates._replace(score_BX=candidates.score_BX + jnp.where(ends_BK, OUT, 0.0))
    running, place_BW = going_on.best(num_beams)
    parent_BW = jnp.take_along_axis(parent_BK, place_BW, axis=1)
    row_R = (jnp.arange(rows)[:, None] * num_beams + parent_BW).reshape(-1)

    counts_BK = ends_BK & (jnp.arange(2 * num_beams) < num_beams)[None] & ~was_full_B[:, None]
    ended = candidates._replace(score_BX=jnp.where(counts_BK, candidates.score_BX / length, OUT))
    finished, _ = finished.joined(ended).best(num_beams)
    has_all_B = finished.score_BX[:, -1] > OUT / 2
    is_full_B = was_full_B | (has_all_B & (running.score_BX[:, 0] / length <= finished.score_BX[:, -1]))
    return State(n_done + 1, running, finished, is_full_B, [memory.of_rows(row_R) for memory in cache])


def _candidates(
    running: Beams, log_prob_RV: Float[Array, "R V"], n_done: Int[Array, ""]
) -> tuple[Beams, Int[Array, "B K"]]:
    """The 2 W best continuations by one token, and the beam each continues. Best of each beam first: V is large."""
    rows, num_beams, _ = running.tokens_BXN.shape
    count = 2 * num_beams
    allowed_RK, token_RK = jax.lax.top_k(log_prob_RV, count)
    score_BX = (running.score_BX[:, :, None] + allowed_RK.reshape(rows, num_beams, count)).reshape(rows, -1)
    log_prob_RK = allowed_RK - jax.nn.logsumexp(log_prob_RV, axis=1, keepdims=True)
    log_prob_BX = (running.log_prob_BX[:, :, None] + log_prob_RK.reshape(rows, num_beams, count)).reshape(rows, -1)
    place_BK = jax.lax.top_k(score_BX, count)[1]
    parent_BK = place_BK // count
    token_BK = jnp.take_along_axis(token_RK.reshape(rows, -1), place_BK, axis=1)
    continued = Beams(running.tokens_BXN, running.score_BX, running.log_prob_BX).at(parent_BK)
    tokens_BKN = jax.lax.dynamic_update_slice_in_dim(continued.tokens_BXN, token_BK[:, :, None], n_done, axis=2)
    scores_BK, log_prob_BK = (jnp.take_along_axis(x_BX, place_BK, axis=1) for x_BX in (score_BX, log_prob_BX))
    return Beams(tokens_BKN, scores_BK, log_prob_BK), parent_BK
