"""Batched greedy decoding with a key/value cache, as one compiled program per batch shape.

Decision: encoder, prompt and token loop are one jitted function: no Python and no copy to the host between tokens, and
a `while_loop` that ends when every row has. Shapes never change (the cache has a place for every token), so nothing is
compiled twice. Each device runs its own loop on its own rows (`shard_map`), so none waits for another. Token for token
what Hugging Face generates with `num_beams=1` in float32.

B batch, M mel bins, F mel frames (3000 in 30 s), S encoder positions (1500), P prompt tokens, N new tokens,
C cached positions (P + N, or S), L tokens at once, D d_model, H heads, K head size, V vocabulary.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int
from tokenizers import Tokenizer

from data.errors import UserError
from jax_train.config import WhisperConfig
from jax_train.model import Decoder, Whisper


@dataclasses.dataclass(frozen=True)
class DecodingRules:
    """What the decoder is told before it starts, and what it may not write."""

    prompt: tuple[int, ...]
    """<|startoftranscript|><|it|><|transcribe|><|notimestamps|>."""
    end: int
    """<|endoftext|>: a row that wrote it is done."""
    suppress: tuple[int, ...]
    """Never written: signs of non-speech, and the prompt's own tokens."""
    begin_suppress: tuple[int, ...]
    """Not written as the first token: a lone space, the end."""
    max_new_tokens: int
    """Tokens after the prompt, the end included; at most the decoder's positions less the prompt."""

    @classmethod
    def from_folder(cls, folder: Path, language: str, max_new_tokens: int = 0) -> "DecodingRules":
        """The rules of a Whisper folder's generation_config.json; `max_new_tokens` 0: as many as the model can.

        Raises:
            UserError: the file or a field is missing, the model does not know the language, too many tokens.
        """
        path = folder / "generation_config.json"
        if not path.is_file():
            raise UserError(f"{folder}: no generation_config.json; copy it from the model this one was made from")
        fields = json.loads(path.read_text(encoding="utf-8"))
        most = WhisperConfig.from_folder(folder).max_target_positions
        try:
            languages, start = fields["lang_to_id"], fields["decoder_start_token_id"]
            if f"<|{language}|>" not in languages:
                known = " ".join(sorted(name.strip("<|>") for name in languages))
                raise UserError(f"{path}: no language {language!r}; there are {known}")
            transcribe = fields["task_to_id"]["transcribe"]
            prompt = (start, languages[f"<|{language}|>"], transcribe, fields["no_timestamps_token_id"])
            end = fields["eos_token_id"]
        except KeyError as error:
            raise UserError(f"{path}: lacks {error}; take the multilingual original's file") from error
        if not 0 <= max_new_tokens <= most - len(prompt):
            raise UserError(f"max_new_tokens {max_new_tokens}: the decoder takes 1 to {most - len(prompt)}, 0 for all")
        return cls(
            prompt=prompt,
            end=end[0] if isinstance(end, list) else end,
            suppress=tuple(fields.get("suppress_tokens") or ()),
            begin_suppress=tuple(fields.get("begin_suppress_tokens") or ()),
            max_new_tokens=max_new_tokens or most - len(prompt),
        )


