"""The signal-to-noise estimate against mixtures made with a known ratio, and against silence and steady sound."""

import csv

import numpy as np
import pytest

from data.audio import decode, resample
from data.log_mel import SAMPLE_RATE, log_mel, quantize
from data.snr import LEAST_DB, MOST_DB, snr_db

QUIET_DB = 30.0  # clips with less noise than this count as clean; their own noise is still heard in mixtures near it


def estimate(audio_N, n_mels=80):
    return snr_db(quantize(log_mel(audio_N.astype(np.float32), n_mels))[0])


@pytest.fixture(scope="module")
def clean(sample_corpus):
    """Some of the sample corpus's speech that has little noise of its own."""
    with (sample_corpus / "train.tsv").open(encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file, delimiter="\t")][::15]
    audios = [resample(*decode(sample_corpus / "clips" / path)) for path in paths]
    found = [audio_N for audio_N in audios if estimate(audio_N) > QUIET_DB]
    assert len(found) >= 8
    return found


def white(n_samples, rng):
    return rng.standard_normal(n_samples)


def pink(n_samples, rng):
    """Noise whose power falls by 3 dB an octave, from 50 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    hertz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    spectrum[hertz < 50] = 0
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 1)), n_samples)


@pytest.mark.parametrize("noise", [white, pink])
@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("want_db", [0.0, 10.0, 20.0, 30.0])
def test_made_mixtures_are_told_within_a_few_decibels(clean, noise, n_mels, want_db):
    """2 dB in the median, 5 dB (three times the power) in single clips, some of half a second."""
    rng = np.random.default_rng(0)
    errors = []
    for speech_N in clean:
        noise_N = noise(len(speech_N), rng)
        noise_N *= np.sqrt((speech_N**2).mean() / (noise_N**2).mean()) * 10 ** (-want_db / 20)
        errors.append(estimate(speech_N + noise_N, n_mels) - want_db)
    assert abs(np.median(errors)) < 2.0
    assert np.abs(errors).max() < 5.0


def test_the_estimate_does_not_depend_on_loudness(clean):
    """Half a decibel: the 8 bits are counted from another maximum."""
    assert estimate(clean[0] / 8) == pytest.approx(estimate(clean[0]), abs=0.5)


def test_digital_silence_around_speech_is_as_clean_as_can_be_told(clean):
    silence_N = np.zeros(SAMPLE_RATE, np.float32)
    assert estimate(np.concatenate([silence_N, clean[0], silence_N])) == MOST_DB


def test_a_steady_tone_or_a_single_frame_is_all_noise():
    tone_N = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    assert estimate(tone_N) < 0
    assert snr_db(np.zeros((1, 80), np.uint8)) == LEAST_DB
