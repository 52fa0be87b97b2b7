"""Augmented copies: what is drawn is what is heard, and depends on nothing but seed, copy and clip."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from data.augment import RECIPES, Recipe, augment, draw, find_recipe, generator
from data.effects import (
    DECIBELS,
    Gain,
    NoiseBySnr,
    PitchShift,
    Reverb,
    Speed,
    Telephone,
    TimeStretch,
    Transform,
    Uniform,
)
from data.errors import UserError
from data.shard_jobs import make_copy

ANY = Uniform(0.0, 1.0)


def tone(hertz: float = 440.0, seconds: float = 2.0, rate: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def always(recipe: Recipe) -> Recipe:
    """All of `recipe`'s transforms, each in every copy."""
    return replace(recipe, transforms=tuple(replace(transform, probability=1.0) for transform in recipe.transforms))


def checksum(recipe: str, seed: int = 0, number: int = 1, clip: str = "a.mp3") -> str:
    """Of a copy with everything the recipe has, and of what was drawn for it."""
    job = SimpleNamespace(recipe=always(RECIPES[recipe]), seed=seed)
    audio_N, augmentations = make_copy(tone(rate=48_000), 48_000, number, clip, job)
    return hashlib.sha256(audio_N.tobytes() + augmentations.encode()).hexdigest()


@pytest.mark.parametrize("recipe", ["standard", "lab"])
def test_a_copy_depends_on_seed_copy_and_clip_alone(recipe):
    """In one process with the global generators in any state, in several threads at once, and in a fresh process."""
    here = checksum(recipe)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(checksum, [recipe] * 8)) == {here}
    script = f"from tests.test_augment import checksum; print(checksum({recipe!r}))"
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == here
    others = [(1, 1, "a.mp3"), (0, 2, "a.mp3"), (0, 1, "b.mp3")]
    assert len({here, *(checksum(recipe, *other) for other in others)}) == 4


def test_recipes_draw_within_their_ranges_and_as_often_as_they_say():
    """0.05: three standard deviations of a share of 1,000 draws."""
    for recipe in RECIPES.values():
        drawn = [draw(recipe, generator(0, 1, f"{number}.mp3")) for number in range(1000)]
        for transform in recipe.transforms:
            for name, between in transform.ranges.items():
                values = [one[name] for one in drawn if name in one]
                assert between.low <= min(values) < max(values) <= between.high
                assert len(values) / len(drawn) == pytest.approx(transform.probability, abs=0.05)
                assert all(round(value, 3) == value for value in values)


@pytest.mark.parametrize("position", range(5))
def test_the_probability_of_one_transform_changes_no_other_draw(position):
    standard = RECIPES["standard"]
    never = replace(standard.transforms[position], probability=0.0)
    without = replace(
        standard, transforms=(*standard.transforms[:position], never, *standard.transforms[position + 1 :])
    )
    for number in range(50):
        want = draw(standard, generator(0, 1, f"{number}.mp3"))
        left = {name: value for name, value in want.items() if name not in never.ranges}
        assert draw(without, generator(0, 1, f"{number}.mp3")) == left


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_manifest_tells_a_recipe_whole(recipe):
    assert json.loads(json.dumps(recipe.as_json())) == recipe.as_json()
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert hash(recipe) == hash(pickle.loads(pickle.dumps(recipe)))
    assert always(recipe).as_json() != recipe.as_json() or not recipe.transforms
    for transform in recipe.transforms:
        assert f"{type(transform).__name__} ({transform.probability:g}): " in str(recipe)


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(UserError, match="no recipe 'loud'; there are: lab, none, standard; your own is module:NAME"):
        find_recipe("loud")


@dataclass(frozen=True)
class Inversion(Transform):
    """A transform as a user may add one."""

    share: Uniform

    def apply(self, audio_N, drawn, rng):  # noqa: ARG002
        return audio_N * np.float32(1.0 - 2.0 * drawn["share"])


MINE = Recipe("mine", (Inversion(1.0, Uniform(1.0, 1.0)),))


def test_a_recipe_of_ones_own_is_found_by_its_module():
    recipe = find_recipe(f"{__name__}:MINE")
    drawn = draw(recipe, generator(0, 1, "a.mp3"))
    np.testing.assert_array_equal(augment(tone(), recipe, drawn, generator(0, 1, "a.mp3")), -tone())


