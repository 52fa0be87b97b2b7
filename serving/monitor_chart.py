"""Where the marks of the chart of WER by day stand, in percent of its width and height.

Decision: marks and labels are placed by percent, so that the chart fills a phone's or a desktop's width with letters of
the same size on both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

MARGIN = 2.5  # percent, left and right of the first and last day
FEW_DAYS = 6  # labels below the axis
LEAST_TOP = 5.0  # percent WER at the chart's top


@dataclass(frozen=True)
class Point:
    """A day's WER and its interval."""

    x: float
    y: float
    low: float | None
    high: float | None
    """None of a day of few clips, which has no interval."""
    row: dict[str, Any]
    """The snapshot's row of that day."""
    is_new: bool
    """Whether another version than the day before heard it."""


@dataclass(frozen=True)
class Label:
    """A place on an axis and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """WER by day: by its points from left to right, and the labels of both axes."""

    points: list[Point]
    days: list[Label]
    rates: list[Label]
    line: str
    """The points as an SVG polyline's, y downwards."""
    lowest: float
    highest: float


def wer_chart(rows: Sequence[dict[str, Any]]) -> Chart | None:
    """The chart of days, oldest first; None of no days."""
    if not rows:
        return None
    highest = max(LEAST_TOP, *(row["wer"] if row["high"] is None else row["high"] for row in rows))
    step = nice_step(highest / 4)
    top = step * math.ceil(highest / step - 1e-9)
    first, last = (date.fromisoformat(rows[at]["day"]) for at in (0, -1))
    span = (last - first).days

    def x(day: date) -> float:
        return MARGIN + (100 - 2 * MARGIN) * ((day - first).days / span if span else 0.5)

    points = []
    for row, before in zip(rows, [None, *rows[:-1]], strict=True):
        is_new = before is not None and before["version"] != row["version"]
        low, high = (None if row[name] is None else 100 * row[name] / top for name in ("low", "high"))
        points.append(Point(x(date.fromisoformat(row["day"])), 100 * row["wer"] / top, low, high, row, is_new))
    apart = max(1, math.ceil(span / (FEW_DAYS - 1)))
    labelled = [first + timedelta(days) for days in range(0, span + 1, apart)]
    rates = [step * at for at in range(round(top / step) + 1)]
    return Chart(
        points,
        [Label(x(day), day.isoformat()[5:]) for day in labelled],
        [Label(100 * rate / top, f"{rate:g}") for rate in rates],
        " ".join(f"{point.x:.2f},{100 - point.y:.2f}" for point in points),
        min(row["wer"] for row in rows),
        max(row["wer"] for row in rows),
    )


def nice_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))
