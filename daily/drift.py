"""Whether a day's speech is like that of the days before it: each input feature's distance, and how likely chance is.

Decision: tests, not the population stability index: that one is near 0.4 for two samples of the same distribution when
a day has some twenty clips, and its usual bound of 0.2 would warn every day. Measures are compared by the two-sample
Kolmogorov–Smirnov test (SciPy), kinds by half the sum of the differences of their shares, against days drawn from all
clips without replacement. A feature is marked where p is below `ALPHA` over the number of features (Bonferroni): days
that are alike are marked about once in a hundred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

MEASURES = ("seconds", "words", "words_per_second", "snr_db")
KINDS = ("source", "voice", "sex", "recipe")
ALPHA = 0.01
RESAMPLES = 9999

Shares = list[tuple[str, float]]


@dataclass(frozen=True)
class Drift:
    """One feature of a day against the days before."""

    feature: str
    today: float | Shares
    """A measure's mean, or each kind's share."""
    before: float | Shares
    distance: float
    """The largest difference of the cumulative shares, or half the sum of the shares' differences: 0 to 1."""
    p: float
    """How often days that are alike are that far apart."""
    differs: bool


def drift(
    today: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], rng: np.random.Generator
) -> Sequence[Drift]:
    """Every feature of a day's clips against those of the days before; both have at least one."""
    alpha = ALPHA / len(MEASURES + KINDS)
    measures = [_measure(name, today[name], before[name], alpha) for name in MEASURES]
    return measures + [_kinds(name, today[name], before[name], alpha, rng) for name in KINDS]


def _measure(name: str, today_C: np.ndarray, before_C: np.ndarray, alpha: float) -> Drift:
    found = ks_2samp(today_C, before_C)
    p = float(found.pvalue)
    return Drift(name, float(today_C.mean()), float(before_C.mean()), float(found.statistic), p, p < alpha)


def _kinds(name: str, today_C: np.ndarray, before_C: np.ndarray, alpha: float, rng: np.random.Generator) -> Drift:
    kinds, kind_C = np.unique(np.concatenate([today_C, before_C]).astype(str), return_inverse=True)
    today_K = np.bincount(kind_C[: len(today_C)], minlength=len(kinds))
    all_K = np.bincount(kind_C, minlength=len(kinds))

    def distance(counts_K: np.ndarray) -> np.ndarray:
        apart_K = np.abs(counts_K / len(today_C) - (all_K - counts_K) / len(before_C))
        found: np.ndarray = apart_K.sum(axis=-1) / 2
        return found

    seen = float(distance(today_K))
    drawn_RK = rng.multivariate_hypergeometric(all_K, len(today_C), size=RESAMPLES)
    p = float((1 + np.sum(distance(drawn_RK) >= seen - 1e-9)) / (1 + RESAMPLES))  # less: rounding of equal distances
    shares = [
        [(str(kind), float(share)) for kind, share in zip(kinds, counts_K / counts_K.sum(), strict=True)]
        for counts_K in (today_K, all_K - today_K)
    ]
    return Drift(name, shares[0], shares[1], seen, p, p < alpha)
