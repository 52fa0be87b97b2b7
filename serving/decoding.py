"""What the decoding process runs: one file on its standard input becomes samples on its standard output.

Decision: FFmpeg's parsers of a hundred formats meet hostile files here and nowhere else. The process is given two open
files and a line to its parent, then gives up all but reading, writing and memory (`confinement`). So whatever a
playlist, a reference movie or a flaw in a parser asks for, there is neither a file nor a network to be had. It knows
no names and no environment of the server's. It is started by its path and imports nothing else of the project, so that
importing av and numpy is all it costs.

N samples, C channels.

    python decoding.py '{"line": 3, "rate": 16000, …}' < recording.mp3 1<> samples.f32
"""

import json
import math
import os
import sys
import threading
from collections.abc import Iterator

import av
import av.subtitles.codeccontext
import av.subtitles.stream  # PyAV imports these two when a file opens, when no module can be opened any more
import numpy as np
from numpy.typing import NDArray

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
from serving.confinement import LINE, confine

# Formats whose header states the length. Others' is FFmpeg's guess by the bit rate of the first frames, which errs.
STATES_LENGTH = ("wav", "flac", "ogg", "avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")

# Seconds times channels of one frame: an honest one has less than a hundred, a rate of a few Hz has hours, all of it to
# be resampled at once.
MAX_FRAME_SECONDS = 1000
MAX_BAD = 10  # packets that do not decode, beside one in twenty
GAP = 0.1  # seconds that a frame may be late without a silence before it: containers round, and their clocks drift
LOUDEST = 2.0  # of full scale: mixes pass 1 by a little, floats that stayed at an integer's scale reach 32768
# Mean amplitude of a recording whose peak is 1: with less than this, its peak is no speech but a damaged sample.
QUIETEST = 1e-4
BLOCK = 1 << 20  # bytes
JUMP = 10.0  # seconds within a stream of which FFmpeg's command, too, says that another clock has begun


class FaultError(Exception):
    """Why there are no samples: a kind that `serving.media` has a class for, and what it was."""

    def __init__(self, kind: str, says: str) -> None:
        super().__init__(kind, says)
        self.kind, self.says = kind, says


def end_with_parent() -> None:
    """Ends this process when its parent is gone: the line then reads as ended."""
    os.read(LINE, 1)
    os._exit(1)


def refuse(url: str, flags: int, options: object) -> None:  # noqa: ARG001
    """FFmpeg's way to other files and addresses: there is none."""
    raise FaultError("elsewhere", "it refers to other files or addresses")


def opened() -> av.container.InputContainer:
    """The file on standard input, as a stream of its own bytes."""
    file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    # No protocol at all: FFmpeg reads these bytes through `file`, and a playlist among them gets nothing to open.
    return av.open(
        file, "r", options={"protocol_whitelist": ""}, metadata_errors="replace", buffer_size=1 << 18, io_open=refuse
    )


def write_sound(rate: int, seconds: float) -> int:
    """Writes the first audio track as float32 mono at `rate` Hz; gives the number of samples, `seconds` at most.

    Where a sample passes `LOUDEST`, all are divided by the recording's peak.
    """
    samples, peak, total = 0, 0.0, 0.0
    try:
        with opened() as container:
            for chunk_N in sound(container, rate, seconds):
                samples += chunk_N.size
                if samples > seconds * rate:
                    raise FaultError("too_long", "")
                amplitude_N = np.abs(chunk_N)
                loudest = float(amplitude_N.max(initial=0.0))
                if not math.isfinite(loudest):
                    raise FaultError("not_media", "holds samples that are not numbers; convert it anew")
                peak, total = max(peak, loudest), total + float(amplitude_N.sum(dtype=np.float64))
                write(memoryview(chunk_N.tobytes()))
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        at = f"after {samples / rate:.1f} s" if samples else "from the start"
        raise FaultError("not_media", f"does not decode {at} ({error.strerror})") from error
    if peak > LOUDEST:
        if total < QUIETEST * peak * samples:
            raise FaultError("not_media", f"holds samples of {peak:.0e} times full scale amid quiet; convert it to mp3")
        divide(4 * samples, peak)
    return samples


def divide(size: int, peak: float) -> None:
    """Divides the samples in `size` bytes of standard output by `peak`, in place."""
    for start in range(0, size, BLOCK):
        os.lseek(1, start, os.SEEK_SET)
        block_N = np.frombuffer(os.read(1, BLOCK), np.float32) / np.float32(peak)
        os.lseek(1, start, os.SEEK_SET)
        write(memoryview(block_N.tobytes()))


