"""Speech is found as silero-vad finds it, and put into windows that lose and double nothing."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.errors import StoppedError
from serving.media import SAMPLE_RATE, load_audio
from serving.transcript import Segment, Word
from serving.vad import CHUNK, VoiceActivity
from serving.windows import WINDOW, Window, halves, stretches, windows


@pytest.fixture(scope="module")
def speech(sample_corpus: Path) -> np.ndarray:
    """70 s of clips, more than the network reads at a time, with 3 s of silence, noise and a chord between."""
    clips = [load_audio(path) for path in sorted((sample_corpus / "clips").glob("*.mp3"))[:20]]
    time_N = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    noise_N = np.random.default_rng(0).normal(0, 0.02, time_N.size)
    chord_N = sum(0.1 * np.sin(2 * np.pi * hz * time_N) for hz in (220.0, 277.2, 329.6))
    between = [np.zeros(time_N.size), noise_N, chord_N]
    return np.concatenate([np.concatenate([clip, between[i % 3]]) for i, clip in enumerate(clips)]).astype(np.float32)


def test_probabilities_are_those_of_silero_vad(speech, tmp_path: Path) -> None:
    """1e-4: float32 rounding carried through two thousand steps of a recurrent network; measured 1e-6."""
    np.save(tmp_path / "speech.npy", speech)
    program = (
        "import sys, numpy, silero_vad, torch\n"
        "speech = torch.from_numpy(numpy.load(sys.argv[1]))\n"
        "model = silero_vad.load_silero_vad()\n"
        "chunks = torch.nn.functional.pad(speech, (0, -len(speech) % 512)).split(512)\n"
        "with torch.no_grad():\n"
        "    numpy.save(sys.argv[2], numpy.array([model(chunk, 16000).item() for chunk in chunks]))\n"
    )  # in a process of its own: importing silero_vad sets this one to one thread, and warns
    files = [tmp_path / "speech.npy", tmp_path / "probabilities.npy"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *map(str, files)], check=True)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got_C = VoiceActivity()(speech, lambda: False)
    np.testing.assert_allclose(got_C, np.load(files[1]), rtol=0, atol=1e-4)
    assert torch.get_num_threads() == threads


def test_finding_speech_stops_when_asked(speech) -> None:
    with pytest.raises(StoppedError):
        VoiceActivity()(speech, lambda: True)


def test_stretches_are_padded_and_joined_where_they_touch() -> None:
    """Worked out by hand, in chunks of 32 ms: 15 around each stretch."""
    probability_C = np.zeros(200, np.float32)
    probability_C[20:40] = 0.9
    probability_C[30] = 0.2  # between the thresholds: neither begins nor ends
    probability_C[60:70] = 0.9
    probability_C[150:160] = 0.9
    assert stretches(probability_C) == [(5, 85), (135, 175)]
    assert stretches(np.zeros(10, np.float32)) == []


def test_windows_hold_all_speech_once_in_order_and_at_most_thirty_seconds() -> None:
    """For random probabilities: every chunk of every stretch is in exactly one window."""
    random = np.random.default_rng(3)
    for share in (0.0, 0.2, 0.6, 1.0):
        probability_C = np.repeat((random.random(150) < share).astype(np.float32), 40)
        audio_N = random.normal(0, 0.1, probability_C.size * CHUNK - 100).astype(np.float32)
        found = list(windows(audio_N, probability_C))
        pieces = [piece for window in found for piece in window.pieces]
        heard = np.zeros(audio_N.size, int)
        for start, end in pieces:
            heard[start:end] += 1
        wanted = np.zeros(audio_N.size, int)
        for start, end in stretches(probability_C):
            wanted[start * CHUNK : end * CHUNK] = 1
        np.testing.assert_array_equal(heard, wanted)
        assert pieces == sorted(pieces)
        assert all(0 < window.samples <= WINDOW for window in found)


def test_speech_without_end_is_cut_in_its_pause() -> None:
    """A pause of 0.5 s at 24 s, too short to end a stretch: the first window ends within it."""
    probability_C = np.ones(60 * SAMPLE_RATE // CHUNK, np.float32)
    audio_N = np.random.default_rng(0).normal(0, 0.1, probability_C.size * CHUNK).astype(np.float32)
    pause = slice(24 * SAMPLE_RATE // CHUNK, 24 * SAMPLE_RATE // CHUNK + 16)
    probability_C[pause] = 0.2
    audio_N[pause.start * CHUNK : pause.stop * CHUNK] *= 0.01
    first = next(windows(audio_N, probability_C))
    assert pause.start * CHUNK <= first.end <= pause.stop * CHUNK


def test_a_window_is_full_before_the_next_begins() -> None:
    """A second of speech, a minute's silence, 29.5 s of speech: these do not fit beside it, but most of them do."""
    probability_C = np.repeat(np.array([1.0, 0.0, 1.0], np.float32), (31, 1875, 922))
    first, *_ = windows(np.ones(probability_C.size * CHUNK, np.float32), probability_C)
    assert len(first.pieces) == 2
    assert first.samples > WINDOW // 2


