"""Augmentation recipes: which effects a copy of a clip may get, what is drawn for it, and its making.

Pure given a generator, and the generator comes from (seed, copy, clip id) alone, so the number and order of workers
never changes a copy. What was drawn is kept in the index, so every copy can be explained. The change of speed is not
applied here: it is a factor for the resampling every clip goes through anyway (`data.audio.resample`).

A recipe of one's own needs no change here: a module with a `Recipe` (and its effects' classes, if `data.effects` has
too few) is named as `--recipe my_recipes:loud`.

Shapes: N samples.
"""

import importlib
import math
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from data.effects import (
    Drawn,
    Gain,
    Noise,
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

NO_COPIES = "none"


@dataclass(frozen=True)
class Recipe:
    """The effects a copy may get, in the order they are applied; `Speed`, if there, is always the first."""

    name: str
    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        given = self.transforms
        if not isinstance(given, list | tuple) or not all(isinstance(one, Transform) for one in given):
            kind = type(given).__name__
            comma = f"; for a single one write ({kind}(…),)" if isinstance(given, Transform) else f", it is {given!r}"
            raise UserError(f"recipe {self.name}: transforms takes a tuple of transforms{comma}")
        if self.name == NO_COPIES and given:
            raise UserError(f"a recipe called {NO_COPIES} makes no copies: give yours another name")
        for transform in given:
            if not transform.ranges:
                kind = type(transform).__name__
                raise UserError(f"recipe {self.name}: {kind} has no Uniform field, so the index could not tell of it")
        names = Counter(name for transform in self.transforms for name in (type(transform).__name__, *transform.ranges))
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(f"recipe {self.name} has {', '.join(twice)} twice; the index tells values by their names")

    def as_json(self) -> dict[str, Any]:
        """All of it, equal to itself when read back from JSON; a transform's fields stand under its class's name."""
        transforms = {type(transform).__name__: asdict(transform) for transform in self.transforms}
        return {"name": self.name, "transforms": list(transforms), **transforms}

    def __str__(self) -> str:
        lines = [f"recipe {self.name}"]
        for transform in self.transforms:
            ranges = (f"{name} {between.low:g} to {between.high:g}" for name, between in transform.ranges.items())
            lines.append(f"  {type(transform).__name__} ({transform.probability:g}): {', '.join(ranges)}")
        return "\n".join(lines)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(NO_COPIES),
        # What the field found to work: speed (Ko et al. 2015), rooms and noise (Ko et al. 2017), and now and then a
        # telephone. The order is the sound's way: voice, room, microphone, line, listener.
        Recipe(
            "standard",
            (
                Speed(0.8, Uniform(0.9, 1.1)),
                Reverb(0.25, rt60_seconds=Uniform(0.1, 0.5), direct_db=Uniform(0.0, 15.0)),
                NoiseBySnr(0.5, Uniform(10.0, 30.0)),
                Telephone(0.1, Uniform(-20.0, 0.0)),
                Gain(0.5, Uniform(-6.0, 6.0)),
            ),
        ),
        # What the lab describes; ranges from 0 upward, as given there.
        Recipe(
            "lab",
            (
                Noise(0.5, Uniform(0.0, 0.1)),
                PitchShift(0.5, Uniform(0.0, 0.1)),
                TimeStretch(0.5, Uniform(0.5, 1.5)),
            ),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name` here, or `module:NAME` of a module that Python finds (the current folder counts)."""
    if name in RECIPES:
        return RECIPES[name]
    module, colon, attribute = name.partition(":")
    if not colon or module.startswith("."):
        raise UserError(f"no recipe {name!r}; there are: {', '.join(sorted(RECIPES))}; your own is module:NAME")
    try:
        recipe = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"no recipe {name!r}: {error}") from None
    if not isinstance(recipe, Recipe):
        raise UserError(f"{name!r} is a {type(recipe).__name__}; a recipe is a data.augment.Recipe")
    return recipe


def generator(seed: int, copy: int, clip_id: str) -> np.random.Generator:
    """The randomness of one copy of one clip."""
    return np.random.default_rng([seed, copy, zlib.crc32(clip_id.encode())])


def draw(recipe: Recipe, rng: np.random.Generator, slowest: float = 0.0) -> dict[str, float]:
    """What a copy gets, by name; an effect it does not get has no value there.

    `slowest` is the clip's share of the window: slower, all its changes of tempo together would make it overlong.
    """
    drawn: dict[str, float] = {}
    for transform in recipe.transforms:
        values = transform.draw(rng)
        if values is None:
            continue
        if transform.tempo is not None:
            # To the next thousandth; 1e-9: 0.9 × 1000 may lie a rounding error above 900.
            values[transform.tempo] = max(values[transform.tempo], math.ceil(slowest * 1000 - 1e-9) / 1000)
            slowest /= values[transform.tempo]
        drawn |= values
    return drawn


def augment(
    audio_N: Float32[np.ndarray, "N"], recipe: Recipe, drawn: Drawn, rng: np.random.Generator
) -> Float32[np.ndarray, "K"]:
    """`audio_N` with the drawn effects of `recipe`, in float32 and not clipped; its speed is already changed.

    Raises `UserError` for an effect, which may be anybody's, that makes anything else of it.
    """
    for transform in recipe.transforms:
        if drawn.keys() >= transform.ranges.keys():
            audio_N = transform.apply(audio_N, drawn, rng)
            if problem := _problem(audio_N):
                raise UserError(
                    f"recipe {recipe.name}: {type(transform).__name__} made {problem} (drawn: {dict(drawn)}); "
                    "its apply gives float32 samples, one after another and all of them numbers"
                )
    return audio_N


def _problem(audio_N: object) -> str:
    """What is wrong with what an effect made, in words; nothing is if it is empty."""
    if not isinstance(audio_N, np.ndarray):
        return f"a {type(audio_N).__name__}"
    if audio_N.dtype != np.float32 or audio_N.ndim != 1 or not len(audio_N):
        return f"{audio_N.dtype} of shape {audio_N.shape}"
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        return "" if math.isfinite(audio_N.sum()) else "samples that are infinite or no numbers"
