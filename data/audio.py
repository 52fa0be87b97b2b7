"""Any audio file → float32 mono at 16 kHz, by libsndfile and soxr.

No FFmpeg and no second process: libsndfile decodes MP3, WAV, FLAC and Ogg in this one, and soxr's HQ filter resamples
without audible aliasing. A change of speed needs no pass of its own: it is another ratio in the resampling the clip
gets anyway (about twice the cost of 48 → 16 kHz, because the ratio is no longer a whole number).

Shapes: N samples.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from data.errors import UserError
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS

MIN_SECONDS = 0.1


class ClipError(UserError):
    """One clip to leave out: `reason` in few words, the same for all such clips, and this clip's `detail`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def decode(path: Path) -> tuple[Float32[np.ndarray, "N"], int]:
    """The samples of `path` at its own rate, channels averaged, and that rate in Hz.

    Raises `ClipError` if it does not decode, holds a value that is not finite, or is not 0.1 to 30 s long.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate: int = file.samplerate
            _check_duration(file.frames / rate)  # before decoding: an hour by mistake need not fill the memory
            audio_NC = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        if not path.is_file():
            raise ClipError("no such file", str(path)) from None
        raise ClipError("does not decode", f"{path}: {error}") from error
    _check_duration(len(audio_NC) / rate)
    audio_N = audio_NC[:, 0] if audio_NC.shape[1] == 1 else audio_NC.mean(axis=1)
    if not np.isfinite(audio_N).all():
        raise ClipError("samples are not finite", str(path))
    return audio_N, rate


def resample(audio_N: Float32[np.ndarray, "N"], rate: int, speed: float = 1.0) -> Float32[np.ndarray, "K"]:
    """`audio_N` at 16 kHz, played `speed` times as fast (tempo and pitch together, as Kaldi's speed perturbation)."""
    if rate == SAMPLE_RATE and speed == 1.0:
        return audio_N
    resampled: np.ndarray = soxr.resample(audio_N, rate * speed, SAMPLE_RATE, quality="HQ")
    return resampled


def _check_duration(seconds: float) -> None:
    if seconds > WINDOW_SECONDS:
        raise ClipError(f"longer than {WINDOW_SECONDS} s", f"{seconds:.2f} s; split it")
    if seconds < MIN_SECONDS:
        raise ClipError(f"shorter than {MIN_SECONDS} s", f"{seconds:.3f} s")
