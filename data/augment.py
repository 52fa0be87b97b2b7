"""Augmentation recipes: what is drawn for a copy of a clip, and its application to the samples.

Pure given a generator, and the generator comes from (seed, copy, clip id) alone, so the number and order of workers
never changes a copy. What was drawn is kept in the index, so every copy can be explained. The change of speed is not
applied here: it is a factor for the resampling every clip goes through anyway (`data.audio.resample`).

Shapes: N samples.
"""

import json
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from data.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Which changes a copy may get, each with its probability; ranges are uniform, in the unit of their name."""

    name: str
    speed_probability: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    """Factor on tempo and pitch; Kaldi's recipes use 0.9, 1.0 and 1.1 (Ko et al. 2015)."""
    gain_probability: float = 0.0
    gain_db: tuple[float, float] = (0.0, 0.0)
    noise_probability: float = 0.0
    snr_db: tuple[float, float] = (0.0, 0.0)
    """White Gaussian noise this far below the clip's mean power."""


RECIPES = {
    "none": Recipe("none"),
    "standard": Recipe(
        "standard",
        speed_probability=0.8,
        speed=(0.9, 1.1),
        gain_probability=0.5,
        gain_db=(-6.0, 6.0),
        noise_probability=0.5,
        snr_db=(10.0, 30.0),
    ),
}


@dataclass(frozen=True)
class Draw:
    """What one copy gets; None is no change."""

    speed: float | None = None
    gain_db: float | None = None
    snr_db: float | None = None

    def as_json(self) -> str:
        """The changes alone, for the index."""
        changes = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(changes, sort_keys=True)


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`."""
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}; there are: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def generator(seed: int, copy: int, clip_id: str) -> np.random.Generator:
    """The randomness of one copy of one clip."""
    return np.random.default_rng([seed, copy, zlib.crc32(clip_id.encode())])


def draw(recipe: Recipe, rng: np.random.Generator, slowest: float = 0.0) -> Draw:
    """What a copy gets, rounded to a thousandth so that the index tells it exactly; its speed is at least `slowest`."""

    def maybe(probability: float, between: tuple[float, float]) -> float | None:
        # Both numbers are always taken, so that one probability never shifts another's draw.
        chance, value = rng.random(), rng.uniform(*between)
        return round(value, 3) if chance < probability else None

    speed = maybe(recipe.speed_probability, recipe.speed)
    gain_db = maybe(recipe.gain_probability, recipe.gain_db)
    snr_db = maybe(recipe.noise_probability, recipe.snr_db)
    return Draw(None if speed is None else max(speed, slowest), gain_db, snr_db)


def augment(audio_N: Float32[np.ndarray, "N"], drawn: Draw, rng: np.random.Generator) -> Float32[np.ndarray, "N"]:
    """`audio_N` with the drawn gain and noise, in float32 and not clipped; its speed is already changed."""
    if drawn.gain_db is not None:
        audio_N = audio_N * np.float32(10.0 ** (drawn.gain_db / 20.0))
    if drawn.snr_db is not None:
        power = np.dot(audio_N, audio_N) / len(audio_N)
        amplitude = np.sqrt(power * 10.0 ** (-drawn.snr_db / 10.0))
        audio_N = audio_N + np.float32(amplitude) * rng.standard_normal(len(audio_N), dtype=np.float32)
    return audio_N
