"""Recordings of all kinds become float32 mono at 16 kHz, or an error that says what is wrong with them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from av.stream import Disposition

from serving.errors import AudioError
from serving.media import (
    SAMPLE_RATE,
    NoSoundError,
    NotFoundError,
    NotMediaError,
    TooLongError,
    load_audio,
)
from serving.words import ENGLISH, ITALIAN, explain, in_language_of

TONE_HZ = 440.0


def tone(rate: int, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def encode(path: Path, codec: str, rate: int, audio_N: np.ndarray, video: bool = False) -> Path:
    """`audio_N` as an encoded file, written by PyAV's encoder."""
    with av.open(path, "w") as container:
        picture = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p") if video else None
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if picture is not None:
            for _ in range(10):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(picture.encode(image))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(audio_N[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for part in av.AudioResampler(stream.format, stream.layout, rate, frame_size=stream.frame_size).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


def test_a_clip_is_what_libsndfile_and_soxr_make_of_it(sample_corpus: Path) -> None:
    """3 % of full scale: the two resamplers roll off differently above 7 kHz, and agree closely below."""
    for clip in sorted((sample_corpus / "clips").glob("*.mp3"))[:3]:
        raw_N, rate = soundfile.read(clip, dtype="float32")
        want_N = soxr.resample(raw_N, rate, SAMPLE_RATE)
        got_N = load_audio(clip)
        assert got_N.dtype == np.float32
        assert abs(got_N.size - want_N.size) <= 1
        n = min(got_N.size, want_N.size)
        np.testing.assert_allclose(got_N[:n], want_N[:n], rtol=0, atol=0.03)
        assert np.corrcoef(got_N[:n], want_N[:n])[0, 1] > 0.999


@pytest.mark.parametrize("tail", [b"LYRICSBEGIN una canzone " * 60, np.random.default_rng(0).bytes(3000)])
def test_rubbish_after_a_clip_and_a_scratch_within_cost_no_more_than_that(
    tmp_path: Path, sample_corpus: Path, tail: bytes
) -> None:
    """0.1 s: a frame or two of mp3 are 24 to 72 ms."""
    clip = sorted((sample_corpus / "clips").glob("*.mp3"))[0]
    whole_N, data = load_audio(clip), clip.read_bytes()
    middle = len(data) // 2
    scratched = data[:middle] + b"\xff" * 50 + data[middle + 50 :] + tail
    (tmp_path / "x.mp3").write_bytes(scratched)
    got_N = load_audio(tmp_path / "x.mp3")
    assert abs(got_N.size - whole_N.size) / SAMPLE_RATE < 0.1
    third = whole_N.size // 3
    np.testing.assert_array_equal(got_N[:third], whole_N[:third])


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_tone_keeps_pitch_length_and_level_at_any_rate_and_channel_count(
    tmp_path: Path, rate: int, channels: int
) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone(rate, 1.0)] * channels, axis=1), rate)
    audio_N = load_audio(path)
    assert audio_N.shape == (SAMPLE_RATE,)
    assert np.abs(np.fft.rfft(audio_N)).argmax() == TONE_HZ  # one second: bins are 1 Hz apart
    middle_N = audio_N[2000:-2000]  # the ends see the resampler's edge
    assert np.abs(middle_N).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("levels", "peak"),
    [
        ((1.0, -1.0), 0.5),  # crossed poles
        ((1.0, -0.9), 0.5),
        ((-0.9, 1.0), 0.45),
        ((1.0, 0.0), 0.25),  # one channel alone is no cancellation
        ((1.0, 0.5), 0.375),
        ((0.0, 0.0, 1.0, 0.0, 0.0, 0.0), 0.5 / 6),  # a film's voices
        ((1.0, -1.0, 0.0, 0.0, 0.0, 0.0), 0.5),
        ((0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.5 / 8),  # 7.1
        ((1.0,) * 16, 0.5),  # a field recorder
    ],
)
def test_channels_that_cancel_each_other_out_are_heard_as_one(tmp_path: Path, levels, peak: float) -> None:
    tone_N = tone(SAMPLE_RATE, 1.0)
    soundfile.write(tmp_path / "x.wav", np.stack([level * tone_N for level in levels], axis=1), SAMPLE_RATE, "FLOAT")
    assert np.abs(load_audio(tmp_path / "x.wav")).max() == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(("scale", "peak"), [(32767.0, 1.0), (1e30, 1.0), (2.0**31, 1.0), (3.0, 1.5)])
def test_floats_at_the_scale_of_integers_are_brought_to_full_scale(tmp_path: Path, scale: float, peak: float) -> None:
    """And a mix that passes it by a little is not. The quiet half a minute is in other blocks than the peak."""
    sound_N = np.concatenate([0.1 * tone(SAMPLE_RATE, 30.0), tone(SAMPLE_RATE, 1.0)])
    got_N = load_audio(wav(tmp_path, (scale * sound_N).astype(np.float32)))
    np.testing.assert_allclose(got_N, sound_N * peak / 0.5, rtol=0, atol=1e-6)