class Memory(NamedTuple):
    """Keys and values one attention looks up, in the layout that reads fastest for a single query.

    In the model's own layout, (B, C, H, K), each query would read its keys with a stride of all heads.
    """

    keys_BHKC: Float[Array, "B H K C"]
    values_BHCK: Float[Array, "B H C K"]

    @classmethod
    def of(cls, keys_BCHK: Float[Array, "B C H K"], values_BCHK: Float[Array, "B C H K"]) -> "Memory":
        """The memory of keys and values as the model gives them."""
        return cls(keys_BCHK.transpose(0, 2, 3, 1), values_BCHK.transpose(0, 2, 1, 3))

    @classmethod
    def empty(cls, rows: int, heads: int, head_size: int, positions: int, dtype: DTypeLike) -> "Memory":
        """Zeros, to be filled by `written`."""
        return cls(
            jnp.zeros((rows, heads, head_size, positions), dtype), jnp.zeros((rows, heads, positions, head_size), dtype)
        )

    def written(self, new: "Memory", first: int | Int[Array, ""]) -> "Memory":
        """This memory with `new` in place of the positions from `first` on."""
        return Memory(
            jax.lax.dynamic_update_slice_in_dim(self.keys_BHKC, new.keys_BHKC, first, axis=3),
            jax.lax.dynamic_update_slice_in_dim(self.values_BHCK, new.values_BHCK, first, axis=2),
        )

    def looked_up(
        self, queries_BLHK: Float[Array, "B L H K"], visible_LC: Bool[Array, "L C"] | None = None
    ) -> Float[Array, "B L H K"]:
        """Softmax attention, the softmax in float32; query l sees the positions where `visible_LC` is true, or all."""
        scale = jnp.asarray(queries_BLHK.shape[-1] ** -0.5, queries_BLHK.dtype)
        scores_BHLC = jnp.einsum("blhk,bhkc->bhlc", queries_BLHK * scale, self.keys_BHKC).astype(jnp.float32)
        if visible_LC is not None:
            scores_BHLC = jnp.where(visible_LC[None, None], scores_BHLC, -jnp.inf)
        weights_BHLC = jax.nn.softmax(scores_BHLC, axis=-1).astype(queries_BLHK.dtype)
        return jnp.einsum("bhlc,bhck->blhk", weights_BHLC, self.values_BHCK)


def advance(
    decoder: Decoder,
    tokens_BL: Int[Array, "B L"],
    first: int | Int[Array, ""],
    cache: list[Memory],
    cross: list[Memory],
) -> tuple[Float[Array, "B L D"], list[Memory]]:
    """Hidden states of `tokens_BL`, which stand at position `first` and on, and the cache with them in it."""
    positions_L = first + jnp.arange(tokens_BL.shape[1])
    visible_LC = jnp.arange(cache[0].keys_BHKC.shape[3])[None, :] <= positions_L[:, None]
    x_BLD = decoder.embed(tokens_BL, first)
    filled = []
    for layer, own, encoded in zip(decoder.layers, cache, cross, strict=True):
        normed_BLD = layer.self_attn_layer_norm(x_BLD)
        filled.append(own.written(Memory.of(*layer.self_attn.keys_values(normed_BLD)), first))
        heads_BLHK = filled[-1].looked_up(layer.self_attn.queries(normed_BLD), visible_LC)
        x_BLD = x_BLD + layer.self_attn.output(heads_BLHK)
        queries_BLHK = layer.encoder_attn.queries(layer.encoder_attn_layer_norm(x_BLD))
        x_BLD = x_BLD + layer.encoder_attn.output(encoded.looked_up(queries_BLHK))
        x_BLD = layer.feed_forward(x_BLD)
    return decoder.layer_norm(x_BLD), filled


Carry = tuple[Int[Array, ""], Int[Array, "B"], Int[Array, "B N"], list[Memory]]


def greedy(model: Whisper, log_mel_BFM: Float[Array, "B F M"], rules: DecodingRules) -> Int[Array, "B N"]:
    """The new tokens of each row, from the first after the prompt; `rules.end` from where a row ends."""
    decoder = model.decoder
    n_rows, n_prompt, n_new = log_mel_BFM.shape[0], len(rules.prompt), rules.max_new_tokens
    never_V = np.zeros(model.config.vocab_size, np.float32)
    never_V[list(rules.suppress)] = -np.inf
    not_first_V = never_V.copy()
    not_first_V[list(rules.begin_suppress)] = -np.inf

    def likeliest(x_BLD: Float[Array, "B L D"], penalty_V: np.ndarray) -> Int[Array, "B"]:
        logits_BV = decoder.logits(x_BLD[:, -1:])[:, 0]
        return jnp.argmax(logits_BV + penalty_V[None], axis=-1).astype(jnp.int32)

    hidden_BSD = model.encoder(log_mel_BFM)
    cross = [Memory.of(*layer.encoder_attn.keys_values(hidden_BSD)) for layer in decoder.layers]
    heads, head_size = cross[0].keys_BHKC.shape[1:3]
    empty = Memory.empty(n_rows, heads, head_size, n_prompt + n_new, hidden_BSD.dtype)
    prompt_BP = jnp.broadcast_to(jnp.asarray(rules.prompt, jnp.int32)[None], (n_rows, n_prompt))
    x_BPD, cache = advance(decoder, prompt_BP, 0, [empty for _ in cross], cross)
    first_B = likeliest(x_BPD, not_first_V)
    tokens_BN = jnp.full((n_rows, n_new), rules.end, jnp.int32).at[:, 0].set(first_B)

    def running(carry: Carry) -> Array:
        n_done, last_B, _tokens_BN, _cache = carry
        return (n_done < n_new) & jnp.any(last_B != rules.end)

    def add_token(carry: Carry) -> Carry:
        n_done, last_B, tokens_BN, cache = carry
        x_B1D, cache = advance(decoder, last_B[:, None], n_prompt + n_done - 1, cache, cross)
        next_B = jnp.where(last_B == rules.end, rules.end, likeliest(x_B1D, never_V))
        tokens_BN = jax.lax.dynamic_update_slice_in_dim(tokens_BN, next_B[:, None], n_done, axis=1)
        return n_done + 1, next_B, tokens_BN, cache

    return jax.lax.while_loop(running, add_token, (jnp.int32(1), first_B, tokens_BN, cache))[2]


