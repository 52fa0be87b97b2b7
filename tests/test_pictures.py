"""What the preview's page is made of: colours, histograms, waveforms, which clips are taken, drawn values in words."""

import json

import numpy as np
import pytest

from data.pictures import colours, envelope, histogram, nice_step
from data.preview import say_drawn
from data.survey import spread


def test_colours_grow_lighter_by_the_same_step():
    """Lightness as the eye sees it (CIE L*): each step 0.15 to 0.55 of 100, so none is a jump and none stands still."""
    linear = colours() / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    smoothed = np.convolve(np.diff(lightness), np.ones(8) / 8, "valid")  # 8 bits a colour make single steps uneven
    assert smoothed.min() > 0.15
    assert smoothed.max() < 0.55
    assert lightness[0] < 10
    assert lightness[-1] > 90


def test_a_histogram_counts_every_value_once():
    values = np.array([0.05, 0.1, 0.15, 0.3, 0.3, 1.0])
    plot = histogram("Length", "s", values, 0.1)
    assert [bar.says for bar in plot.bars] == ["0 to 0.1 s: 1", "0.1 to 0.2 s: 2", "0.3 to 0.4 s: 2", "1 to 1.1 s: 1"]
    assert (plot.mean.label, plot.median.label) == ("0.3 s", "0.2 s")
    assert all(bar.x >= 44 and bar.x + bar.width <= 472 for bar in plot.bars)
    assert histogram("Text", "tokens", np.array([7.0]), 1.0).bars[0].says == "7 to 8 tokens: 1"


@pytest.mark.parametrize(
    ("least", "step"), [(0.1, 0.1), (0.11, 0.2), (3, 5), (5, 5), (6, 10), (1e-3, 1e-3), (1234, 2000)]
)
def test_steps_are_round_numbers(least, step):
    assert nice_step(least) == pytest.approx(step)


@pytest.mark.parametrize("samples", [1, 10, 480, 5000])
def test_a_waveform_reaches_its_extremes(samples):
    audio_N = np.zeros(samples, np.float32)
    audio_N[samples // 2] = 0.5
    heights = [float(pair.split(",")[1]) for pair in envelope(audio_N, 0.5).strip("MZ").split()]
    assert min(heights) == pytest.approx(0.7)
    assert max(heights) <= 50.3


def test_clips_are_taken_at_even_distances():
    assert spread(list(range(10)), 2) == [2, 7]
    assert spread(list(range(3)), 8) == [0, 1, 2]


def test_drawn_values_are_said_with_their_units():
    assert say_drawn(json.dumps({"speed": 1.05, "gain_db": -3.25, "snr_db": 20.0, "rt60_seconds": 0.3})) == [
        "speed 1.05",
        "gain −3.25 dB",
        "SNR 20 dB",
        "RT60 0.3 s",
    ]
    assert say_drawn("") == say_drawn("{}") == []