def test_a_damaged_sample_that_would_make_all_others_silent_is_refused(tmp_path: Path) -> None:
    sound_N = tone(SAMPLE_RATE, 2.0)
    sound_N[9000] = 1e20
    with pytest.raises(NotMediaError, match=r"samples of 1e\+20 times full scale amid quiet; convert it"):
        load_audio(wav(tmp_path, sound_N))


@pytest.mark.parametrize(
    ("name", "codec", "video"),
    [
        ("a.wav", "pcm_s24le", False),
        ("a.aiff", "pcm_s16be", False),
        ("a.mp3", "libmp3lame", False),
        ("a.flac", "flac", False),
        ("a.ogg", "libopus", False),
        ("a.m4a", "aac", False),
        ("a.aac", "aac", False),
        ("a.webm", "libopus", False),
        ("a.3gp", "aac", True),
        ("a.mp4", "aac", True),
        ("a.mov", "alac", True),
        ("a.mkv", "libopus", True),
        ("a.avi", "libmp3lame", True),
        ("a.ts", "mp2", True),
    ],
)
def test_recordings_and_videos_of_all_containers_are_read(tmp_path: Path, name: str, codec: str, video: bool) -> None:
    """0.1 s: an encoder may add a frame of padding at either end."""
    path = encode(tmp_path / name, codec, 48_000, tone(48_000, 2.0), video)
    audio_N = load_audio(path.rename(tmp_path / "upload"))  # by what it holds, not by its name
    assert audio_N.size / SAMPLE_RATE == pytest.approx(2.0, abs=0.1)
    second_N = audio_N[8_000 : 8_000 + SAMPLE_RATE]
    assert np.abs(np.fft.rfft(second_N)).argmax() == TONE_HZ


def test_an_album_with_a_cover_is_read(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp3", "w") as container:
        stream = container.add_stream("libmp3lame", rate=48_000, layout="mono")
        cover = container.add_stream("png", width=8, height=8, pix_fmt="rgb24")
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(tone(48_000, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for part in av.AudioResampler(stream.format, stream.layout, 48_000, frame_size=stream.frame_size).resample(
            frame
        ):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    with av.open(tmp_path / "a.mp3") as container:
        assert len(container.streams.video) == 1
    assert load_audio(tmp_path / "a.mp3").size / SAMPLE_RATE == pytest.approx(1.0, abs=0.1)  # padding, as above


def silent_video(folder: Path) -> Path:
    path = folder / "silent.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def wav(folder: Path, audio_N: np.ndarray, subtype: str = "FLOAT") -> Path:
    soundfile.write(folder / "x.wav", audio_N, SAMPLE_RATE, subtype=subtype)
    return folder / "x.wav"


def junk(folder: Path) -> Path:
    (folder / "x.mp3").write_bytes(np.random.default_rng(0).bytes(50_000))
    return folder / "x.mp3"


def empty(folder: Path) -> Path:
    (folder / "x.mp3").write_bytes(b"")
    return folder / "x.mp3"


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda folder: folder / "none.mp3", NotFoundError, "no such file"),
        (lambda folder: folder / ("x" * 300), NotFoundError, r"cannot be opened \(File name too long\)"),
        (empty, NoSoundError, "0 bytes"),
        (junk, NotMediaError, "does not decode from the start"),
        (silent_video, NoSoundError, "has no audio track"),
        (lambda folder: wav(folder, np.zeros(0, np.float32)), NoSoundError, "empty"),
        (lambda folder: wav(folder, np.zeros(159, np.float32)), NoSoundError, r"empty \(159 samples\)"),
        (lambda folder: wav(folder, np.full(4000, np.nan, np.float32)), NotMediaError, "not numbers"),
        (lambda folder: wav(folder, np.zeros(SAMPLE_RATE * 4, np.float32), "PCM_16"), TooLongError, "0.05 minutes"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path, make, kind: type[AudioError], says: str) -> None:
    path = make(tmp_path)
    with pytest.raises(kind, match=says) as caught:
        load_audio(path, max_seconds=3.0)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    good, bad = wav(tmp_path, tone(SAMPLE_RATE, 2.0)), junk(tmp_path)

    def heard(path: Path) -> float:
        try:
            return float(np.abs(load_audio(path)).max())
        except NotMediaError:
            return 0.0

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(heard, [good, bad, good, bad]))
    assert found == [0.5, 0.0, 0.5, 0.0]


def test_the_page_speaks_the_visitors_language() -> None:
    assert ENGLISH.keys() == ITALIAN.keys()
    assert in_language_of("it-IT,it;q=0.9,en;q=0.8") is ITALIAN
    assert in_language_of("fr-FR,it;q=0.9") is ITALIAN
    assert in_language_of("fr") is ENGLISH
    assert in_language_of("") is ENGLISH
    assert "120" in explain(TooLongError("/secret/path.wav: long"), ITALIAN)
    assert "secret" not in explain(TooLongError("/secret/path.wav: long"), ENGLISH)
