"""One upload takes bounded time, memory and room, ends when it is asked to, and leaves nothing behind."""

import bz2
import gzip
import io
import lzma
import os
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import soundfile

from serving.errors import StoppedError
from serving.media import (
    PROGRAM,
    SAMPLE_RATE,
    ArchiveError,
    Limits,
    TooCostlyError,
    TooLargeError,
    TooLongError,
    decoded,
    load_audio,
)
from tests.page_process import REPOSITORY


def zipped(path: Path, clip: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.wav", clip)


def tarred(path: Path, clip: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("clip.wav")
        entry.size = len(clip)
        archive.addfile(entry, io.BytesIO(clip))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("clip.zip", zipped),
        ("clip.wav", zipped),  # whatever its name says
        ("clip.tar", tarred),
        ("clip.wav.gz", lambda path, clip: path.write_bytes(gzip.compress(clip))),
        ("clip.bz2", lambda path, clip: path.write_bytes(bz2.compress(clip))),
        ("clip.xz", lambda path, clip: path.write_bytes(lzma.compress(clip))),
        ("bomb.gz", lambda path, clip: path.write_bytes(gzip.compress(clip[:44] + bytes(50_000_000), 1))),
    ],
)
def test_archives_are_refused_as_such(tmp_path: Path, name: str, make: Callable[[Path, bytes], None]) -> None:
    clip = io.BytesIO()
    soundfile.write(clip, np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, format="WAV")
    make(tmp_path / name, clip.getvalue())
    with pytest.raises(ArchiveError, match="unpack it"):
        load_audio(tmp_path / name)


def wav_header(rate: int, size: int, channels: int = 1) -> bytes:
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", min(size + 36, 2**32 - 1), b"WAVE", b"fmt ", 16, 1, channels, rate, rate * channels, channels, 8),
        *(b"data", size),
    )


def a_day_at_one_hertz(path: Path) -> None:
    path.write_bytes(wav_header(1, 86_400) + bytes(86_400))


def of_unknown_length(flac: bytes) -> bytes:
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def a_day_of_silence(path: Path) -> None:
    """FLAC says the same of a silent frame, however long it is."""
    with av.open(path, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=50, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_320_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 50
        for part in av.AudioResampler("s16", "mono", 50, frame_size=4608).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    path.write_bytes(of_unknown_length(path.read_bytes()))


def a_claim_of_a_day(path: Path) -> None:
    """A film that says it lasts a day, and holds a second."""
    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, SAMPLE_RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 86_400e3) + data[at + 8 :])


