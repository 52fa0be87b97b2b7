"""Word error rates in percent with 95 % intervals, and how much one lies above another.

Decision: a percentile bootstrap over clips, as `jax_train.bootstrap` makes it; the loop cannot import that package, and
has little more than these lines to share. Clips are what is drawn: a day has two voices or three, too few to draw from.
Fewer than `FEWEST_CLIPS` have no interval, as there: what it would be is far too narrow.

Shapes: C clips, R resamples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

FEWEST_CLIPS = 5
RESAMPLES = 2000
TAILS = (2.5, 97.5)  # percent
BLOCK_DRAWS = 2**20  # at once: 24 MB


@dataclass(frozen=True)
class Rate:
    """The word error rate of some clips."""

    clips: int
    wer: float
    """Errors in 100 words."""
    low: float | None
    """The ends of the interval; None of too few clips."""
    high: float | None


def rate(errors_C: Int[np.ndarray, "C"], words_C: Int[np.ndarray, "C"], rng: np.random.Generator) -> Rate:
    """The rate of at least one clip; every clip has a word."""
    clips, wer = len(errors_C), _percent(errors_C, words_C)
    if clips < FEWEST_CLIPS:
        return Rate(clips, wer, None, None)
    low, high = np.percentile(resampled(errors_C, words_C, rng), TAILS)
    return Rate(clips, wer, float(low), float(high))


def excess(
    day: tuple[Int[np.ndarray, "C"], Int[np.ndarray, "C"]],
    before: tuple[Int[np.ndarray, "D"], Int[np.ndarray, "D"]],
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """How much the rate of `day` (errors, words) lies above that of `before`, in points, and the interval's ends."""
    low, high = np.percentile(resampled(*day, rng) - resampled(*before, rng), TAILS)
    return _percent(*day) - _percent(*before), float(low), float(high)


def resampled(
    errors_C: Int[np.ndarray, "C"], words_C: Int[np.ndarray, "C"], rng: np.random.Generator
) -> Float[np.ndarray, "R"]:
    """The rate of each of `RESAMPLES` draws of as many clips, with replacement."""
    clips = len(errors_C)
    at_once = max(1, BLOCK_DRAWS // clips)
    found = []
    for first in range(0, RESAMPLES, at_once):
        drawn = rng.integers(clips, size=(min(at_once, RESAMPLES - first), clips))
        found.append(100.0 * errors_C[drawn].sum(axis=1) / words_C[drawn].sum(axis=1))
    return np.concatenate(found)


def _percent(errors_C: Int[np.ndarray, "C"], words_C: Int[np.ndarray, "C"]) -> float:
    return float(100.0 * errors_C.sum() / words_C.sum())
