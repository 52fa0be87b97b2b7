"""Decoding: every container by what is in it, parts of it, and the clips that are left out."""

import errno
import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from data.audio import decode, resample
from data.clips import AudioFile, ClipError
from data.errors import UserError

RATE = 48_000
CONTAINERS = [
    ("a.m4a", "aac", "ipod"),
    ("a.mp4", "aac", "mp4"),
    ("a.aac", "aac", "adts"),
    ("a.webm", "libopus", "webm"),
    ("a.mkv", "flac", "matroska"),
]


def tone(seconds, pitch_hz=440):
    return (0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def encode(path, codec, container, audio_N):
    """`audio_N` as FFmpeg's encoders write it."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, layout="mono")
        stream.codec_context.open()
        context = stream.codec_context
        cut = av.AudioResampler(format=context.format.name, layout="mono", rate=RATE, frame_size=context.frame_size)
        frame = av.AudioFrame.from_ndarray(audio_N[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for part in [*cut.resample(frame), *cut.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def strongest_hz(audio_N):
    """At 16 kHz, of the second after the first tenth."""
    return int(np.abs(np.fft.rfft(audio_N[1600:17_600])).argmax())


def reason(source, *part):
    with pytest.raises(ClipError) as error:
        decode(source, *part)
    return error.value.reason


@pytest.mark.parametrize(("name", "codec", "container"), CONTAINERS)
def test_containers_decode_by_their_content_whatever_they_are_called(tmp_path, name, codec, container):
    """40 ms: AAC's padding at both ends, where the container does not tell of it."""
    path = encode(tmp_path / name, codec, container, tone(2)).rename(tmp_path / "clip.mp3")
    audio_N = resample(*decode(path))
    assert abs(len(audio_N) / 16_000 - 2) <= 0.05
    assert abs(strongest_hz(audio_N) - 440) <= 1
    np.testing.assert_array_equal(resample(*decode(path.read_bytes(), name="clip")), audio_N)


@pytest.mark.parametrize(("name", "codec", "container"), CONTAINERS)
def test_a_part_of_a_container_is_that_part(tmp_path, name, codec, container):
    path = encode(tmp_path / name, codec, container, np.concatenate([tone(3), tone(2, 700), tone(3)]))
    audio_N = resample(*decode(path, 3.1, 1.8))
    assert abs(len(audio_N) / 16_000 - 1.8) < 1e-3
    assert abs(strongest_hz(audio_N) - 700) <= 1
    assert reason(path, 7.5, 2.0) == "segment past the audio's end"


@pytest.mark.parametrize(("name", "codec", "container"), [*CONTAINERS, ("a.mp3", "", ""), ("a.flac", "", "")])
def test_of_a_long_file_only_the_wanted_part_is_decoded(tmp_path, name, codec, container):
    audio_N = np.tile(tone(10), 12)
    audio_N[100 * RATE : 102 * RATE] = tone(2, 700)
    path = tmp_path / name
    encode(path, codec, container, audio_N) if codec else soundfile.write(path, audio_N, RATE)
    part_N = resample(*decode(path, 100.2, 1.6))
    assert reason(path) == "longer than 30 s"
    assert abs(strongest_hz(part_N) - 700) <= 1
    assert len(part_N) == pytest.approx(1.6 * 16_000, abs=2)


def test_a_container_without_sound_or_cut_short_does_not_decode(tmp_path):
    path = encode(tmp_path / "a.m4a", "aac", "ipod", tone(2))
    assert reason(path.read_bytes()[:64]) == "does not decode"
    assert reason(b"\x00\x00\x00\x18ftypM4A " + bytes(999)) == "does not decode"
    assert reason(b"\x1a\x45\xdf\xa3" + bytes(999)) == "does not decode"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_part_of_a_file_is_those_samples(tmp_path, suffix):
    """Ogg's windows differ after a seek, by far less than what is heard."""
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.concatenate([tone(3), tone(2, 700), tone(3)]), RATE)
    whole_N, _ = decode(path)
    part_N, rate = decode(path, 3.1, 1.8)
    first = round(3.1 * rate)
    np.testing.assert_allclose(part_N, whole_N[first : first + len(part_N)], rtol=0, atol=2e-3)
    assert len(part_N) == round(1.8 * rate)
    assert len(decode(path, 7.0, 1.05)[0]) == pytest.approx(rate, abs=0.05 * rate)  # a manifest's rounded duration
    assert reason(path, 7.0, 2.0) == "segment past the audio's end"
    assert reason(path, 9.0) == "segment past the audio's end"


