"""What is said in a film is heard at the film's own time: sound that starts late, gaps, and clocks that lie."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from serving.errors import never
from serving.media import SAMPLE_RATE, Limits, TooLongError, _decode, load_audio

RATE, FRAME = 48_000, 1024  # Hz; samples
TONE_HZ = 440.0


def film(path: Path, codec: str, tones: list[tuple[float, float]], picture: bool = True, kind: str = "") -> Path:
    """Ten seconds of picture from 0 s on, and tones that begin at a time and last so long, with nothing between."""
    with av.open(path, "w", format=kind or None) as container:
        video = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p") if picture else None
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        for number in range(100 if video else 0):
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            image.pts = number
            container.mux(video.encode(image))
        if video:
            container.mux(video.encode())
        for at, seconds in tones:
            wave_N = 0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(seconds * RATE)) / RATE)
            for first in range(0, wave_N.size - FRAME + 1, FRAME):
                part = wave_N[None, first : first + FRAME]
                planar = stream.format.name == "fltp"
                part = part.astype(np.float32) if planar else (part * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(part, format=stream.format.name, layout="mono")
                frame.sample_rate, frame.pts = RATE, round(at * RATE) + first
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def loud(path: Path, max_seconds: float = 60.0) -> list[float]:
    """Where a tone begins and ends, in turn, in seconds: of tenths whether they are loud."""
    audio_N = load_audio(path, max_seconds)
    tenths = [float(np.abs(part).max()) > 0.2 for part in np.array_split(audio_N, round(audio_N.size / 1600))]
    return [0.1 * i for i, (a, b) in enumerate(zip([False, *tenths], [*tenths, False], strict=True)) if a != b]


MATROSKA = ("film.mkv", "pcm_s16le")
KINDS = [MATROSKA, ("film.mp4", "aac"), ("film.mov", "aac"), ("film.ts", "mp2")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_sound_that_starts_late_is_heard_late(tmp_path: Path, name: str, codec: str) -> None:
    """0.15 s: tenths, and an encoder's padding."""
    assert loud(film(tmp_path / name, codec, [(3.0, 2.0)])) == pytest.approx([3.0, 5.0], abs=0.15)


def test_a_broadcast_that_is_silent_for_longer_than_a_leap_of_its_clock_is_heard_late(tmp_path: Path) -> None:
    """0.3 s: as those below. Only between two sounds does such a leap mean that another clock has begun."""
    assert loud(film(tmp_path / "film.ts", "mp2", [(12.0, 1.0)])) == pytest.approx([12.0, 13.0], abs=0.3)


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_what_follows_a_gap_keeps_its_time(tmp_path: Path, name: str, codec: str) -> None:
    path = film(tmp_path / name, codec, [(0.0, 1.0), (2.5, 1.0), (6.0, 1.0)])
    assert loud(path) == pytest.approx([0.0, 1.0, 2.5, 3.5, 6.0, 7.0], abs=0.15)


@pytest.mark.parametrize(("name", "codec"), [MATROSKA, ("voice.webm", "libopus")])
def test_a_recording_whose_clock_ran_before_it_begins_at_once(tmp_path: Path, name: str, codec: str) -> None:
    """As a browser's that was cut out of a longer one."""
    assert loud(film(tmp_path / name, codec, [(3.0, 1.0)], picture=False)) == pytest.approx([0.0, 1.0], abs=0.15)


def test_small_steps_of_a_clock_are_no_gaps(tmp_path: Path) -> None:
    """A player hears 70 ms more or less as nothing, and silence within a word would be heard. 0.96 s are 45 frames."""
    path = film(tmp_path / "film.mkv", "pcm_s16le", [(0.0, 0.96), (0.99, 0.96), (1.99, 0.96)])
    assert load_audio(path).size == 3 * 0.96 * SAMPLE_RATE


def of_one_second(path: Path) -> Path:
    """A Matroska file whose header says that it lasts a second."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 1000.0) + data[at + 8 :])
    return path


@pytest.mark.parametrize("hours", [2, 3000])
def test_a_clock_that_leaps_beyond_the_limit_is_refused_before_silence_is_written(tmp_path: Path, hours: int) -> None:
    path = of_one_second(film(tmp_path / "film.mkv", "pcm_s16le", [(0.0, 1.0), (3600.0 * hours, 1.0)]))
    with (tmp_path / "sound").open("w+b") as sound:
        with pytest.raises(TooLongError, match="120 minutes"):
            _decode(path, Limits(), never, sound)
        assert os.fstat(sound.fileno()).st_size < 4 * 2 * SAMPLE_RATE


def joined(one: Path, two: Path) -> Path:
    one.write_bytes(one.read_bytes() + two.read_bytes())
    return one


@pytest.mark.parametrize("clocks", [(0.0, 3600.0), (3600.0, 0.0), (5.0, 0.0)])
def test_broadcasts_joined_with_each_its_own_clock_follow_each_other(tmp_path: Path, clocks) -> None:
    """As `cat` joins them; hours between their clocks are no hours of silence, and a clock set back costs no sound."""
    make: Callable[[int], Path] = lambda i: film(  # noqa: E731
        tmp_path / f"{i}.ts", "mp2", [(clocks[i], 2.0)], picture=False, kind="mpegts"
    )
    assert loud(joined(make(0), make(1))) == pytest.approx([0.0, 4.0], abs=0.3)
