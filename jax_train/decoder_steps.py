"""The decoder one token at a time: keys and values kept, in a cache that grows as rows do.

Decision: shapes never change within a loop, so nothing is compiled twice; but a cache with a place for every token
would cost each token the reading of all of it, so the loop has stages: `FIRST_PLACES` hold what a sentence takes, and
only rows that write more go on in a loop with all places.

B batch rows, R rows of the decoder (B, or with W beams of each B · W), M mel bins, F mel frames (3000 in 30 s),
S encoder positions (F / 2), P prompt tokens, N new tokens, C cached positions, L tokens at once, D d_model, H heads,
K head size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_train import cpu_attention
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Decoder, DecoderLayer, Whisper
from jax_train.thinned import encoded

FIRST_PLACES = 64
State = TypeVar("State", bound=Any)


class Memory(NamedTuple):
    """Keys and values one attention looks up, in the layout that reads fastest for a single query.

    In the model's own layout, (B, C, H, K), each query would read its keys with a stride of all heads.
    """

    keys_BHKC: Float[Array, "B H K C"]
    values_BHCK: Float[Array, "B H C K"]
    log_count_C: Float[Array, "C"] | None = None
    """Added to each position's score, where one stands for many (`thinned`)."""

    @classmethod
    def of(
        cls,
        keys_BCHK: Float[Array, "B C H K"],
        values_BCHK: Float[Array, "B C H K"],
        log_count_C: Float[Array, "C"] | None = None,
    ) -> "Memory":
        """The memory of keys and values as the model gives them."""
        return cls(keys_BCHK.transpose(0, 2, 3, 1), values_BCHK.transpose(0, 2, 1, 3), log_count_C)

    @classmethod
    def empty(cls, rows: int, heads: int, head_size: int, positions: int, dtype: DTypeLike) -> "Memory":
        """Zeros, to be filled by `written`."""
        return cls(
            jnp.zeros((rows, heads, head_size, positions), dtype), jnp.zeros((rows, heads, positions, head_size), dtype)
        )

    def grown(self, positions: int) -> "Memory":
        """This memory with empty places up to `positions`."""
        more = positions - self.values_BHCK.shape[2]
        return Memory(
            jnp.pad(self.keys_BHKC, ((0, 0), (0, 0), (0, 0), (0, more))),
            jnp.pad(self.values_BHCK, ((0, 0), (0, 0), (0, more), (0, 0))),
        )

    def of_rows(self, rows_R: Int[Array, "R"]) -> "Memory":
        """The memory of those rows, in that order."""
        return Memory(self.keys_BHKC[rows_R], self.values_BHCK[rows_R])

    def written(self, new: "Memory", first: int | Int[Array, ""]) -> "Memory":
        """This memory with `new` in place of the positions from `first` on."""
        return Memory(
            jax.lax.dynamic_update_slice_in_dim(self.keys_BHKC, new.keys_BHKC, first, axis=3),
            jax.lax.dynamic_update_slice_in_dim(self.values_BHCK, new.values_BHCK, first, axis=2),
        )

    def looked_up(
        self, queries_RLHK: Float[Array, "R L H K"], visible_LC: Bool[Array, "L C"] | None = None
    ) -> Float[Array, "R L H K"]:
        """Softmax attention, the softmax in float32; query l sees the positions where `visible_LC` is true, or all.

        Of more rows than this memory has, each R / B in turn look up the same one: beams share what they hear.
        """
        rows, shape = self.keys_BHKC.shape[0], queries_RLHK.shape
        queries_BLHK = queries_RLHK.reshape(rows, -1, *shape[2:])
        scale = jnp.asarray(shape[-1] ** -0.5, queries_BLHK.dtype)
        scores_BHLC = jnp.einsum("blhk,bhkc->bhlc", queries_BLHK * scale, self.keys_BHKC).astype(jnp.float32)
        if self.log_count_C is not None:
            scores_BHLC = scores_BHLC + self.log_count_C[None, None, None]
        if visible_LC is not None:
            scores_BHLC = jnp.where(visible_LC[None, None], scores_BHLC, -jnp.inf)
        weights_BHLC = jax.nn.softmax(scores_BHLC, axis=-1).astype(queries_BLHK.dtype)
        return jnp.einsum("bhlc,bhck->blhk", weights_BHLC, self.values_BHCK).reshape(shape)


Cache = list[Memory]


class Heard(NamedTuple):
    """Keys and values of what the encoder heard, as the model gives them: for a kernel that reads them so."""

    keys_BSHK: Float[Array, "B S H K"]
    values_BSHK: Float[Array, "B S H K"]
    log_count_S: Float[Array, "S"] | None = None

    def looked_up(self, queries_RLHK: Float[Array, "R L H K"]) -> Float[Array, "R L H K"]:
        """As `Memory.looked_up` of all positions."""
        shape = queries_RLHK.shape
        queries_BLHK = queries_RLHK.reshape(len(self.keys_BSHK), -1, *shape[2:])
        return cpu_attention.counted(queries_BLHK, *self).reshape(shape)


