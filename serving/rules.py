"""Which token may come next: OpenAI's rules, as `transformers` applies them.

B batch, V vocabulary.
"""

import math

import torch
from torch import Tensor

from serving.vocabulary import Vocabulary


class Rules:
    """Takes scores of the next token to −∞ where the rules forbid it."""

    def __init__(self, vocabulary: Vocabulary, prompt: list[int], size: int, device: torch.device) -> None:
        self.vocabulary = vocabulary
        self.timestamps = vocabulary.no_timestamps not in prompt
        self.first_V = torch.zeros(size, device=device)
        self.later_V = torch.zeros(size, device=device)
        never = [*vocabulary.suppressed, *([vocabulary.no_timestamps] if self.timestamps else [])]
        self.later_V[never] = -math.inf
        self.first_V[[*never, *vocabulary.suppressed_first]] = -math.inf

    def __call__(self, logits_BV: Tensor, written: list[list[int]]) -> Tensor:
        """`written` holds each row's tokens since the prompt."""
        logits_BV = logits_BV + (self.later_V if any(written) else self.first_V)
        if self.timestamps:
            for logits_V, tokens in zip(logits_BV, written, strict=True):
                self._timestamps(logits_V, tokens)
        return logits_BV

    def _timestamps(self, logits_V: Tensor, tokens: list[int]) -> None:
        """A transcript begins with a time; times come in pairs, never go back, and win where together they are likelier
        than any one word."""
        zero, end = self.vocabulary.no_timestamps + 1, self.vocabulary.end
        if not tokens:
            logits_V[:zero] = -math.inf
            if self.vocabulary.first_timestamp is not None:
                logits_V[zero + self.vocabulary.first_timestamp + 1 :] = -math.inf
            return
        opened = tokens[-1] >= zero and (len(tokens) < 2 or tokens[-2] >= zero)
        if opened:
            logits_V[zero:] = -math.inf
        elif tokens[-1] >= zero:
            logits_V[:end] = -math.inf
        times = [token for token in tokens if token >= zero]
        if times:  # a segment may start where the last one ended, and must end after it started
            closed = tokens[-1] >= zero and not opened
            logits_V[zero : times[-1] + (0 if closed else 1)] = -math.inf
        if logits_V[zero:].logsumexp(0) > logits_V[:zero].max():
            logits_V[:zero] = -math.inf
