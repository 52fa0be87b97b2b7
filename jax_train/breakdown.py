"""Scores of parts of a corpus: by speaker, by length, by signal-to-noise ratio; each with its interval.

Decision: a part's WER is that of its clips pooled, as the whole corpus's is, so parts average to the whole by their
words. Intervals are over a part's clips. Parts without a clip are left out.

Shapes: C clips, K counts.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jax_train.bootstrap import FEWEST_CLIPS, LEVEL, RESAMPLES, SEED, enough, interval, per_speaker, resampled_sums
from jax_train.scores import SCORES, Edits

SECONDS = (0, 2, 4, 6, 8, 10, 15, np.inf)
SNR_DB = (-np.inf, 0, 10, 20, 30, 40, np.inf)
MOST_SPEAKERS = 50  # in the table


def counts(written: Edits, normal: Edits) -> Int[np.ndarray, "C 8"]:
    """Each clip's errors and lengths, two columns to each of `SCORES`."""
    columns = []
    for edits in (written, normal):
        columns += [edits.errors, edits.words, edits.character_errors, edits.characters]
    return np.stack(columns, axis=1)


def intervals(counts_CK: Int[np.ndarray, "C 8"], speakers_C: np.ndarray) -> dict[str, Any]:
    """The scores' 95 % intervals `over_clips`, and `over_speakers` if these are known and many enough (else None).

    An interval is None where too few clips have words.
    """
    over_speakers = per_speaker(counts_CK, speakers_C)
    return {
        "level": LEVEL,
        "method": "percentile bootstrap",
        "resamples": RESAMPLES,
        "seed": SEED,
        "fewest_clips": FEWEST_CLIPS,
        "over_clips": _of_scores(counts_CK),
        "over_speakers": None if over_speakers is None else _of_scores(over_speakers),
    }


def _of_scores(counts_UK: Int[np.ndarray, "U 8"]) -> dict[str, list[float] | None]:
    sums_RK = resampled_sums(counts_UK)
    found: dict[str, list[float] | None] = {}
    for place, name in enumerate(SCORES):
        if not enough(counts_UK[:, 2 * place + 1]):
            found[name] = None
            continue
        some = sums_RK[sums_RK[:, 2 * place + 1] > 0, 2 * place : 2 * place + 2]  # a lone «…» has no normalised word
        found[name] = np.percentile(100 * some[:, 0] / some[:, 1], [(100 - LEVEL) / 2, (100 + LEVEL) / 2]).tolist()
    return found


def part(counts_CK: Int[np.ndarray, "C 8"], chosen: np.ndarray) -> dict[str, Any]:
    """The scores of the `chosen` clips; None where the references have no word, and no interval of few clips."""
    here_CK = counts_CK[chosen]
    sums = here_CK.sum(axis=0)
    found: dict[str, Any] = {"clips": len(here_CK), "words_normalised": int(sums[5])}
    for place, name in enumerate(SCORES):
        errors, length = sums[2 * place], sums[2 * place + 1]
        found[name] = float(100 * errors / length) if length else None
        if name.startswith("wer"):
            ends = interval(*here_CK[:, 2 * place : 2 * place + 2].T)
            found[f"{name}_interval"] = None if ends is None else list(ends)
    return found


def by_range(
    counts_CK: Int[np.ndarray, "C 8"], values_C: Float[np.ndarray, "C"], edges: Sequence[float]
) -> list[dict[str, Any]]:
    """The parts whose value is from one edge to below the next; `from` and `to` are None where there is no edge."""
    place_C = np.digitize(values_C, edges[1:-1])
    found = []
    for place, (low, high) in enumerate(pairwise(edges)):
        if np.any(chosen := place_C == place):
            limits = {"from": low if np.isfinite(low) else None, "to": high if np.isfinite(high) else None}
            found.append(limits | part(counts_CK, chosen))
    return found


def by_speaker(counts_CK: Int[np.ndarray, "C 8"], speakers_C: np.ndarray) -> dict[str, Any]:
    """How WER spreads over the known speakers, and the table of those with enough clips, the worst first."""
    names, speaker_C, n_clips = np.unique(speakers_C.astype(str), return_inverse=True, return_counts=True)
    known = names != ""
    errors, words = (np.bincount(speaker_C, counts_CK[:, column])[known] for column in (4, 5))  # normalised
    rates = 100 * errors[words > 0] / words[words > 0]
    spread = {f"percentile_{level}": float(np.percentile(rates, level)) for level in (10, 50, 90)} if len(rates) else {}
    table = [
        {"speaker": str(names[number])} | part(counts_CK, speaker_C == number)
        for number in _worst(names, speaker_C, n_clips, counts_CK)
    ]
    return {
        "speakers": int(known.sum()),
        "wer_normalised": spread | ({"mean": float(rates.mean())} if len(rates) else {}),
        "fewest_clips": FEWEST_CLIPS,
        "worst": table,
    }


def _worst(names: np.ndarray, speaker_C: np.ndarray, n_clips: np.ndarray, counts_CK: np.ndarray) -> list[int]:
    errors, words = (np.bincount(speaker_C, counts_CK[:, column]) for column in (4, 5))
    eligible = np.flatnonzero((names != "") & (n_clips >= FEWEST_CLIPS) & (words > 0))
    order = np.argsort(-errors[eligible] / words[eligible], kind="stable")
    return eligible[order][:MOST_SPEAKERS].tolist()
