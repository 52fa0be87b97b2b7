"""Any recording as float32 mono at 16 kHz, decoded in a process of its own.

PyAV carries FFmpeg inside its wheel, so a phone's m4a, a browser's webm and a video's sound track all work where no
`ffmpeg` is installed. Uploads are hostile: their bytes are only ever parsed by a process that lives for one file, has
limits and can do no more (`decoding.py`). What it writes goes to a temporary file without a name, which is gone with
the last process that holds it, however that ends, and which is mapped here read-only: an hour is 230 MB that need not
be in memory.

N samples.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from serving.errors import AudioError, StoppedError, never

SAMPLE_RATE = 16_000  # Hz, the rate Whisper was trained on
MAX_SECONDS = 2 * 3600.0  # a lecture
MIN_SAMPLES = 160  # one hop of the log-mel, 10 ms
PROGRAM = Path(__file__).with_name("decoding.py")
LONGEST_ANSWER, LONGEST_REASON = 10_000, 200  # bytes and characters, of a process that a file may have taken over
# What the decoding process sees of the environment: where Python and its libraries are, never a token.
PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
ARCHIVES = {
    "zip": (0, b"PK\x03\x04"),
    "gzip": (0, b"\x1f\x8b"),
    "tar": (257, b"ustar"),
    "7z": (0, b"7z\xbc\xaf\x27\x1c"),
    "rar": (0, b"Rar!\x1a\x07"),
    "xz": (0, b"\xfd7zXZ\x00"),
    "bzip2": (0, b"BZh"),
    "zstd": (0, b"\x28\xb5\x2f\xfd"),
}


@dataclass(frozen=True)
class Limits:
    """What one recording may take."""

    size: int = 2 * 1024**3
    """Bytes of the file: two hours of uncompressed stereo."""
    seconds: float = MAX_SECONDS
    """Length of the sound."""
    memory: int = 2 * 1024**3
    """Bytes the decoding process may allocate: FFmpeg looks at the first pictures of a video, and of 8K they are
    large."""
    cpu_seconds: int = 120
    """Processor time for decoding: two hours of AAC take about ten seconds."""
    wall_seconds: float = 300.0
    """Time for decoding, on a machine that is busy with other things."""


LIMITS = Limits()


class NotFoundError(AudioError):
    """There is no such file, or it cannot be opened."""


class NotMediaError(AudioError):
    """The file is not audio or video, or is damaged."""


class ArchiveError(NotMediaError):
    """The file is an archive, such as zip."""


class ElsewhereError(NotMediaError):
    """The file is a playlist or a reference movie: it names other files or addresses in place of holding sound."""


class NoSoundError(AudioError):
    """The file holds no audio track, or an empty one."""


class TooLongError(AudioError):
    """The recording is longer than allowed."""


class TooLargeError(AudioError):
    """The file has more bytes than allowed."""


class TooCostlyError(AudioError):
    """Decoding takes more time or memory than any honest recording of the allowed length."""


class NoRoomError(AudioError):
    """The server's disk is full: nothing is wrong with the file."""


@contextmanager
def decoded(path: Path, limits: Limits = LIMITS, stopped: Callable[[], bool] = never) -> Iterator[NDArray[np.float32]]:
    """The first audio track of any file FFmpeg reads: float32 (N,), mono, 16 kHz, full scale ±1, mapped read-only.

    A mix that passes full scale by a little stays as it is; floats beyond ±2, such as 16-bit samples that were never
    divided by 32768, are all divided by the recording's peak.

    Raises an `AudioError` that names the file, or `StoppedError` soon after `stopped()` turned true.
    """
    with tempfile.TemporaryFile(prefix="sussurro-") as sound:
        _decode(path, limits, stopped, sound)
        samples = os.fstat(sound.fileno()).st_size // 4  # as written, not as said
        if samples < MIN_SAMPLES:
            raise NoSoundError(f"{path.name}: the audio track is empty ({samples} samples); record or upload it again")
        yield np.memmap(sound, np.float32, "r", shape=(samples,))


def load_audio(path: Path, max_seconds: float = MAX_SECONDS) -> NDArray[np.float32]:
    """What `decoded` gives, as an array in memory."""
    with decoded(path, Limits(seconds=max_seconds)) as audio_N:
        return np.array(audio_N)


def opened(path: Path) -> IO[bytes]:
    """The file, open. Raises `NotFoundError` where there is none, or it is not to be read."""
    try:
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file; give the path of a recording")
        return path.open("rb")
    except OSError as error:  # its name is too long, or it is somebody else's
        raise NotFoundError(f"{path}: cannot be opened ({error.strerror}); give the path of a recording") from error