Cross = list[Memory | Heard]


def advance(
    decoder: Decoder, tokens_RL: Int[Array, "R L"], first: int | Int[Array, ""], cache: Cache, cross: Cross
) -> tuple[Float[Array, "R V"], Float[Array, "R L D"], Cache]:
    """Logits after the last of `tokens_RL`, which stand at `first` and on, all hidden states, and the new cache."""
    positions_L = first + jnp.arange(tokens_RL.shape[1])
    visible_LC = jnp.arange(cache[0].keys_BHKC.shape[3])[None, :] <= positions_L[:, None]
    x_RLD = decoder.embed(tokens_RL, first)
    filled = []
    for layer, own, heard in zip(decoder.layers, cache, cross, strict=True):
        x_RLD, own = _layer(layer, x_RLD, first, visible_LC, own, heard)
        filled.append(own)
    x_RLD = decoder.layer_norm(x_RLD)
    return decoder.logits(x_RLD[:, -1:])[:, 0], x_RLD, filled


@jax.jit
def _layer(
    layer: DecoderLayer,
    x_RLD: Float[Array, "R L D"],
    first: int | Int[Array, ""],
    visible_LC: Bool[Array, "L C"],
    own: Memory,
    heard: Memory | Heard,
) -> tuple[Float[Array, "R L D"], Memory]:
    """The stream after a layer, and its memory with these tokens. Jitted, so that all layers are traced as one."""
    normed_RLD = layer.self_attn_layer_norm(x_RLD)
    own = own.written(Memory.of(*layer.self_attn.keys_values(normed_RLD)), first)
    heads_RLHK = own.looked_up(layer.self_attn.queries(normed_RLD), visible_LC)
    x_RLD = x_RLD + layer.self_attn.output(heads_RLHK)
    queries_RLHK = layer.encoder_attn.queries(layer.encoder_attn_layer_norm(x_RLD))
    x_RLD = x_RLD + layer.encoder_attn.output(heard.looked_up(queries_RLHK))
    return layer.feed_forward(x_RLD), own


class Start(NamedTuple):
    """What is known before the first token is written."""

    logits_BV: Float[Array, "B V"]
    """Of the first token."""
    no_speech_B: Float[Array, "B"]
    """Probability that nobody speaks."""
    cache: Cache
    """With the prompt in it."""
    cross: Cross
    """What the encoder heard."""


def prompted(model: Whisper, log_mel_BFM: Float[Array, "B F M"], rules: DecodingRules) -> Start:
    """The windows encoded and the prompt read."""
    decoder, rows = model.decoder, log_mel_BFM.shape[0]
    hidden_BSD, log_count_S = encoded(model.encoder, log_mel_BFM)
    heard = [layer.encoder_attn.keys_values(hidden_BSD) for layer in decoder.layers]
    remember = Heard if cpu_attention.takes(heard[0][0]) else Memory.of
    cross: Cross = [remember(keys_BSHK, values_BSHK, log_count_S) for keys_BSHK, values_BSHK in heard]
    heads, head_size = heard[0][0].shape[2:]
    empty = Memory.empty(rows, heads, head_size, len(rules.prompt), hidden_BSD.dtype)
    prompt_BP = jnp.broadcast_to(jnp.asarray(rules.prompt, jnp.int32)[None], (rows, len(rules.prompt)))
    logits_BV, x_BPD, cache = advance(decoder, prompt_BP, 0, [empty for _ in cross], cross)
    no_speech_B = jax.nn.softmax(decoder.logits(x_BPD[:, :1])[:, 0], axis=-1)[:, rules.no_speech]
    return Start(logits_BV, no_speech_B, cache, cross)


def in_stages(
    unfinished: Callable[[State], Bool[Array, ""]],
    add_token: Callable[[State], State],
    state: State,
    rules: DecodingRules,
) -> State:
    """The `state` after `add_token` until `unfinished` is no more; it has a `cache`, and `n_done` tokens are written.

    Writing token n_done + 1 reads token n_done, which takes the place after it in the cache.
    """
    prompt, places = len(rules.prompt), len(rules.prompt) + rules.max_new_tokens
    for size in sorted({min(FIRST_PLACES, places), places}):
        state = state._replace(cache=[memory.grown(size) for memory in state.cache])

        def goes_on(state: State, size: int = size) -> Bool[Array, ""]:
            return (prompt + state.n_done <= size) & unfinished(state)

        state = jax.lax.while_loop(goes_on, add_token, state)
    return state
