"""Any recording as float32 mono at 16 kHz, decoded in this process by PyAV.

PyAV carries FFmpeg inside its wheel, so a phone's m4a, a browser's webm and a video's sound track all work where no
`ffmpeg` is installed. A file is opened as a stream of its own bytes and nothing else: FFmpeg also reads playlists,
and an uploaded one must not make the server open other files or addresses.

N samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from serving.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, the rate Whisper was trained on
MAX_SECONDS = 2 * 3600.0  # a lecture; its log-mel takes about 4 GB while it is computed
MIN_SAMPLES = 160  # one hop of the log-mel, 10 ms


class NotFoundError(AudioError):
    """There is no such file."""


class NotMediaError(AudioError):
    """The file is not audio or video, or is damaged."""


class NoSoundError(AudioError):
    """The file holds no audio track, or an empty one."""


class TooLongError(AudioError):
    """The recording is longer than allowed."""


def load_audio(path: Path, max_seconds: float = MAX_SECONDS) -> NDArray[np.float32]:
    """The first audio track of any file FFmpeg reads: float32 (N,), mono, 16 kHz, full scale ±1.

    Raises an `AudioError` that names the file: missing, not decodable, without sound, or over `max_seconds`.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; give the path of a recording")
    if path.stat().st_size == 0:
        raise NoSoundError(f"{path.name}: the file is empty (0 bytes); record or upload it again")
    chunks, samples = [], 0
    with path.open("rb") as file:
        try:
            for chunk_N in _decode(file, path.name):
                chunks.append(chunk_N)
                samples += chunk_N.size
                if samples > max_seconds * SAMPLE_RATE:
                    raise TooLongError(
                        f"{path.name}: longer than the {max_seconds / 60:g} minutes allowed; cut it into parts"
                    )
        except (av.FFmpegError, UnicodeDecodeError) as error:
            at = f"after {samples / SAMPLE_RATE:.1f} s" if samples else "from the start"
            reason = error.strerror if isinstance(error, av.FFmpegError) else "unreadable text in its header"
            raise NotMediaError(
                f"{path.name}: does not decode {at} ({reason}); expected audio or video, such as mp3, wav or mp4"
            ) from error
    if samples < MIN_SAMPLES:
        raise NoSoundError(f"{path.name}: the audio track is empty ({samples} samples); record or upload it again")
    audio_N = np.concatenate(chunks)
    if not np.isfinite(audio_N).all():
        raise NotMediaError(f"{path.name}: holds samples that are not numbers; convert it again from its source")
    return audio_N


def _decode(file: BinaryIO, name: str) -> Iterator[NDArray[np.float32]]:
    """Float32 mono 16 kHz pieces of the first audio track, in order."""
    # No protocol at all: FFmpeg reads these bytes through `file`, and a playlist among them gets nothing to open.
    with av.open(file, options={"protocol_whitelist": ""}) as container:
        if not container.streams.audio:
            raise NoSoundError(f"{name}: has no audio track; expected audio, or a video with sound")
        resampler, layout = None, None
        for frame in container.decode(container.streams.audio[0]):
            frame.pts = None  # sound is laid end to end, whatever the clock of a container says
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or now != layout:  # a stream may change from stereo to mono, or its rate
                if resampler is not None:
                    yield from _samples(resampler.resample(None))
                resampler, layout = av.AudioResampler(format="fltp", rate=SAMPLE_RATE), now
            yield from _samples(resampler.resample(frame))
        if resampler is not None:
            yield from _samples(resampler.resample(None))


def _samples(frames: list[av.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    """The mean of the channels: FFmpeg's own mix adds them up, and a loud stereo voice would pass full scale."""
    for frame in frames:
        yield frame.to_ndarray().mean(axis=0, dtype=np.float32)


@contextmanager
def decoded(path: Path) -> Iterator[NDArray[np.float32]]:
    yield load_audio(path)


def has_video(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.video)