def test_silence_is_left_out_and_a_whisper_is_not(tmp_path):
    """-80 dB of full scale is 1e-4."""
    for level, silent in ((0.0, True), (0.9e-4, True), (1.1e-4, False)):
        path = tmp_path / "a.wav"
        soundfile.write(path, level * np.sign(tone(1)), RATE, subtype="FLOAT")
        if silent:
            assert reason(path) == "silent"
        else:
            assert len(decode(path)[0]) == RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_not_finite_is_enough(tmp_path, value):
    audio_N = tone(1)
    audio_N[17] = value
    soundfile.write(tmp_path / "a.wav", audio_N, RATE, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "samples are not finite"


def test_a_clip_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "folder.mp3").mkdir()
    assert reason(tmp_path / "folder.mp3") == "cannot be read"
    (tmp_path / "circle.mp3").symlink_to("circle.mp3")
    assert reason(tmp_path / "circle.mp3") == "cannot be read"
    assert reason(tmp_path / "folder.mp3" / "a.mp3") in ("no such file", "cannot be read")


def test_links_in_a_corpus_lead_nowhere_else(tmp_path):
    clips, outside = tmp_path / "corpus" / "clips", tmp_path / "secret.wav"
    clips.mkdir(parents=True)
    for path in (outside, clips / "a.wav", clips.parent / "b.wav"):
        soundfile.write(path, tone(1), RATE)
    root = str(clips.parent)
    for name, target in (
        ("in.wav", "a.wav"),
        ("up.wav", "../b.wav"),
        ("out.wav", str(outside)),
        ("gone.wav", "none.wav"),
        ("circle.wav", "circle.wav"),
    ):
        (clips / name).symlink_to(target)
    assert AudioFile(str(clips / "in.wav"), root).load() == clips / "in.wav"
    assert AudioFile(str(clips / "up.wav"), root).load() == clips / "up.wav"
    for name, want in (
        ("out.wav", "path leaves the corpus folder"),
        ("gone.wav", "no such file"),
        ("circle.wav", "cannot be read"),
    ):
        with pytest.raises(ClipError) as error:
            AudioFile(str(clips / name), root).load()
        assert error.value.reason == want


def test_what_is_no_file_is_not_opened(tmp_path):
    """A pipe would block for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    for name in ("pipe.wav", "folder.wav", "link.wav"):
        with pytest.raises(ClipError, match=r"cannot be read: .* is not a file"):
            AudioFile(str(tmp_path / name)).load()
    for name in ("none.wav", "folder.wav/a.wav", "none/a.wav"):
        with pytest.raises(ClipError, match=r"no such file"):
            AudioFile(str(tmp_path / name)).load()
    with pytest.raises(ClipError, match=r"cannot be read: .*name too long"):
        AudioFile(str(tmp_path / ("a" * 300))).load()


def test_a_drive_that_is_gone_is_no_fault_of_its_clips(tmp_path, monkeypatch):
    def lstat(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(UserError, match=r"a.wav cannot be read \(Stale file handle\): run the same command") as error:
        AudioFile(str(tmp_path / "a.wav")).load()
    assert not isinstance(error.value, ClipError)


def test_remote_clips_load_as_bytes_and_missing_ones_say_so(tmp_path):
    from upath import UPath

    soundfile.write(tmp_path / "a.wav", tone(1), RATE)
    folder = UPath(f"memory://audio-{os.getpid()}")
    (folder / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    loaded = AudioFile(f"{folder}/a.wav").load()
    assert not isinstance(loaded, Path)
    np.testing.assert_array_equal(decode(loaded)[0], decode(tmp_path / "a.wav")[0])
    with pytest.raises(ClipError, match="no such file"):
        AudioFile(f"{folder}/b.wav").load()
