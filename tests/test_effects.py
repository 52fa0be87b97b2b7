"""Each effect on its own, measured: what is heard is what was drawn."""

import av
import numpy as np
import pytest
import scipy.signal

from data.audio import resample
from data.augment import RECIPES, generator
from data.effects import (
    Gain,
    Noise,
    NoiseBySnr,
    PitchShift,
    Reverb,
    Telephone,
    TimeStretch,
    Transform,
    Uniform,
    convolve,
    mu_law,
    room_response,
)
from tests.test_augment import ANY, tone

RATES = Uniform(0.5, 1.5)
TRANSFORMS = [transform for recipe in RECIPES.values() for transform in recipe.transforms]


def peak_hertz(audio_N: np.ndarray) -> float:
    """The frequency of the strongest tone: zero padding makes the bins of the transform 0.06 Hz wide."""
    spectrum = np.abs(np.fft.rfft(audio_N * np.hanning(len(audio_N)), 1 << 18))
    return float(spectrum.argmax()) * 16_000 / (1 << 18)


def level_db(audio_N: np.ndarray, hertz: float) -> float:
    """The level of one frequency, in dB of a sine of amplitude 1."""
    window_N = np.hanning(len(audio_N))
    turning_N = np.exp(-2j * np.pi * hertz * np.arange(len(audio_N)) / 16_000)
    return 20 * np.log10(2 * np.abs(np.sum(audio_N * window_N * turning_N)) / window_N.sum())


def middle(transform: Transform) -> dict[str, float]:
    return {name: (between.low + between.high) / 2 for name, between in transform.ranges.items()}


def applied(transform: Transform, audio_N: np.ndarray, **drawn: float) -> np.ndarray:
    return transform.apply(audio_N, drawn or middle(transform), generator(0, 1, "a.mp3"))


@pytest.mark.parametrize("speed", [0.9, 1.037, 1.1])
def test_speed_moves_tempo_and_pitch(speed):
    """0.1 Hz: two bins of the spectrum."""
    audio_N = resample(tone(rate=48_000), 48_000, speed)
    assert len(audio_N) == pytest.approx(2 * 16_000 / speed, abs=1)
    assert peak_hertz(audio_N) == pytest.approx(440 * speed, abs=0.1)


@pytest.mark.parametrize("stretch_rate", [0.5, 0.75, 1.0, 1.25, 1.5])
def test_stretching_moves_tempo_and_keeps_pitch(stretch_rate):
    """1 Hz: an octave is 1200 cents, this is four."""
    stretched_N = applied(TimeStretch(1.0, RATES), tone(), stretch_rate=stretch_rate)
    assert stretched_N.dtype == np.float32
    assert len(stretched_N) == pytest.approx(2 * 16_000 / stretch_rate, abs=1)
    assert peak_hertz(stretched_N) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("semitones", [0.0, 0.05, 0.1, 2.0, 12.0])
def test_pitch_shift_moves_a_tone_by_the_drawn_semitones(semitones):
    """0.03 semitones: Signalsmith's own error (0.015 at a tenth, 0.022 at two)."""
    shifted_N = applied(PitchShift(1.0, ANY), tone(), semitones=semitones)
    assert (shifted_N.dtype, len(shifted_N)) == (np.float32, len(tone()))
    assert 12 * np.log2(peak_hertz(shifted_N) / 440) == pytest.approx(semitones, abs=0.03)


@pytest.mark.parametrize("n_samples", [1_600, 15_999, 16_001, 100_003])
def test_the_slowest_stretch_is_the_same_each_time(n_samples):
    """Below 0.5 Signalsmith's method draws random phases; 0.5 itself, at any length, must not."""
    noise_N = 0.1 * generator(0, 1, "a.mp3").standard_normal(n_samples, dtype=np.float32)
    stretched = [applied(TimeStretch(1.0, RATES), noise_N, stretch_rate=0.5) for _ in range(3)]
    np.testing.assert_array_equal(stretched[1], stretched[0])
    np.testing.assert_array_equal(stretched[2], stretched[0])


@pytest.mark.parametrize("stretch_rate", [0.5, 0.8, 1.5])
def test_stretching_keeps_every_moment_in_its_place(stretch_rate):
    """1 ms: clicks at 0.5 s and 1.5 s."""
    clicks_N = np.zeros(32_000, np.float32)
    clicks_N[[8_000, 24_000]] = 1.0
    first_N, second_N = np.array_split(applied(TimeStretch(1.0, RATES), clicks_N, stretch_rate=stretch_rate), 2)
    assert np.abs(first_N).argmax() * stretch_rate == pytest.approx(8_000, abs=16)
    assert (len(first_N) + np.abs(second_N).argmax()) * stretch_rate == pytest.approx(24_000, abs=16)


