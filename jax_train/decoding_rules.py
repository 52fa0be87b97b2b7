"""What a decoder is told before it starts and what it may not write, as a model's generation_config.json has it.

Decision: the rules are masks on the logits, so that greedy, sampled and beam decoding share them, and they hold no
state: what a row wrote so far says what it may write next. With timestamps they are Whisper's own, by which Hugging
Face's `WhisperTimeStampLogitsProcessor` goes: timestamps come in pairs, never decrease, and are written whenever all of
them together are likelier than any single word.

B rows, N new tokens, V vocabulary.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from data.errors import UserError
from jax_train.config import WhisperConfig


@dataclasses.dataclass(frozen=True)
class Timestamps:
    """The rules of a transcript with timestamps."""

    begin: int
    """<|0.00|>: timestamps are the tokens from here on."""
    last_initial: int | None
    """The first timestamp is at most this token; None: any."""


@dataclasses.dataclass(frozen=True)
class DecodingRules:
    """What the decoder is told before it starts, and what it may not write."""

    prompt: tuple[int, ...]
    """<|startoftranscript|><|it|><|transcribe|>, and <|notimestamps|> unless they are wanted; a model of English alone
    is told neither language nor task."""
    end: int
    """<|endoftext|>: a row that wrote it is done."""
    suppress: tuple[int, ...]
    """Never written: signs of non-speech, and the prompt's own tokens."""
    begin_suppress: tuple[int, ...]
    """Not written as the first token: a lone space, the end."""
    max_new_tokens: int
    """Tokens after the prompt, the end included; at most the decoder's positions less the prompt."""
    no_speech: int
    """<|nospeech|>: its probability after <|startoftranscript|> says how likely nobody speaks."""
    timestamps: Timestamps | None = None
    """None: a transcript without them."""

    @classmethod
    def from_folder(
        cls, folder: Path, language: str, max_new_tokens: int = 0, timestamps: bool = False
    ) -> "DecodingRules":
        """The rules of a Whisper folder's generation_config.json; `max_new_tokens` 0: as many as the model can.

        Raises:
            UserError: the file or a field is missing, the model does not know the language, too many tokens.
        """
        path = folder / "generation_config.json"
        if not path.is_file():
            raise UserError(f"{folder}: no generation_config.json; copy it from the model this one was made from")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read ({error}); take the original model's file") from error
        config = WhisperConfig.from_folder(folder)
        try:
            task = (fields["decoder_start_token_id"], *_task(path, fields, language))
            none, end = fields["no_timestamps_token_id"], fields["eos_token_id"]
        except KeyError as error:
            raise UserError(f"{path}: lacks {error}; take the original model's file") from error
        prompt = task if timestamps else (*task, none)
        most = config.max_target_positions - len(prompt)
        if not 0 <= max_new_tokens <= most:
            raise UserError(f"max_new_tokens {max_new_tokens}: the decoder takes 1 to {most}, 0 for all")
        return cls(
            prompt=prompt,
            end=end[0] if isinstance(end, list) else end,
            suppress=(*(fields.get("suppress_tokens") or ()), *((none,) if timestamps else ())),
            begin_suppress=tuple(fields.get("begin_suppress_tokens") or ()),
            max_new_tokens=max_new_tokens or most,
            no_speech=none - 1,
            timestamps=_timestamps(fields, none) if timestamps else None,
        )

    def first(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The logits of the first token, −∞ where it may not be."""
        never_V = _penalty(logits_BV.shape[1], self.suppress + self.begin_suppress)
        if self.timestamps:
            never_V[: self.timestamps.begin] = -np.inf
            if self.timestamps.last_initial is not None:
                never_V[self.timestamps.last_initial + 1 :] = -np.inf
        return logits_BV + never_V[None]

    def later(
        self, logits_BV: Float[Array, "B V"], tokens_BN: Int[Array, "B N"], n_done: Int[Array, ""]
    ) -> Float[Array, "B V"]:
        """The logits of the token after the first `n_done` of `tokens_BN` (the rest: `end`), −∞ where it may not be."""
        logits_BV = logits_BV + _penalty(logits_BV.shape[1], self.suppress)[None]
        if not self.timestamps:
            return logits_BV
        begin, id_V = self.timestamps.begin, jnp.arange(logits_BV.shape[1])
        logits_BV = jnp.where(_unpaired(tokens_BN, n_done, id_V, begin, self.end), -jnp.inf, logits_BV)
        any_stamp_B1 = jax.nn.logsumexp(logits_BV[:, begin:], axis=1, keepdims=True)
        likelier_B1 = any_stamp_B1 > logits_BV[:, :begin].max(axis=1, keepdims=True)
        return jnp.where(likelier_B1 & (id_V < begin)[None], -jnp.inf, logits_BV)


def _unpaired(
    tokens_BN: Int[Array, "B N"], n_done: Int[Array, ""], id_V: Int[Array, "V"], begin: int, end: int
) -> Bool[Array, "B V"]:
    """What would break a pair of timestamps, or let them decrease; a segment's end is later than its start."""
    last_B, before_B = (
        jax.lax.dynamic_index_in_dim(tokens_BN, n_done - back, axis=1, keepdims=False) for back in (1, 2)
    )
    stamped_B, paired_B = last_B >= begin, (n_done < 2) | (before_B >= begin)
    latest_B = jnp.where(tokens_BN >= begin, tokens_BN, begin - 1).max(axis=1)
    earliest_B = jnp.where(stamped_B & ~paired_B, latest_B, latest_B + 1)
    is_stamp_V = (id_V >= begin)[None]
    too_early_BV = is_stamp_V & (id_V[None] < earliest_B[:, None])
    third_BV = (stamped_B & paired_B)[:, None] & is_stamp_V
    text_between_BV = (stamped_B & ~paired_B)[:, None] & (id_V < end)[None]
    return too_early_BV | third_BV | text_between_BV


def _task(path: Path, fields: dict[str, Any], language: str) -> tuple[int, ...]:
    """The tokens of language and task; none for a model of English alone."""
    if fields.get("is_multilingual") is False:
        if language != "en":
            raise UserError(f"{path}: no language {language!r}; the model knows English alone (en)")
        return ()
    languages = fields["lang_to_id"]
    if f"<|{language}|>" not in languages:
        known = " ".join(sorted(name.strip("<|>") for name in languages))
        raise UserError(f"{path}: no language {language!r}; there are {known}")
    return languages[f"<|{language}|>"], fields["task_to_id"]["transcribe"]


def _timestamps(fields: dict[str, object], none: int) -> Timestamps:
    initial = fields.get("max_initial_timestamp_index")
    return Timestamps(none + 1, none + 1 + initial if isinstance(initial, int) else None)


def _penalty(vocab_size: int, tokens: tuple[int, ...]) -> Float[np.ndarray, "V"]:
    """−∞ at `tokens`, else 0."""
    penalty_V = np.zeros(vocab_size, np.float32)
    penalty_V[list(tokens)] = -np.inf
    return penalty_V
