"""Hugging Face's Whisper, its `generate` noting what it measures of each row: the truth for scores and fallback."""

from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

PERMISSIVE = {"compression_ratio_threshold": 1e9, "logprob_threshold": -1e9, "no_speech_threshold": 0.6}


class Judged(NamedTuple):
    """What Hugging Face measured on a row, and what it made of it."""

    tokens: list[int]
    compression_ratio: float
    log_prob: float
    no_speech: float
    again: bool
    silence: bool


class Recorder(WhisperForConditionalGeneration):
    """Hugging Face's Whisper, noting each judgement."""

    def _need_fallback(self, tokens, outputs, index, processors, config, vocab_size, temperature) -> Any:
        again, silence = super()._need_fallback(tokens, outputs, index, processors, config, vocab_size, temperature)
        detector = next(p for p in processors if hasattr(p, "no_speech_prob"))
        log_prob = float(self._retrieve_avg_logprobs(outputs[index]["scores"], tokens, temperature))
        ratio = self._retrieve_compression_ratio(tokens, vocab_size)
        speech = float(detector.no_speech_prob[index])
        self.judged.append(Judged(tokens.tolist(), ratio, log_prob, speech, bool(again), bool(silence)))
        return again, silence


def generated(model: Recorder, windows_BFM: np.ndarray, **options: Any) -> tuple[list[list[int]], list[Judged]]:
    """Hugging Face's tokens, and its judgement of each row at the first temperature.

    Of what it goes on with after a timestamp there is no judgement among them.
    """
    model.judged = []
    with torch.no_grad():
        out = model.generate(
            torch.from_numpy(np.ascontiguousarray(windows_BFM.transpose(0, 2, 1))),
            language="it",
            task="transcribe",
            **(PERMISSIVE | {"temperature": (0.0,)} | options),
        )
    # a batch with dropped rows comes as floats
    return out.long().tolist(), model.judged[: len(windows_BFM)]