def write(data: memoryview) -> None:
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:  # the disk is full
        raise FaultError("no_room", error.strerror or "") from error


def sound(container: av.container.InputContainer, rate: int, seconds: float) -> Iterator[NDArray[np.float32]]:
    """Float32 mono pieces at `rate` Hz of the first audio track, in order."""
    if not container.streams.audio:
        raise FaultError("no_sound", "has no audio track")
    states = container.duration if container.format.name in STATES_LENGTH else None
    if states is not None and states / av.time_base > seconds:
        raise FaultError("too_long", "")
    resampler, layout, clock = None, None, Clock(container)
    for frame in frames(container):
        if frame.samples * frame.layout.nb_channels > MAX_FRAME_SECONDS * frame.sample_rate:
            raise FaultError("too_costly", "more memory")
        late = clock.late(frame)
        if late and clock.now > seconds:  # before any of that silence is written
            raise FaultError("too_long", "")
        frame.pts = None  # the silence is there
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or late or now != layout:  # a stream may change from stereo to mono, or its rate
            if resampler is not None:
                yield from mono(resampler.resample(None))
            yield from silence(round(late * rate))
            resampler, layout = av.AudioResampler(format="flt", rate=rate), now
        yield from mono(resampler.resample(frame))
    if resampler is not None:
        yield from mono(resampler.resample(None))


class Clock:
    """The time of what is written, beside the container's: players wait in a gap, and where sound begins late."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self.zero = (container.start_time or 0) / av.time_base
        """Where the file begins, its picture or its sound, in seconds of the container's clock."""
        self.now = 0.0
        """Seconds written."""
        self.may_jump = bool(container.format.flags & av.format.Flags.ts_discont.value)

    def late(self, frame: av.AudioFrame) -> float:
        """Seconds of silence before the frame; counts both as written. Sound that overlaps is laid end to end."""
        late = frame.time - self.zero - self.now if frame.time is not None else 0.0
        if self.may_jump and self.now and abs(late) > JUMP:
            self.zero += late
            late = 0.0
        if late < GAP:
            late = 0.0
        self.now += late + frame.samples / frame.sample_rate
        return late


def silence(samples: int, block: int = 1 << 20) -> Iterator[NDArray[np.float32]]:
    """So many zeros."""
    for start in range(0, samples, block):
        yield np.zeros(min(block, samples - start), np.float32)


def frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """The first audio track, without the packets that do not decode, as players do, as long as these are few.

    Tags at the end of an mp3 that look like sound, or a scratch, must not cost a lecture.
    """
    good = bad = 0
    for packet in container.demux(container.streams.audio[0]):
        try:
            decoded = packet.decode()
            good += 1
        except av.InvalidDataError:
            decoded = []
            bad += 1
            if bad > MAX_BAD + good // 20:
                raise
        yield from decoded
    if bad > good:
        raise FaultError("not_media", "holds hardly a packet that decodes")


def mono(frames: list[av.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    """The mean of the channels: FFmpeg's own mix adds them up, and a loud stereo voice would pass full scale.

    One channel where they cancel each other out, as of a cable with its poles crossed: where the mean is less than a
    third, in amplitude, of what it would be if all others were silent.
    """
    for frame in frames:
        # Packed, as PyAV reads beyond its memory where a planar frame has eight channels or more.
        channels_CN = np.ascontiguousarray(frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T)
        mean_N = channels_CN.mean(axis=0, dtype=np.float32)
        power_C = np.square(channels_CN).mean(axis=1, dtype=np.float64)
        loudest = power_C.max()
        if np.square(mean_N).mean(dtype=np.float64) < 0.1 * loudest / len(power_C) ** 2:
            mean_N = channels_CN[(power_C >= loudest / 2).argmax()]  # the first loud one: the same in every frame
        yield mean_N


def answer(job: dict[str, float | str]) -> str:
    """What `serving.media` is told, two lines: done and the result, or the kind of fault and what it was."""
    try:
        return f"done\n{write_sound(int(job['rate']), float(job['seconds']))}"
    except FaultError as fault:
        return f"{fault.kind}\n{fault.says}"
    except MemoryError:
        return "too_costly\nmore memory"
    except av.FFmpegError as error:
        return f"not_media\ndoes not open ({error.strerror})"


def main() -> None:
    job = json.loads(sys.argv[1])
    confine(job["line"], job["memory"], job["cpu_seconds"], job["file_size"])
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.write(LINE, b"ready\n")
    os.write(LINE, answer(job).encode())
    os._exit(0)  # nothing is left to tidy, and the thread above still waits


if __name__ == "__main__":
    main()
