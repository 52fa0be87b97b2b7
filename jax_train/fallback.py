"""When a transcript is not believed but decoded again, with tokens drawn at a higher temperature, and when dropped.

Decision: Whisper's criteria as Hugging Face's `generate` applies them (its `_need_fallback`): a transcript that repeats
itself compresses too well, one that the model was unsure of has a low mean log-probability. The thresholds' defaults
are those of its documentation; its compression ratio is of token bytes, not of text as in OpenAI's own, hence 1.35.
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Literal

from data.errors import UserError

Verdict = Literal["believed", "again", "silence"]


@dataclasses.dataclass(frozen=True)
class Fallback:
    """Temperatures to try in turn, and what a transcript must be like to need no further one."""

    temperatures: tuple[float, ...] = (0.0,)
    """Whisper's own are 0 0.2 0.4 0.6 0.8 1; only 0: every transcript is taken as it is."""
    compression_ratio_threshold: float = 1.35
    """Above it a transcript repeats itself: its tokens' bytes over those bytes compressed by zlib."""
    logprob_threshold: float = -1.0
    """Below it the model was unsure: mean log-probability of the tokens, the end included."""
    no_speech_threshold: float = 0.6
    """An unsure transcript of a window whose <|nospeech|> is likelier than this is dropped."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            values = value if isinstance(value, tuple) else (value,)
            if not all(map(math.isfinite, values)):
                given = " ".join(map(str, values))
                raise UserError(f"--fallback.{name.replace('_', '-')} {given}: takes finite numbers")
        if not self.temperatures or self.temperatures[0] != 0 or min((1.0, *self.temperatures[1:])) <= 0:
            given = " ".join(map(str, self.temperatures))
            raise UserError(f"--fallback.temperatures {given}: takes 0 and then, if any, temperatures above 0")

    def verdict(self, tokens: Sequence[int], log_prob: float, no_speech: float, vocab_size: int) -> Verdict:
        """What becomes of a transcript; `tokens` with the end, if it was written."""
        if len(self.temperatures) == 1:
            return "believed"
        if log_prob < self.logprob_threshold and no_speech > self.no_speech_threshold:
            return "silence"
        repeats = compression_ratio(tokens, vocab_size) > self.compression_ratio_threshold
        return "again" if repeats or log_prob < self.logprob_threshold else "believed"


def compression_ratio(tokens: Sequence[int], vocab_size: int) -> float:
    """Bytes of the tokens over those bytes compressed."""
    width = int(math.log2(vocab_size) / 8) + 1
    raw = b"".join(token.to_bytes(width, "little") for token in tokens)
    return len(raw) / len(zlib.compress(raw))
