"""Augmented copies: what is drawn is what is heard, and depends on nothing but seed, copy and clip."""

import json

import numpy as np
import pytest

from data.augment import RECIPES, Draw, Recipe, augment, draw, find_recipe, generator


def tone(seconds: float = 2.0) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * 0.1)).astype(np.float32)


def test_a_copy_depends_on_seed_copy_and_clip_alone():
    def copy(seed, number, clip):
        rng = generator(seed, number, clip)
        return draw(RECIPES["standard"], rng), augment(tone(), Draw(snr_db=20.0), rng).tobytes()

    assert copy(0, 1, "a.mp3") == copy(0, 1, "a.mp3")
    assert len({copy(*of) for of in [(0, 1, "a.mp3"), (1, 1, "a.mp3"), (0, 2, "a.mp3"), (0, 1, "b.mp3")]}) == 4


@pytest.mark.parametrize("snr_db", [10.0, 20.0, 30.0])
def test_noise_lies_the_drawn_number_of_decibels_below_the_clip(snr_db):
    """0.1 dB: the power of 32,000 Gaussian samples deviates by 0.8 %, 0.03 dB."""
    clean_N = tone()
    noise_N = augment(clean_N, Draw(snr_db=snr_db), generator(0, 1, "a.mp3")) - clean_N
    assert 10 * np.log10(np.mean(clean_N**2) / np.mean(noise_N**2)) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize(("gain_db", "factor"), [(6.0206, 2.0), (-6.0206, 0.5), (0.0, 1.0)])
def test_gain_is_in_decibels_of_amplitude(gain_db, factor):
    """1e-6: six decimal places of 20·log10(2) = 6.0206, and float32."""
    changed_N = augment(tone(), Draw(gain_db=gain_db), generator(0, 1, "a.mp3"))
    assert changed_N.dtype == np.float32
    np.testing.assert_allclose(changed_N, factor * tone(), rtol=0, atol=1e-6)


def test_silence_stays_silent():
    silence_N = np.zeros(16_000, np.float32)
    np.testing.assert_array_equal(augment(silence_N, Draw(gain_db=3.0, snr_db=10.0), generator(0, 1, "a")), silence_N)


def test_the_standard_recipe_draws_within_its_ranges_and_as_often_as_it_says():
    """0.05: three standard deviations of a share of 1,000 draws."""
    recipe = RECIPES["standard"]
    drawn = [draw(recipe, generator(0, 1, f"{number}.mp3")) for number in range(1000)]
    for values, (low, high), probability in (
        ([d.speed for d in drawn], recipe.speed, recipe.speed_probability),
        ([d.gain_db for d in drawn], recipe.gain_db, recipe.gain_probability),
        ([d.snr_db for d in drawn], recipe.snr_db, recipe.noise_probability),
    ):
        there = [value for value in values if value is not None]
        assert low <= min(there) < max(there) <= high
        assert len(there) / len(values) == pytest.approx(probability, abs=0.05)


def test_a_clip_of_nearly_30_s_is_never_slowed_past_30_s():
    slow = Recipe("slow", speed_probability=1.0, speed=(0.9, 0.9))
    assert draw(slow, generator(0, 1, "a.mp3"), slowest=29.5 / 30).speed == 29.5 / 30


def test_what_was_drawn_is_told_as_json():
    assert json.loads(Draw(speed=1.05, gain_db=1.0).as_json()) == {"speed": 1.05, "gain_db": 1.0}
    assert Draw().as_json() == "{}"


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(Exception, match="no recipe 'loud'; there are: none, standard"):
        find_recipe("loud")
