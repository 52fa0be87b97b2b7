"""Audio in MP4 (m4a), AAC, and Matroska (webm, mkv) → samples, by PyAV.

Such files are told by their first bytes, never by their names, and never tried because something else failed; besides
them there are the MP3 whose length libsndfile would get wrong. PyAV is imported at the first one, so a corpus without
any does without it.

Shapes: N samples, C channels.
"""

from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data.clips import ClipError
from data.lengths import SLACK_SECONDS, check_duration, check_end
from data.log_mel import WINDOW_SECONDS

EBML = b"\x1a\x45\xdf\xa3"
SEEK_FROM_SECONDS = 60.0  # an earlier start is reached by decoding: exact to the sample
SEEK_EARLIER_SECONDS = 1.0  # a decoder needs some packets until its samples are right


def is_container(beginning: bytes) -> bool:
    """Whether a file that begins so is MP4 (a `ftyp` box), Matroska (EBML) or raw AAC (ADTS: a sync word, layer 0)."""
    adts = len(beginning) > 1 and beginning[0] == 0xFF and beginning[1] & 0xF6 == 0xF0
    return beginning[4:8] == b"ftyp" or beginning.startswith(EBML) or adts


def decode_container(
    source: Path | bytes, start: float, length: float | None, where: str
) -> tuple[Float32[np.ndarray, "N C"], int]:
    """The samples of the first audio stream from `start` on, `length` seconds of them, and their rate in Hz.

    At most a little more than 30 s are decoded. Raises `ClipError` if there is no audio or it does not decode.
    """
    import av

    try:
        with av.open(BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            if not container.streams.audio:
                raise ClipError("does not decode", f"{where} has no audio stream")
            total = _total_seconds(container)
            seconds = None if total is None else total - start
            _check_limits(seconds, start, length, where)
            wanted = _wanted(seconds, length)
            audio_NC, rate = _read(container, start, wanted, where)
    except (av.FFmpegError, ValueError) as error:
        raise ClipError("does not decode", f"{where}: {error}") from error
    if total is not None:
        check_end(len(audio_NC) / rate, wanted, where)
    _check_limits(len(audio_NC) / rate, start, length, where)
    return audio_NC, rate


def _total_seconds(container: Any) -> float | None:
    """How long the audio is, if the container tells: for AAC and MP3 it would be a guess by the bit rate."""
    import av

    if container.format.name in ("aac", "mp3"):
        return None
    stream = container.streams.audio[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None


def _check_limits(seconds: float | None, start: float, length: float | None, where: str) -> None:
    """`seconds` are those after `start`, if the container tells."""
    if seconds is not None and (length or 0) > seconds + SLACK_SECONDS:
        raise ClipError("segment past the audio's end", f"{where}: {start:.2f} s + {length:.2f} s")
    limit = seconds if length is None else length
    if limit is not None:
        check_duration(limit)


def _wanted(seconds: float | None, length: float | None) -> float:
    """How many seconds to decode: one past what a clip may be if nobody knows, so that it is seen to be too long."""
    known = [value for value in (seconds, length) if value is not None]
    return min(known, default=WINDOW_SECONDS + 1.0)


def _read(container: Any, start: float, seconds: float, where: str) -> tuple[Float32[np.ndarray, "N C"], int]:
    import av

    stream = container.streams.audio[0]
    seeks = start > SEEK_FROM_SECONDS
    if seeks:
        container.seek(int((start - SEEK_EARLIER_SECONDS) * av.time_base))
    frames = container.decode(stream)
    head = next(frames, None)
    if head is None:
        raise ClipError("does not decode", f"{where} has no audio in it")
    rate: int = head.sample_rate
    before = (head.time or 0.0) - (stream.start_time or 0) * stream.time_base if seeks else 0.0
    first = max(round((start - float(before)) * rate), 0)
    planes = av.AudioResampler(format="fltp", layout=head.layout, rate=rate)
    pieces: list[np.ndarray] = []
    have, need = 0, first + round(seconds * rate)
    for frame in chain([head], frames):
        for part in planes.resample(frame):
            pieces.append(part.to_ndarray())
            have += part.samples
        if have >= need:
            break
    audio_CN = np.concatenate(pieces, axis=1)[:, first:need]
    return np.ascontiguousarray(audio_CN.T), rate