@pytest.mark.parametrize("gain_db", [-6.0206, 0.0, 6.0206])
def test_gain_is_in_decibels_of_amplitude(gain_db):
    """1e-6: six decimal places of 20·log10(2) = 6.0206, and float32."""
    factor = {-6.0206: 0.5, 0.0: 1.0, 6.0206: 2.0}[gain_db]
    np.testing.assert_allclose(applied(Gain(1.0, ANY), tone(), gain_db=gain_db), factor * tone(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("snr_db", [10.0, 20.0, 30.0])
def test_noise_lies_the_drawn_number_of_decibels_below_the_clip(snr_db):
    """0.1 dB: the power of 32,000 Gaussian samples deviates by 0.8 %, 0.03 dB."""
    noise_N = applied(NoiseBySnr(1.0, ANY), tone(), snr_db=snr_db) - tone()
    assert 10 * np.log10(np.mean(tone() ** 2) / np.mean(noise_N**2)) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_noise_of_an_amplitude_has_it_whatever_the_clips_level(level):
    """2 %: the deviation of 32,000 Gaussian samples deviates by 0.4 %."""
    noise_N = applied(Noise(1.0, ANY), level * tone(), noise_amplitude=0.05) - level * tone()
    assert np.std(noise_N) == pytest.approx(0.05, rel=0.02)
    assert np.mean(noise_N) == pytest.approx(0.0, abs=0.002)


@pytest.mark.parametrize("rt60_seconds", [0.1, 0.3, 0.5])
def test_a_room_decays_by_60_db_in_its_reverberation_time(rt60_seconds):
    """By Schroeder's backward integration from −5 to −25 dB (ISO 3382's T20); 10 %: a noise tail is a sample of one."""
    impulse_N = np.zeros(16_000, np.float32)
    impulse_N[1_000] = 1.0
    heard_N = applied(Reverb(1.0, Uniform(0.1, 1.0), ANY), impulse_N, rt60_seconds=rt60_seconds, direct_db=0.0)
    assert np.abs(heard_N).argmax() == 1_000
    assert np.abs(heard_N[:1_000]).max() < 1e-6
    tail_N = heard_N[1_001:].astype(float)
    decay_db = 10 * np.log10(np.cumsum(tail_N[::-1] ** 2)[::-1] / np.sum(tail_N**2) + 1e-30)
    between = np.flatnonzero((decay_db < -5) & (decay_db > -25))
    db_per_sample = np.polyfit(between, decay_db[between], 1)[0]
    assert -60 / db_per_sample / 16_000 == pytest.approx(rt60_seconds, rel=0.1)


@pytest.mark.parametrize("direct_db", [0.0, 7.5, 15.0])
def test_the_direct_sound_is_unchanged_and_the_tails_energy_is_below_it_as_drawn(direct_db):
    """1e-3 dB: float32."""
    response_K = room_response(0.3, direct_db, generator(0, 1, "a.mp3"))
    assert response_K[0] == 1.0
    assert not response_K[1:40].any()  # 2.5 ms
    assert response_K.dtype == np.float32
    assert -10 * np.log10(np.sum(response_K[1:].astype(float) ** 2)) == pytest.approx(direct_db, abs=1e-3)


@pytest.mark.parametrize("n_samples", [1, 1_600, 16_001, 90_000])
@pytest.mark.parametrize(("n_taps", "delay"), [(1, 0), (321, 160), (1_641, 0), (8_040, 8_039)])
def test_convolution_equals_scipys(n_samples, n_taps, delay):
    """1e-5 of the loudest sample: float32, sums of up to 8,000 terms."""
    rng = np.random.default_rng(0)
    audio_N = rng.standard_normal(n_samples, dtype=np.float32)
    response_K = rng.standard_normal(n_taps, dtype=np.float32)
    want_N = scipy.signal.fftconvolve(audio_N.astype(float), response_K.astype(float))
    want_N = np.append(want_N, np.zeros(1))[delay : delay + n_samples]
    got_N = convolve(audio_N, response_K, delay)
    assert got_N.dtype == np.float32
    np.testing.assert_allclose(got_N[: len(want_N)], want_N, rtol=0, atol=1e-5 * np.abs(want_N).max())


def test_mu_law_equals_g711s_table():
    """Every 14-bit number; from the recommendation's eight segments of 16 steps, each twice as wide as the one before.

    A number at a decision value belongs to the interval above it, and comes out as the middle; the first is half as
    wide and comes out as 0.
    """
    widths = np.repeat(2 ** np.arange(1, 9), 16)
    decisions = np.append(0, np.cumsum(widths) - 1)
    assert (decisions[-1], decisions[16], decisions[112]) == (8159, 31, 4063)
    middles = (decisions[:-1] + decisions[1:]) / 2 * (np.arange(128) > 0)
    numbers = np.arange(8159)
    want = middles[np.searchsorted(decisions, numbers, side="right") - 1]
    for sign in (1, -1):
        got_H = mu_law((sign * numbers).astype(np.float32) / 8192)
        assert got_H.dtype == np.float32
        np.testing.assert_array_equal(got_H * 8192, sign * want)
    np.testing.assert_array_equal(mu_law(np.array([1.0, -3.0], np.float32)) * 8192, [8031, -8031])


def test_mu_law_gives_the_values_ffmpeg_decodes():
    """FFmpeg's decoder of all 256 codes; two are zero. (Its coder rounds otherwise than G.711 between segments.)"""
    decoder = av.CodecContext.create("pcm_mulaw", "r")
    decoder.sample_rate, decoder.layout = 8_000, "mono"
    (frame,) = decoder.decode(av.Packet(bytes(range(256))))
    ours = np.unique(mu_law(np.linspace(-1, 1, 1 << 16, dtype=np.float32)) * 32_768)
    np.testing.assert_array_equal(ours, np.unique(frame.to_ndarray()))


@pytest.mark.parametrize(
    ("hertz", "least_db", "most_db"),
    [(60, -200, -45), (150, -200, -30), (500, -0.3, 0.3), (1000, -0.3, 0.3), (3000, -0.3, 0.3), (3800, -200, -45)],
)
def test_a_telephone_passes_its_band_alone(hertz, least_db, most_db):
    """A tone with a louder one of 800 Hz that sets the line's level; 0.3 dB of rounding to eight bits."""
    both_N = 0.5 * tone(hertz) + tone(800)
    change_db = level_db(applied(Telephone(1.0, ANY), both_N, line_peak_db=-3.0), hertz) - level_db(both_N, hertz)
    assert least_db < change_db < most_db


@pytest.mark.parametrize("hertz", [4_100, 5_000, 7_500])
def test_what_a_telephone_cannot_carry_does_not_come_out_elsewhere(hertz):
    """40 dB below what went in, at any frequency."""
    both_N = tone(hertz) + 0.03 * tone(800)
    image = 8_000 - hertz
    assert level_db(applied(Telephone(1.0, ANY), both_N, line_peak_db=-3.0), image) < level_db(both_N, hertz) - 40


@pytest.mark.parametrize(("line_peak_db", "least_db", "most_db"), [(-6.0, 33, 41), (-60.0, 18, 22)])
def test_a_telephones_noise_is_that_of_eight_bits(line_peak_db, least_db, most_db):
    """33 to 41 dB: G.711's for a sine. One that peaks at 8.2 of its 8192 meets steps of 2: (8.2² / 2) / (2² / 12)."""
    clean_N, heard_N = tone(1004.7), applied(Telephone(1.0, ANY), tone(1004.7), line_peak_db=line_peak_db)
    inside = slice(1_000, -1_000)  # without the filter's swing at the ends
    snr_db = 10 * np.log10(np.mean(clean_N[inside] ** 2) / np.mean((heard_N - clean_N)[inside] ** 2))
    assert least_db < snr_db < most_db


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_silence_stays_silent_and_a_constant_finite(transform):
    silence_N, constant_N = np.zeros(16_001, np.float32), np.full(1_600, 0.5, np.float32)
    if not isinstance(transform, Noise):  # which is as loud in a pause
        np.testing.assert_array_equal(applied(transform, silence_N), 0.0)
    changed_N = applied(transform, constant_N)
    assert changed_N.dtype == np.float32
    assert np.isfinite(changed_N).all()
    assert len(changed_N) == 1_600 or transform.tempo is not None


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_nothing_is_clipped(transform):
    """A clip 64 times as loud (peak 19) comes out 64 times as loud; 1e-3: rounding in Signalsmith's last 20 ms."""
    usual_N, loud_N = applied(transform, tone()), applied(transform, 64 * tone())
    if isinstance(transform, Noise):  # as loud beside either
        usual_N, loud_N = usual_N - tone(), 64 * (loud_N - 64 * tone())
    assert np.abs(loud_N).max() == pytest.approx(64 * np.abs(usual_N).max(), rel=1e-3)
    assert np.linalg.norm(loud_N) == pytest.approx(64 * np.linalg.norm(usual_N), rel=1e-3)