@pytest.mark.parametrize("make", [a_day_at_one_hertz, a_day_of_silence, a_claim_of_a_day])
def test_a_small_file_with_a_day_of_sound_is_too_long(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 1_000_000
    with pytest.raises(TooLongError, match="20 minutes"):
        load_audio(tmp_path / "x", max_seconds=20 * 60)


def a_day_of_script(path: Path) -> Path:
    """SBaGen: a few words from which FFmpeg makes sound."""
    path.write_text("-SE\nalpha: 200+10/50\noff: -\nNOW alpha\n+23:00:00 off\n")
    return path


def test_a_script_that_makes_a_day_of_sound_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(TooLongError, match="1 minutes"):
        load_audio(a_day_of_script(tmp_path / "x"), max_seconds=60)


def test_a_header_of_a_stream_that_never_ended_is_no_claim(tmp_path: Path) -> None:
    """Programs that write to a pipe put the largest number there is in place of a length they do not know."""
    (tmp_path / "x.wav").write_bytes(wav_header(SAMPLE_RATE, 2**32 - 1) + b"\x80" * SAMPLE_RATE)
    assert load_audio(tmp_path / "x.wav").size == SAMPLE_RATE


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.wav").open("wb") as file:
        file.truncate(Limits().size + 1)  # a hole: it takes no room
    with pytest.raises(TooLargeError, match="at most 2,147 MB"):
        load_audio(tmp_path / "x.wav")


def silence(path: Path, seconds: int) -> Path:
    soundfile.write(path, np.zeros(SAMPLE_RATE * seconds, np.int16), SAMPLE_RATE)
    return path


def one_frame_of_two_hours(path: Path) -> Path:
    """Eight channels at 10 Hz: 3 GB when it is resampled."""
    with av.open(path, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=10, layout="7.1", options={"frame_size": "65535"})
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 65_535 * 8), np.int16), format="s16", layout="7.1")
        frame.sample_rate = 10
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(of_unknown_length(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("make", "limits", "says"),
    [
        (one_frame_of_two_hours, Limits(), "memory"),
        (a_day_of_script, Limits(cpu_seconds=1), "1 s"),
        (a_day_of_script, Limits(wall_seconds=0.5), "0.5 s"),
    ],
)
def test_decoding_that_takes_too_much_is_given_up(
    tmp_path: Path, make: Callable[[Path], Path], limits: Limits, says: str
) -> None:
    with pytest.raises(TooCostlyError, match=says), decoded(make(tmp_path / "x"), limits):
        pass
    assert children() == []


def test_a_file_that_crashed_the_decoder_is_read(tmp_path: Path) -> None:
    """Sixty channels at 10 Hz, planar, made FFmpeg 8.1's resampler write past its memory; packed, it reads them."""
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setparams((60, 1, 10, 0, "NONE", ""))
        file.writeframes(b"\x80" * 60 * 600)
    assert load_audio(tmp_path / "x.wav").size == 60 * SAMPLE_RATE


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if PROGRAM.name in " ".join(child.cmdline())]


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("sussurro")]


def test_stopping_ends_the_process_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path, seen = silence(tmp_path / "x.flac", 3600), []

    def stopped() -> bool:
        seen.extend(children())
        return bool(seen)

    with pytest.raises(StoppedError, match=r"x\.flac"), decoded(path, stopped=stopped):
        pass
    assert len(seen) == 1
    assert not seen[0].is_running()
    assert left_in(tmp_path) == []


def test_the_sound_is_a_map_of_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with decoded(silence(tmp_path / "x.wav", 2)) as audio_N:
        assert isinstance(audio_N, np.memmap)
        assert (audio_N.dtype, audio_N.shape) == (np.float32, (2 * SAMPLE_RATE,))
        with pytest.raises(ValueError, match="read-only"):
            audio_N[0] = 1.0
        assert left_in(tmp_path) == []
        assert children() == []


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Even one that is killed outright."""
    path = a_day_of_script(tmp_path / "x")
    program = f"from pathlib import Path; from serving.media import load_audio; load_audio(Path({str(path)!r}))"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, env=environment) as parent:
        waited = psutil.Process(parent.pid)
        while not (decoders := waited.children()):
            time.sleep(0.02)
        os.kill(parent.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(decoders, timeout=30)
    assert (len(gone), alive) == (1, [])
    assert left_in(tmp_path) == []


def test_the_process_sees_no_token_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen: list[dict[str, str]] = []

    def stopped() -> bool:
        seen.extend(child.environ() for child in children())
        return bool(seen)

    with pytest.raises(StoppedError), decoded(silence(tmp_path / "x.flac", 3600), stopped=stopped):
        pass
    assert "HF_TOKEN" not in seen[0]


def test_a_full_disk_is_not_the_files_fault(tmp_path: Path) -> None:
    job = {"rate": SAMPLE_RATE, "seconds": 60.0}
    program = "import json, sys; sys.path.insert(0, sys.argv[1]); import decoding; " + (
        f"answer = decoding.answer({job!r}); sys.stderr.write(answer)"
    )
    with silence(tmp_path / "x.wav", 1).open("rb") as file, Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, PROGRAM.parent], stdin=file, stdout=full, stderr=subprocess.PIPE, check=True
        )
    assert done.stderr.startswith(b"no_room\n")