def check_file(path: Path, limits: Limits) -> None:
    """Raises an `AudioError` for what shows without decoding: missing, empty, too large, an archive."""
    with opened(path) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(512)
    if size == 0:
        raise NoSoundError(f"{path.name}: the file is empty (0 bytes); record or upload it again")
    if size > limits.size:
        raise TooLargeError(
            f"{path.name}: has {size / 1e6:,.0f} MB, at most {limits.size / 1e6:,.0f} MB are allowed;"
            " save its sound alone, as mp3 or m4a, or cut it into parts"
        )
    for name, (place, mark) in ARCHIVES.items():
        if head[place:].startswith(mark):
            raise ArchiveError(f"{path.name}: is an archive ({name}); unpack it and give the recording itself")


def _decode(path: Path, limits: Limits, stopped: Callable[[], bool], sound: IO[bytes]) -> None:
    """Has the decoding process write a file's samples into `sound`. Raises an `AudioError` where it cannot."""
    check_file(path, limits)
    ours, theirs = socket.socketpair()
    job = {
        "line": theirs.fileno(),
        "rate": SAMPLE_RATE,
        "seconds": limits.seconds,
        "memory": limits.memory,
        "cpu_seconds": limits.cpu_seconds,
        "file_size": 4 * (int(limits.seconds * SAMPLE_RATE) + SAMPLE_RATE),
    }
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with ours, opened(path) as file:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), json.dumps(job)],
                stdin=file,
                stdout=sound,
                pass_fds=(theirs.fileno(),),
                env=environment | {"OPENBLAS_NUM_THREADS": "1"},  # its idle threads would count as memory
            )
        try:
            said = _heard(ours, path.name, limits, stopped)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)  # the line closed with it, or it means no good
        finally:
            process.kill()
            process.wait()
    _check_answer(said, process.returncode, path.name, limits)


def _heard(line: socket.socket, name: str, limits: Limits, stopped: Callable[[], bool]) -> bytes:
    """All that the process says until it ends, or until its time is up or `stopped()` is true."""
    said, until = b"", time.monotonic() + limits.wall_seconds
    line.settimeout(0.1)
    while len(said) < LONGEST_ANSWER:
        if stopped():
            raise StoppedError(f"{name}: stopped while it was decoded")
        if time.monotonic() > until:
            raise TooCostlyError(
                f"{name}: was not decoded within {limits.wall_seconds:g} s; convert it to mp3 or cut it into parts"
            )
        try:
            part = line.recv(LONGEST_ANSWER)
        except TimeoutError:
            continue
        if not part:
            break
        said += part
    return said


def _check_answer(said: bytes, returncode: int, name: str, limits: Limits) -> None:
    """Raises the `AudioError` that what was said stands for; none where it was that the work is done."""
    if not said.startswith(b"ready\n"):
        raise RuntimeError(f"{PROGRAM.name} does not start (status {returncode}): its error stands above")
    if returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise TooCostlyError(
            f"{name}: takes more than the {limits.cpu_seconds} s or the memory allowed for decoding;"
            " convert it to mp3 or cut it into parts"
        )
    # Nothing is trusted of what a process says that a file may have taken over.
    kind, _, says = said.removeprefix(b"ready\n").decode(errors="replace").partition("\n")
    says = " ".join(says.split())[:LONGEST_REASON]
    if kind == "done":
        return
    if not kind:
        raise NotMediaError(f"{name}: makes the decoder fail (status {returncode}); convert it to mp3 and try again")
    raise _error(kind, says, name, limits)


def _error(fault: str, says: str, name: str, limits: Limits) -> AudioError:
    expected = "expected audio or video, such as mp3, wav or mp4"
    match fault:
        case "no_sound":
            return NoSoundError(f"{name}: {says}; expected audio, or a video with sound")
        case "too_long":
            return TooLongError(f"{name}: longer than the {limits.seconds / 60:g} minutes allowed; cut it into parts")
        case "too_costly":
            return TooCostlyError(f"{name}: takes {says} to decode than allowed; convert it to mp3 and try again")
        case "no_room":
            return NoRoomError(f"{name}: there is no room for its sound ({says}); try again later")
        case "elsewhere":
            return ElsewhereError(f"{name}: {says}, which are never opened; give the recording itself")
    return NotMediaError(f"{name}: {says}; {expected}")