def test_a_window_is_halved_at_its_join_or_its_deepest_dip() -> None:
    """12 s from 10 s on, with dips at 4 s and, outside the middle half, a deeper one at 10 s; then with a join."""
    probability_C = np.ones(60 * SAMPLE_RATE // CHUNK, np.float32)
    for seconds, probability in ((14.0, 0.5), (20.0, 0.1)):
        chunk = int(seconds * SAMPLE_RATE) // CHUNK
        probability_C[chunk - 10 : chunk + 10] = probability
    audio_N = np.repeat(probability_C, CHUNK)
    start, end = 10 * SAMPLE_RATE + 100, 22 * SAMPLE_RATE
    one, two = halves(Window(((start, end),)), audio_N, probability_C)
    ((begins, cut),), ((again, ends),) = one.pieces, two.pieces
    assert (begins, ends, cut) == (start, end, again)
    assert abs(cut - 14 * SAMPLE_RATE) <= 10 * CHUNK
    pieces = ((0, 1000), (start, end), (end + 5000, end + 5000 + 8 * SAMPLE_RATE))
    one, two = halves(Window(pieces), audio_N, probability_C)
    assert (one.pieces, two.pieces) == (pieces[:2], pieces[2:])


def test_times_in_a_window_are_times_of_the_recording() -> None:
    """Two pieces, 10–12 s and 20–23 s: what begins at the join begins at 20 s, what ends there ends at 12 s."""
    window = Window(((10 * SAMPLE_RATE, 12 * SAMPLE_RATE), (20 * SAMPLE_RATE, 23 * SAMPLE_RATE)))
    assert window.segment(Segment(0.0, 2.0, "a")) == Segment(10.0, 12.0, "a")
    assert window.segment(Segment(2.0, 2.5, "b")) == Segment(20.0, 20.5, "b")
    assert window.segment(Segment(1.8, 3.0, "b")) == Segment(20.0, 21.0, "b")  # across the join, but hardly
    assert window.segment(Segment(1.8, 2.0, "b")) == Segment(11.8, 12.0, "b")
    assert window.segment(Segment(1.0, 3.0, "b")) == Segment(11.0, 21.0, "b")
    assert window.segment(Segment(1.0, 2.2, "b")) == Segment(11.0, 12.0, "b")
    words = (Word(1.5, 1.9, "c"), Word(2.1, 9.0, "d"))
    got = window.segment(Segment(1.2, 9.0, "c d", words))
    assert got == Segment(11.2, 23.0, "c d", (Word(11.5, 11.9, "c"), Word(20.1, 23.0, "d")))
    assert window.after(2.5) == Window(((int(20.5 * SAMPLE_RATE), 23 * SAMPLE_RATE),))
    assert window.after(1.0) == Window(((11 * SAMPLE_RATE, 12 * SAMPLE_RATE), (20 * SAMPLE_RATE, 23 * SAMPLE_RATE)))
    assert window.after(5.0) is None
    assert window.before(1.0) == Window(((10 * SAMPLE_RATE, 11 * SAMPLE_RATE),))
    assert window.before(2.5).samples == 2.5 * SAMPLE_RATE
    assert window.before(9.0) == window
