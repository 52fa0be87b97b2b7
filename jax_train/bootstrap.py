"""How far a score may be off by the choice of clips: 95 % intervals, and the difference of two models, by resampling.

Decision: percentile bootstrap over per-clip counts (Bisani and Ney, "Bootstrap estimates for confidence intervals in
ASR performance evaluation", ICASSP 2004). What is drawn again, with replacement, are clips, or speakers with all their
clips: clips of one speaker err alike, and intervals over clips are then too narrow (Liu and Peng, "Statistical testing
on ASR performance via blockwise bootstrap", 2020). With few units an interval is too narrow in turn, of a single one it
has no width: there is none over speakers below `FEWEST_SPEAKERS`, and nothing at all below `FEWEST_CLIPS`. A resample
is a row of counts, so all sums are one matrix product.

Shapes: C clips, U units drawn (clips or speakers), R resamples, K counts (errors and words of each score).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
LEVEL = 95  # percent
SEED = 0
FEWEST_CLIPS = 5  # with a word in their references: fewer say nothing of other clips
FEWEST_SPEAKERS = 20
BLOCK_DRAWS = 2**22  # at once: 100 MB of counts


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How B differs from A on the same clips, in points: negative is better."""

    difference: float
    interval: tuple[float, float] | None = None
    """95 %; like what follows None where there are too few clips to tell."""
    p_value: float | None = None
    """Two-sided: twice the smaller share of resamples in which the difference is not above, or not below, zero."""
    improved: float | None = None
    """Share of resamples in which B is better than A: Bisani and Ney's probability of improvement."""

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return dataclasses.asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def enough(words_U: Int[np.ndarray, "U"]) -> bool:
    """Whether so many units have a word that drawing them again says something of others."""
    return int(np.count_nonzero(words_U)) >= FEWEST_CLIPS


def resampled_sums(
    values_UK: Int[np.ndarray, "U K"], resamples: int = RESAMPLES, seed: int = SEED
) -> Float[np.ndarray, "R K"]:
    """Each resample's sums of the counts of U units drawn with replacement. The same for the same seed and U."""
    n_units = len(values_UK)
    rng = np.random.default_rng([seed, n_units])
    values = values_UK.astype(np.float64)  # exact for counts; and a product of floats is a hundred times as fast
    at_once = max(1, BLOCK_DRAWS // n_units)
    sums = []
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = rng.integers(n_units, size=(rows, n_units))
        drawn += n_units * np.arange(rows)[:, None]
        counts_RU = np.bincount(drawn.ravel(), minlength=rows * n_units).reshape(rows, n_units)
        sums.append(counts_RU.astype(np.float64) @ values)
    return np.concatenate(sums)


def per_speaker(values_CK: Int[np.ndarray, "C K"], speakers_C: np.ndarray) -> Int[np.ndarray, "U K"] | None:
    """The counts summed over each speaker's clips; None if a speaker is unknown or there are too few of them."""
    names, speaker_C = np.unique(speakers_C.astype(str), return_inverse=True)
    if len(names) < FEWEST_SPEAKERS or "" in names:
        return None
    sums_UK = np.zeros((len(names), values_CK.shape[1]), values_CK.dtype)
    np.add.at(sums_UK, speaker_C, values_CK)
    return sums_UK


def interval(
    errors_U: Int[np.ndarray, "U"], words_U: Int[np.ndarray, "U"], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """The 95 % interval of 100 · errors / words; None of fewer than `FEWEST_CLIPS` units with words.

    A resample without any word says nothing and is left out: it takes clips whose references the normaliser empties.
    """
    if not enough(words_U):
        return None
    return _middle(_rates(resampled_sums(np.stack([errors_U, words_U], axis=1), resamples, seed)))


def compared(
    errors_a_U: Int[np.ndarray, "U"],
    errors_b_U: Int[np.ndarray, "U"],
    words_U: Int[np.ndarray, "U"],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """B's rate less A's. Each resample takes the same units of both, so what is hard for both cancels out.

    Of fewer than `FEWEST_CLIPS` units with words it is the difference alone.
    """
    difference = float(100 * (errors_b_U.sum() - errors_a_U.sum()) / words_U.sum())
    if not enough(words_U):
        return Comparison(difference)
    sums_RK = resampled_sums(np.stack([errors_b_U - errors_a_U, words_U], axis=1), resamples, seed)
    differences = _rates(sums_RK)
    # One is added to both: the sample itself is one of those that could have been drawn, so p is never 0.
    not_above, not_below = (1 + np.sum(differences <= 0)), (1 + np.sum(differences >= 0))
    return Comparison(
        difference=difference,
        interval=_middle(differences),
        p_value=min(1.0, float(2 * min(not_above, not_below) / (1 + len(differences)))),
        improved=float(np.mean(differences < 0)),
    )


def _rates(sums_RK: Float[np.ndarray, "R 2"]) -> Float[np.ndarray, "r"]:
    some = sums_RK[sums_RK[:, 1] > 0]
    return 100.0 * some[:, 0] / some[:, 1]


def _middle(rates_R: Float[np.ndarray, "R"]) -> tuple[float, float]:
    low, high = np.percentile(rates_R, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