@dataclass(frozen=True)
class Anything(Transform):
    """A transform that makes something else of a clip."""

    share: Uniform
    make: Callable[[np.ndarray], object]

    def apply(self, audio_N, drawn, rng):  # noqa: ARG002
        return self.make(audio_N)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda audio_N: audio_N + np.zeros(1), r"float64 of shape \(\d+,\)"),
        (lambda audio_N: np.stack([audio_N, audio_N]), r"float32 of shape \(2, \d+\)"),
        (lambda audio_N: audio_N[:0], r"float32 of shape \(0,\)"),
        (lambda audio_N: audio_N.tolist(), "a list"),
        (lambda audio_N: np.append(audio_N, np.float32(np.nan)), "samples that are infinite or no numbers"),
        (lambda audio_N: np.append(audio_N, np.float32([np.inf, -np.inf])), "samples that are infinite or no numbers"),
    ],
)
def test_what_an_effect_of_ones_own_made_of_a_clip_is_said_if_it_is_no_audio(make, problem):
    job = SimpleNamespace(recipe=Recipe("mine", (Anything(1.0, Uniform(1.0, 1.0), make),)), seed=0)
    drawn = r" \(drawn: {'share': 1.0}\); its apply gives float32"
    with pytest.raises(UserError, match=f"a.mp3, copy 1: recipe mine: Anything made {problem}{drawn}"):
        make_copy(tone(), 16_000, 1, "a.mp3", job)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:MINE", "No module named 'no_such_module'"),
        (":MINE", "no recipe ':MINE'"),
        ("..a:MINE", "no recipe '..a:MINE'; .* your own is module:NAME"),
        (f"{__name__}:YOURS", "has no attribute 'YOURS'"),
        (f"{__name__}:ANY", "is a Uniform; a recipe is a data.augment.Recipe"),
    ],
)
def test_a_recipe_that_cannot_be_had_is_named_with_the_reason(name, message):
    with pytest.raises(UserError, match=message):
        find_recipe(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe("twice", (Gain(0.5, ANY), Gain(0.5, ANY))), "has Gain, gain_db twice"),
        (lambda: Recipe("empty", (Transform(0.5),)), "Transform has no Uniform field"),
        (lambda: Gain(1.5, ANY), "Gain: probability is 1.5; it takes 0 to 1"),
        (lambda: TimeStretch(0.5, ANY), "stretch_rate is .*; it takes a Uniform within 0.5 to 10"),
        (lambda: TimeStretch(0.5, Uniform(0.5, 11.0)), "stretch_rate is .*; it takes a Uniform within 0.5 to 10"),
        (lambda: PitchShift(0.5, Uniform(0.0, 25.0)), "semitones is .*; it takes a Uniform within -24 to 24"),
        (lambda: Speed(0.5, Uniform(0.0, 1.1)), "Speed: speed is .*; it takes a Uniform within 0.1 to 10"),
        (lambda: Reverb(0.5, Uniform(0.0, 0.5), Uniform(0.0, 15.0)), "rt60_seconds is .* within 0.001 to 30"),
        (lambda: Reverb(0.5, 0.3, Uniform(0.0, 15.0)), "rt60_seconds is 0.3; it takes a Uniform"),
        (lambda: Gain(0.5, Uniform(0.0, 2000.0)), "gain_db is .*; it takes a Uniform within -100 to 100"),
        (lambda: Recipe("one", Gain(0.5, Uniform(0.0, 1.0))), r"takes a tuple of transforms; .* write \(Gain\(…\),\)"),
        (lambda: Recipe("class", (Gain,)), "recipe class: transforms takes a tuple of transforms, it is "),
        (lambda: Recipe("none", (Gain(0.5, Uniform(0.0, 1.0)),)), "called none makes no copies"),
        (lambda: Uniform(1.0, 0.0), "low may not be above high"),
        (lambda: Uniform(0.0, float("nan")), "nor either infinite"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_not_made(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_most_decibels_of_every_effect_together_are_finite_in_float32():
    """A window's power is at most (its 400 samples' sum)², which is 160,000 times the square of the loudest."""
    most, least = (Uniform(edge, edge) for edge in reversed(DECIBELS))
    effects = (Reverb(1.0, Uniform(0.1, 0.1), least), NoiseBySnr(1.0, least), Telephone(1.0, least), Gain(1.0, most))
    recipe = Recipe("loud", effects)
    loud_N = augment(tone(), recipe, draw(recipe, generator(0, 1, "a.mp3")), generator(0, 1, "a.mp3"))
    assert np.isfinite(np.abs(loud_N).max() ** 2 * np.float32(160_000))


@pytest.mark.parametrize("transform", [Speed(1.0, Uniform(0.5, 0.5)), TimeStretch(1.0, Uniform(0.5, 0.5))])
def test_a_clip_of_25_s_is_slowed_to_the_window_and_no_further(transform):
    """25 / 30 s = 0.8333, to the next thousandth: nothing is cut off."""
    job = SimpleNamespace(recipe=Recipe("slow", (transform,)), seed=0)
    audio_N, augmentations = make_copy(tone(seconds=25.0), 16_000, 1, "a.mp3", job)
    assert set(json.loads(augmentations).values()) == {0.834}
    assert len(audio_N) == pytest.approx(25 * 16_000 / 0.834, abs=1)


def test_two_changes_of_tempo_together_are_slowed_to_the_window_and_no_further():
    recipe = Recipe("slow", (Speed(1.0, Uniform(0.9, 0.9)), TimeStretch(1.0, Uniform(0.5, 0.5))))
    assert draw(recipe, generator(0, 1, "a.mp3"), slowest=0.6) == {"speed": 0.9, "stretch_rate": 0.667}
    assert draw(recipe, generator(0, 1, "a.mp3"), slowest=0.9) == {"speed": 0.9, "stretch_rate": 1.0}
    assert draw(recipe, generator(0, 1, "a.mp3"), slowest=1.0) == {"speed": 1.0, "stretch_rate": 1.0}


def test_a_worker_with_the_lab_recipe_stays_small():
    """400 MB: librosa's phase vocoder, which the recipe does without, would take 490."""
    script = "from tests.test_augment import checksum; checksum('lab'); print(open('/proc/self/status').read())"
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", fresh.stdout)
    assert int(kibibytes) * 1024 < 400e6
