"""A picture of a score in parts of the corpus: a bar each, with its 95 % interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.pictures import BOTTOM, LEFT, PLOT_HEIGHT, PLOT_WIDTH, RIGHT, TOP, Bar, Tick, nice_step

MOST_PERCENT = 120.0  # a few clips' interval may reach far beyond: it is cut there
GAP = 0.3  # of a bar's place


@dataclass(frozen=True)
class Whisker:
    """An interval: upright at `x`, from `low` to `high` on the picture."""

    x: float
    low: float
    high: float


@dataclass(frozen=True)
class RateBars:
    """Bars drawn in `PLOT_WIDTH` × `PLOT_HEIGHT`."""

    title: str
    bars: list[Bar]
    whiskers: list[Whisker]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    says: str


def rate_bars(title: str, parts: Sequence[dict[str, Any]], labels: Sequence[str], unit: str) -> RateBars:
    """The normalised WER of `parts` (as `breakdown.part` has them; those without words are left out)."""
    shown = [(part, label) for part, label in zip(parts, labels, strict=True) if part["wer_normalised"] is not None]
    tops = [max(part["wer_normalised"], *(part["wer_normalised_interval"] or (0.0,))) for part, _ in shown]
    y_step = nice_step(max(min(max(tops, default=1.0), MOST_PERCENT) / 4, 0.5))
    highest = y_step * math.ceil(min(max(tops, default=1.0), MOST_PERCENT) / y_step - 1e-9)
    scale, bottom = (PLOT_HEIGHT - TOP - BOTTOM) / highest, PLOT_HEIGHT - BOTTOM
    place = (PLOT_WIDTH - LEFT - RIGHT) / max(len(shown), 1)
    bars, whiskers, ticks = [], [], []
    for number, (part, label) in enumerate(shown):
        rate, ends = part["wer_normalised"], part["wer_normalised_interval"]
        x, height = LEFT + number * place, round(scale * min(rate, highest), 2)
        left, width, middle = round(x + GAP / 2 * place, 2), round((1 - GAP) * place, 2), round(x + place / 2, 2)
        within = f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
        says = f"{label} {unit}: {rate:.1f} %{within}, {part['clips']:,} clips"
        bars.append(Bar(left, round(bottom - height, 2), width, height, says))
        if ends:
            whiskers.append(Whisker(middle, *(round(bottom - scale * min(end, highest), 2) for end in ends)))
        ticks.append(Tick(middle, label))
    marks = [y_step * number for number in range(round(highest / y_step) + 1)]
    y_ticks = [Tick(round(bottom - scale * mark, 2), f"{mark:g}") for mark in marks]
    return RateBars(title, bars, whiskers, ticks, y_ticks, "; ".join(bar.says for bar in bars))
