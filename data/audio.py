"""Any audio file → float32 mono at 16 kHz, by libsndfile and soxr.

No second process: libsndfile decodes MP3, WAV, FLAC and Ogg in this one, and soxr's HQ filter resamples without audible
aliasing. Files that begin as MP4, AAC or WebM do are decoded by PyAV (`data.containers`), and so are MP3 whose length
libsndfile takes for another. A file is what its content says: by a name alone, libsndfile makes noise of a text. A
change of speed needs no pass of its own: it is another ratio in the resampling the clip gets anyway (about twice the
cost of 48 → 16 kHz, because the ratio is no longer a whole number).

Shapes: N samples, C channels.
"""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from data.clips import ClipError, reading_problem
from data.containers import decode_container, is_container
from data.lengths import MP3_TAGS_BYTES, SLACK_SECONDS, check_duration, check_end, is_whole
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS
from data.mpeg import first_frame

SILENCE = 1e-4  # of full scale: a peak below -80 dB
LOUDEST = 1e9  # of full scale: beyond, squares of float32 overflow
LOWEST_HZ, HIGHEST_HZ = 1000, 768_000
LEAD_SECONDS = 0.5  # decoded before a part and dropped: libsndfile's MP3 is wrong for up to 90 ms after a seek
UNKNOWN_FRAMES = 2**62  # libsndfile's count for a stream whose header does not tell is 2**63 - 1


def decode(
    source: Path | bytes, start: float = 0.0, length: float | None = None, name: str = ""
) -> tuple[Float32[np.ndarray, "N"], int]:
    """The samples of `source` (a file, or one's bytes called `name`) at its own rate in Hz, channels averaged, and it.

    `start` and `length` (seconds) choose a part of it. Raises `ClipError` if it does not decode, ends early, is silent,
    holds a value that is not finite, or is not 0.1 to 30 s long; an hour by mistake is found without decoding it.
    """
    where = name or str(source)
    with _open(source) as file:
        decoded = None if is_container(file.read(16)) else _decode_sound(file, start, length, where)
    audio_NC, rate = decoded or decode_container(source, start, length, where)
    check_duration(len(audio_NC) / rate)
    audio_N = audio_NC[:, 0] if audio_NC.shape[1] == 1 else audio_NC.mean(axis=1)
    highest, lowest = audio_N.max(), audio_N.min()  # both are NaN if any sample is
    if not (lowest > -LOUDEST and highest < LOUDEST):
        raise ClipError("samples are not finite", where)
    if highest - lowest < 2 * SILENCE:  # around whatever offset
        raise ClipError("silent", f"{where}: no sample reaches -80 dB of full scale")
    return audio_N, rate


def _open(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        return source.open("rb", buffering=0)
    except OSError as error:
        raise reading_problem(str(source), error) from None


def _decode_sound(
    file: BinaryIO, start: float, length: float | None, where: str
) -> tuple[Float32[np.ndarray, "N C"], int] | None:
    """What libsndfile makes of `file`; None for an MP3 that it would not make all of."""
    try:
        file.seek(0)
        with soundfile.SoundFile(file if isinstance(file, BytesIO) else file.fileno(), closefd=False) as sound:
            rate: int = sound.samplerate
            if not LOWEST_HZ <= rate <= HIGHEST_HZ:
                raise ClipError("not a sample rate", f"{where}: {rate} Hz; it takes {LOWEST_HZ:,} to {HIGHEST_HZ:,}")
            if length is None and not is_whole(sound, file, start + WINDOW_SECONDS + 1, where):
                return None
            first, frames = _segment(sound.frames, rate, start, length, where)
            lead = min(first, round(LEAD_SECONDS * rate))
            if first:
                sound.seek(first - lead)
            audio_NC = sound.read(lead + frames, dtype="float32", always_2d=True)[lead:]
            if sound.frames < UNKNOWN_FRAMES:
                check_end(len(audio_NC) / rate, frames / rate, where)
            return audio_NC, rate
    except soundfile.LibsndfileError as error:
        file.seek(0)
        content = file.read(MP3_TAGS_BYTES)
        mp3 = first_frame(content)
        if not mp3:  # there is none, or nothing is before it
            raise ClipError("does not decode", f"{where}: {error.error_string}") from error
        return _decode_sound(BytesIO(content[mp3:] + file.read()), start, length, where)


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


def resample(audio_N: Float32[np.ndarray, "N"], rate: int, speed: float = 1.0) -> Float32[np.ndarray, "K"]:
    """`audio_N` at 16 kHz, played `speed` times as fast (tempo and pitch together, as Kaldi's speed perturbation)."""
    if rate == SAMPLE_RATE and speed == 1.0:
        return audio_N
    resampled: np.ndarray = soxr.resample(audio_N, rate * speed, SAMPLE_RATE, quality="HQ")
    return resampled
