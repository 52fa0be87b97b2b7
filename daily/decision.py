"""Whether the day's challenger becomes champion: better on the test split, and no worse on real speech.

Decision: better means that the paired bootstrap's 95 % interval of the difference in normalised WER lies below zero;
of too few clips compare gives none, and then nothing is surely better.
No worse means that the WER itself is not higher (by more than a margin, 0 by default): the guard split is small, so
an interval would let a little damage through each day, and sixty little damages are a big one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

WER = "wer_normalised"


@dataclasses.dataclass(frozen=True)
class Difference:
    """The challenger less the champion on one split, in points of normalised WER: negative is better."""

    clips: int
    champion: float
    challenger: float
    difference: float
    interval: tuple[float, float] | None
    """95 %, by a paired bootstrap over clips; like the p-value None of too few clips."""
    p_value: float | None

    @classmethod
    def of(cls, compared: Mapping[str, Any]) -> "Difference":
        """What the compare command wrote, A being the champion and B the challenger."""
        found = compared["over_clips"][WER]
        return cls(
            clips=compared["clips"],
            champion=compared["a"][WER],
            challenger=compared["b"][WER],
            difference=found["difference"],
            interval=None if found["interval"] is None else (found["interval"][0], found["interval"][1]),
            p_value=found["p_value"],
        )

    def __str__(self) -> str:
        rates = f"WER {self.champion:.2f} → {self.challenger:.2f} %, {self.difference:+.2f} points"
        if self.interval is None:
            return f"{rates} (no interval of {self.clips} clips: too few)"
        return f"{rates} (95 %: {{:+.2f}} to {{:+.2f}})".format(*self.interval)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided of a challenger."""

    promoted: bool
    reason: str
    """In words, with the figures."""


def decide(test: Difference, guard: Difference, margin: float = 0.0) -> Decision:
    """Promoted if better on `test` and not worse on `guard` by more than `margin` points."""
    better = test.interval is not None and test.interval[1] < 0
    no_worse = guard.difference <= margin
    said = [
        f"{'better' if better else 'not surely better'} on test: {test}",
        f"{'no worse' if no_worse else 'worse'} on guard: {guard}",
    ]
    promoted = better and no_worse
    return Decision(promoted, f"{'promoted' if promoted else 'not promoted'}: {'; '.join(said)}")
