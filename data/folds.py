"""Folds for cross-validation: which clips of a split are left out of training, to be scored on.

Decision: speaker-disjoint by default, since a voice heard in training flatters the score; a fold is a view of the
shards by their index, so that nothing is written twice. Whole speakers go, the longest first, to the fold that holds
the least speech; ties are drawn by the seed. A clip whose speaker is unknown goes as a speaker of its own; where none
is known, folds by speaker are refused, as nobody could say that they share none. N records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from data.errors import UserError
from data.records import Shards

BY_CLIP = "divide by clip (--fold.by clip; --by clip of crossval)"


@dataclass(frozen=True)
class Fold:
    """One fold of several: training leaves its clips out, evaluation takes them alone."""

    of: int = 0
    """Folds in all; 0: the split is not divided."""
    number: int = 1
    """Which of them, from 1."""
    by: Literal["speaker", "clip"] = "speaker"
    """What stays together: all clips of a speaker, or just the copies of a clip."""
    seed: int = 0
    """Draws the order among equals."""

    def __post_init__(self) -> None:
        if self.of < 0 or self.of == 1:
            raise UserError(f"--fold.of {self.of}: at least 2 folds, or 0 for none")
        if self.of and not 1 <= self.number <= self.of:
            raise UserError(f"--fold.number {self.number}: 1 to {self.of}")

    def for_training(self, shards: Shards) -> Shards:
        """`shards` without this fold's clips."""
        return shards.only(~self._inside(shards)) if self.of else shards

    def for_scoring(self, shards: Shards) -> Shards:
        """Just this fold's clips of `shards`."""
        return shards.only(self._inside(shards)) if self.of else shards

    def _inside(self, shards: Shards) -> Bool[np.ndarray, "N"]:
        """Raises `UserError` where there are fewer speakers, or clips, than folds, or where no speaker is known."""
        group_of_row = self._groups(shards)
        if (groups := int(group_of_row.max()) + 1) < self.of:
            other = f"; make fewer folds, or {BY_CLIP}" if self.by == "speaker" else "; make fewer folds"
            raise UserError(f"{shards.folder}: {groups} {self.by}s do not fill {self.of} folds{other}")
        seconds = np.bincount(group_of_row, shards.index["seconds"].astype(np.float64))
        return np.asarray(_fold_of(seconds, self.of, self.seed))[group_of_row] == self.number - 1

    def _groups(self, shards: Shards) -> Int[np.ndarray, "N"]:
        """The number of what each record stays together with, from 0 without a gap."""
        column = shards.index["speaker" if self.by == "speaker" else "id"].astype(str)
        names, group_of_row = np.unique(column, return_inverse=True)
        unknown = column == ""
        if self.by == "clip" or not unknown.any():
            return group_of_row
        if unknown.all():
            raise UserError(f"{shards.folder}: no speaker is known, so folds cannot keep them apart; {BY_CLIP}")
        _, own = np.unique(shards.index["id"][unknown].astype(str), return_inverse=True)
        group_of_row[unknown] = len(names) + own
        return np.unique(group_of_row, return_inverse=True)[1]


UNDIVIDED = Fold()


def _fold_of(seconds: Sequence[float] | np.ndarray, folds: int, seed: int) -> list[int]:
    """For each group its fold: the longest first, each into the fold with the least speech so far."""
    drawn = np.random.default_rng(seed).permutation(len(seconds))
    longest_first = drawn[np.argsort(-np.asarray(seconds)[drawn], kind="stable")]
    held = np.zeros(folds)
    found = [0] * len(seconds)
    for group in longest_first:
        found[group] = int(np.argmin(held))
        held[found[group]] += seconds[group]
    return found
