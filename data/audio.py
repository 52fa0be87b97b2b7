"""Any audio file → float32 mono at 16 kHz, by libsndfile and soxr.

No second process: libsndfile decodes MP3, WAV, FLAC and Ogg in this one, and soxr's HQ filter resamples without audible
aliasing. What libsndfile does not know is looked at: files that begin as MP4, AAC or WebM do are decoded by PyAV
(`data.containers`), others do not decode. A change of speed needs no pass of its own: it is another ratio in the
resampling the clip gets anyway (about twice the cost of 48 → 16 kHz, because the ratio is no longer a whole number).

Shapes: N samples, C channels.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from data.clips import ClipError, reading_problem
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS

MIN_SECONDS = 0.1
SILENCE = 1e-4  # of full scale: a peak below -80 dB
SLACK_SECONDS = 0.1  # a manifest's rounded duration may end this much after its audio
LEAD_SECONDS = 0.5  # decoded before a part and dropped: libsndfile's MP3 is wrong for up to 90 ms after a seek
UNKNOWN_FRAMES = 2**62  # libsndfile's count for a stream whose header does not tell is 2**63 - 1


def decode(
    source: Path | bytes, start: float = 0.0, length: float | None = None, name: str = ""
) -> tuple[Float32[np.ndarray, "N"], int]:
    """The samples of `source` (a file, or one's bytes called `name`) at its own rate in Hz, channels averaged, and it.

    `start` and `length` (seconds) choose a part of it. Raises `ClipError` if it does not decode, is silent, holds a
    value that is not finite, or is not 0.1 to 30 s long; an hour by mistake is found without decoding it.
    """
    where = name or str(source)
    try:
        with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate: int = file.samplerate
            first, frames = _segment(file.frames, rate, start, length, where)
            lead = min(first, round(LEAD_SECONDS * rate))
            if first:
                file.seek(first - lead)
            audio_NC = file.read(lead + frames, dtype="float32", always_2d=True)[lead:]
    except soundfile.SoundFileError as error:
        audio_NC, rate = _decode_container(source, start, length, where, error)
    check_duration(len(audio_NC) / rate)
    audio_N = audio_NC[:, 0] if audio_NC.shape[1] == 1 else audio_NC.mean(axis=1)
    highest, lowest = audio_N.max(), audio_N.min()  # both are NaN if any sample is
    if not (np.isfinite(highest) and np.isfinite(lowest)):
        raise ClipError("samples are not finite", where)
    if highest < SILENCE and lowest > -SILENCE:
        raise ClipError("silent", f"{where}: no sample reaches -80 dB of full scale")
    return audio_N, rate


def _segment(total: int, rate: int, start: float, length: float | None, where: str) -> tuple[int, int]:
    """First frame and number of frames to decode of an audio of `total` frames."""
    first = round(start * rate)
    frames = total - first if length is None else round(length * rate)
    if total > UNKNOWN_FRAMES:
        return first, min(frames, round(WINDOW_SECONDS * rate) + 1)
    if length is not None and 0 < first + frames - total <= SLACK_SECONDS * rate:
        frames = total - first
    if first + frames > total or frames < 0:
        raise ClipError("segment past the audio's end", f"{where}: {start:.2f} s + {frames / rate:.2f} s")
    check_duration(frames / rate)
    return first, frames


def _decode_container(
    source: Path | bytes, start: float, length: float | None, where: str, error: Exception
) -> tuple[Float32[np.ndarray, "N C"], int]:
    """What libsndfile gave up on with `error`, if it begins as a container that PyAV is for."""
    from data.containers import decode_container, is_container

    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                beginning = file.read(16)
        except OSError as reason:
            raise reading_problem(str(source), reason) from None
    else:
        beginning = source[:16]
    if not is_container(beginning):
        raise ClipError("does not decode", f"{where}: {error}") from error
    return decode_container(source, start, length, where)


def resample(audio_N: Float32[np.ndarray, "N"], rate: int, speed: float = 1.0) -> Float32[np.ndarray, "K"]:
    """`audio_N` at 16 kHz, played `speed` times as fast (tempo and pitch together, as Kaldi's speed perturbation)."""
    if rate == SAMPLE_RATE and speed == 1.0:
        return audio_N
    resampled: np.ndarray = soxr.resample(audio_N, rate * speed, SAMPLE_RATE, quality="HQ")
    return resampled


def check_duration(seconds: float) -> None:
    """`ClipError` unless a clip may last `seconds`."""
    if seconds > WINDOW_SECONDS:
        raise ClipError(f"longer than {WINDOW_SECONDS} s", f"{seconds:.2f} s; split it")
    if seconds < MIN_SECONDS:
        raise ClipError(f"shorter than {MIN_SECONDS} s", f"{seconds:.3f} s")
