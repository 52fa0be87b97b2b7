"""Any audio file → float32 mono at 16 kHz, by libsndfile and soxr.

No FFmpeg and no second process: libsndfile decodes MP3, WAV, FLAC and Ogg in this one, and soxr's HQ filter resamples
without audible aliasing. A change of speed needs no pass of its own: it is another ratio in the resampling the clip
gets anyway (about twice the cost of 48 → 16 kHz, because the ratio is no longer a whole number).

Shapes: N samples.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from data.clips import NO_SUCH_FILE, ClipError
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS

MIN_SECONDS = 0.1


def decode(
    source: Path | bytes, start: float = 0.0, length: float | None = None, name: str = ""
) -> tuple[Float32[np.ndarray, "N"], int]:
    """The samples of `source` (a file, or one's bytes called `name`) at its own rate in Hz, channels averaged, and it.

    `start` and `length` (seconds) choose a part of it. Raises `ClipError` if it does not decode, holds a value that is
    not finite, or is not 0.1 to 30 s long.
    """
    where = name or str(source)
    try:
        with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate: int = file.samplerate
            first = round(start * rate)
            frames = file.frames - first if length is None else round(length * rate)
            if first + frames > file.frames or frames < 0:
                raise ClipError("segment past the audio's end", f"{where}: {start:.2f} s + {frames / rate:.2f} s")
            _check_duration(frames / rate)  # before decoding: an hour by mistake need not fill the memory
            if first:
                file.seek(first)
            audio_NC = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        if isinstance(source, Path) and not source.is_file():
            raise ClipError(NO_SUCH_FILE, where) from None
        raise ClipError("does not decode", f"{where}: {error}") from error
    _check_duration(len(audio_NC) / rate)
    audio_N = audio_NC[:, 0] if audio_NC.shape[1] == 1 else audio_NC.mean(axis=1)
    if not np.isfinite(audio_N).all():
        raise ClipError("samples are not finite", where)
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