class BatchDecoder:
    """`greedy` compiled once for windows in batches of `batch_size`, spread evenly over `devices` (all, if not given).

    With a model that computes in bfloat16 the weights are kept in it too: a token's time is that of reading them.
    """

    def __init__(
        self, model: Whisper, rules: DecodingRules, batch_size: int, devices: Sequence[jax.Device] | None = None
    ) -> None:
        devices = list(devices or jax.local_devices())
        if batch_size < 1 or batch_size % len(devices):
            raise UserError(f"--batch-size {batch_size}: takes a multiple of the {len(devices)} devices here")
        self.batch_size, self.end = batch_size, rules.end
        mesh = Mesh(np.asarray(devices), ("data",))
        rows, everywhere = PartitionSpec("data"), PartitionSpec()
        self._rows = NamedSharding(mesh, rows)
        self._everywhere = NamedSharding(mesh, everywhere)
        graph = nnx.split(model)[0]
        self.take(model)
        config = model.config
        self._window_FM = (2 * config.max_source_positions, config.num_mel_bins)
        program = jax.jit(
            jax.shard_map(
                lambda state, log_mel_BFM: greedy(nnx.merge(graph, state), log_mel_BFM, rules),
                mesh=mesh,
                in_specs=(everywhere, rows),
                out_specs=rows,
                check_vma=False,  # the token loop starts from constants, which are the same on every device
            )
        )
        batch = jax.ShapeDtypeStruct((batch_size, *self._window_FM), jnp.float32, sharding=self._rows)
        started = time.perf_counter()
        self._program = program.lower(self.state, batch).compile()
        self.compile_seconds = time.perf_counter() - started

    def take(self, model: Whisper) -> None:
        """Decode with the weights of `model`, of the same architecture, from now on."""
        state = jax.tree.map(lambda value: value.astype(model.encoder.dtype), nnx.split(model)[1])
        self.state = jax.device_put(state, self._everywhere)

    def __call__(self, log_mel_BFM: Float32[np.ndarray, "B F M"]) -> Int[Array, "batch_size N"]:
        """The rows' new tokens, as `greedy` gives them, on their way: reading them waits. At most `batch_size` rows.

        Fewer rows are completed with copies of the last, which end when it does; their tokens are to be ignored.
        """
        n_rows = len(log_mel_BFM)
        if not 1 <= n_rows <= self.batch_size or log_mel_BFM.shape[1:] != self._window_FM:
            raise ValueError(f"windows {log_mel_BFM.shape}, expected 1 to {self.batch_size} of {self._window_FM}")
        full_BFM = log_mel_BFM[np.minimum(np.arange(self.batch_size), n_rows - 1)]
        tokens: Array = self._program(self.state, jax.device_put(full_BFM, self._rows))
        return tokens


def text_of(tokens_N: Int[np.ndarray, "N"], tokenizer: Tokenizer, end: int) -> str:
    """The transcript in `tokens_N`: without special and timestamp tokens, all of which come from `end` on."""
    return tokenizer.decode([token for token in tokens_N.tolist() if token < end]).strip()
