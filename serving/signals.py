"""What is known of a transcript without its reference: how sure the decoder was, how it sounds, how fast it is said.

Decision: one flat record of numbers, the same for every engine, of which `serving.confidence` says whether a text can
be trusted. An engine gives `Decoded`, the rest is computed here of text and log-mel. Only for recordings of one window:
longer ones are written with timestamps, and of those nobody has learned how likely a right text is.

The signal-to-noise ratio is that of `data.snr`, which explains it: the same few lines, on purpose, as serving runs
where no other package of the project is installed.

M mel bins, F mel frames (3000 in 30 s, or those of the clip alone).
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

from serving.media import SAMPLE_RATE

QUIET_SHARE = 0.05  # of the frames
FRAMES_TOGETHER = 3
LEAST_DB, MOST_DB = -10.0, 50.0
STEPS_PER_UNIT = 127.5  # data.log_mel: 255 steps over the 2 units below a clip's maximum, 8 in log10


@dataclass(frozen=True)
class Decoded:
    """What an engine writes of a window."""

    tokens: list[int]
    """Without prompt and end."""
    log_probabilities: tuple[float, ...] = ()
    """In nats, of each token and of the end, if it came, among what the rules allowed; none where nobody asked."""
    no_speech_probability: float = math.nan
    """NaN where nobody asked."""


@dataclass(frozen=True)
class Signals:
    """What is known of a transcript; every field is a number."""

    mean_log_probability: float
    """Mean over the tokens and the end, in nats."""
    lowest_log_probability: float
    """Of the least likely of them, in nats."""
    compression_ratio: float
    """Bytes of the text by those that zlib needs; high where it repeats itself."""
    no_speech_probability: float
    """That nobody speaks, as the decoder says at its start."""
    tokens: float
    """How many, without prompt and end."""
    seconds: float
    """Length of the recording."""
    hypothesis_words: float
    """How many, apart by spaces."""
    words_per_second: float
    """Of the whole recording, pauses included."""
    snr_db: float
    """Signal-to-noise ratio of the log-mel, in dB from -10 to 50."""


def compression(text: str) -> float:
    """How much shorter zlib writes the text: high where it repeats itself."""
    return len(text.encode()) / len(zlib.compress(text.encode()))


def signals(decoded: Decoded, text: str, samples: int, log_mel_MF: Any) -> Signals:
    """The signals of the `text` of so many samples; `log_mel_MF` is Whisper's, padded to its window."""
    words, seconds = len(text.split()), samples / SAMPLE_RATE
    n_frames = -(-(samples + 200) // 160)  # those whose 25 ms see a sample
    return Signals(
        mean_log_probability=float(np.mean(decoded.log_probabilities)),
        lowest_log_probability=min(decoded.log_probabilities),
        compression_ratio=compression(text),
        no_speech_probability=decoded.no_speech_probability,
        tokens=float(len(decoded.tokens)),
        seconds=seconds,
        hypothesis_words=float(words),
        words_per_second=words / seconds,
        snr_db=snr_db(np.asarray(log_mel_MF, np.float32).T[:n_frames]),
    )


@cache
def _widths(n_mels: int) -> NDArray[np.float64]:
    """Weights with which the mel bins count every frequency alike: the filters, of equal area, then add up to 1."""
    filters_BM = mel_filter_bank(201, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    widths: NDArray[np.float64] = np.linalg.lstsq(filters_BM, np.ones(len(filters_BM)), rcond=None)[0]
    return widths


def snr_db(log_mel_FM: NDArray[np.float32]) -> float:
    """The signal-to-noise ratio in dB of a clip's log-mel, taken in the 255 steps that shards hold."""
    steps_FM = np.rint((log_mel_FM - (log_mel_FM.max() - np.float32(2.0))) * np.float32(STEPS_PER_UNIT))
    power_F = 10.0 ** (8.0 * (steps_FM.clip(0.0, 255.0).astype(np.float64) / 255.0 - 1.0)) @ _widths(steps_FM.shape[1])
    together = min(FRAMES_TOGETHER, len(power_F))
    smooth = np.convolve(power_F, np.full(together, 1.0 / together), "valid")
    n_quiet = max(1, round(QUIET_SHARE * len(smooth)))
    noise = float(np.partition(smooth, n_quiet - 1)[:n_quiet].mean())
    signal = float(power_F.mean()) - noise
    if signal <= 0.0:
        return LEAST_DB
    return float(np.clip(10.0 * np.log10(signal / noise), LEAST_DB, MOST_DB))
