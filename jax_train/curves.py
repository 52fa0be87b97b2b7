"""The command that draws a run: training loss, learning rate, and WER at evaluations, to RUN/curves.png.

Decision: drawn from metrics.jsonl alone, so that it works while the run goes on and after it was killed, and with
Pillow, which the project has already. Drawn at twice the size and scaled down, so that lines are smooth.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from data.errors import UserError, command
from jax_train.runlog import METRICS, read_rows

PICTURE = "curves.png"
WER_NAMES = {"wer": "as written", "wer_normalised": "normalised"}
SMOOTHED_SHARE = 0.04  # of the points that one point of the smoothed line averages
MANY_POINTS = 200  # from here on a few wild points do not stretch the axis

SUPERSAMPLING = 2
WIDTH, PANEL_HEIGHT, HEAD, FOOT = 1200, 330, 84, 14  # pixels
LEFT, RIGHT, TOP, BOTTOM = 92, 28, 40, 46  # around the axes of a panel
INK, FAINT, GRID, PAPER = "#1f2430", "#6b7280", "#e6e8ec", "#ffffff"
COLOURS = ("#1d5fd1", "#d9541e")


@dataclasses.dataclass(frozen=True)
class CurvesConfig:
    """Draws a run's loss, learning rate and WER to RUN/curves.png."""

    run: Path
    """Folder of a training run, finished or not."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one curve by increasing step."""

    name: str
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]
    style: str
    """noisy: faint points under a smoothed line; line; marked: points joined by a line."""


def run_rows(run: Path) -> list[dict[str, Any]]:
    """The run's rows; a last line that a kill cut short is left out.

    Raises:
        UserError: no such run, no metrics in it, or a line that is no row.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; give the RUN of a `make train`")
    path = run / METRICS
    if not path.is_file():
        raise UserError(f"{run}: no {METRICS} in it; give the RUN of a `make train`")
    rows = read_rows(run)
    if not rows:
        raise UserError(f"{path}: holds no whole line yet; wait for the run's first step")
    return rows


def series_of(rows: Sequence[dict[str, Any]], key: str, name: str) -> Series | None:
    """The finite values of `key`, or none where no row has one."""
    points = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            points[row["step"]] = float(value)
    if not points:
        return None
    steps = sorted(points)
    return Series(name, np.array(steps, float), np.array([points[step] for step in steps]))


def panels_of(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels that the rows have values for; a run without evaluations has none for WER."""
    found = []
    for key, title, style in [
        ("loss", "training loss, nats per token", "noisy"),
        ("learning_rate", "learning rate", "line"),
    ]:
        if series := series_of(rows, key, ""):
            found.append(Panel(title, (series,), style))
    wer = tuple(series for key, name in WER_NAMES.items() if (series := series_of(rows, key, name)))
    return [*found, Panel("word error rate at evaluations, %", wer, "marked")] if wer else found


def smooth(values: np.ndarray) -> np.ndarray:
    """A running mean around each point, of those there are at the ends."""
    half = int(len(values) * SMOOTHED_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them: 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [round(i * gap, 12) for i in range(math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9) + 1)]


def limits(panel: Panel) -> tuple[float, float]:
    """The ends of a panel's vertical axis."""
    low, high = math.inf, -math.inf
    for series in panel.series:
        shown = series.values
        if panel.style == "noisy" and len(shown) >= MANY_POINTS:
            shown = np.concatenate([np.percentile(shown, [0.5, 99.5]), smooth(shown)])
        low, high = min(low, float(shown.min())), max(high, float(shown.max()))
    if panel.style == "line":
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low - room if low < 0 or low > room else 0.0), high + room


def number(value: float) -> str:
    """A tick's label."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def headline(rows: Sequence[dict[str, Any]]) -> str:
    """The last values in words; the loss is the smoothed one."""
    words = [f"step {max(row['step'] for row in rows):,}"]
    if loss := series_of(rows, "loss", ""):
        words.append(f"loss {smooth(loss.values)[-1]:.3f}")
    if rate := series_of(rows, "learning_rate", ""):
        words.append(f"learning rate {number(float(f'{rate.values[-1]:.3g}'))}")
    for key, name in WER_NAMES.items():
        if wer := series_of(rows, key, name):
            words.append(f"WER {name} {wer.values[-1]:.2f} % (best {wer.values.min():.2f} %)")
    return ",  ".join(words)


def draw(rows: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """The picture. Raises `UserError` where the rows hold nothing to draw."""
    panels = panels_of(rows)
    if not panels:
        raise UserError(f"{title}: no finite loss, learning rate or WER in its {METRICS}: there is nothing to draw")
    steps = np.concatenate([series.steps for panel in panels for series in panel.series])
    across = (float(steps.min()), float(max(steps.max(), steps.min() + 1)))
    canvas = Canvas(WIDTH, HEAD + PANEL_HEIGHT * len(panels) + FOOT)
    canvas.text((LEFT, 34), title, 24, INK, "ls")
    canvas.text((LEFT, 64), headline(rows), 17, FAINT, "ls")
    for place, panel in enumerate(panels):
        draw_panel(canvas, panel, HEAD + place * PANEL_HEIGHT, across, last=place == len(panels) - 1)
    return canvas.picture()


class Canvas:
    """Pillow's drawing in the final picture's pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), PAPER)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def text(self, place: tuple[float, float], words: str, size: int, colour: str, anchor: str) -> None:
        """Words at `place`, which Pillow's `anchor` says how to read."""
        x, y = (SUPERSAMPLING * value for value in place)
        font = ImageFont.load_default(size * SUPERSAMPLING)
        self._draw.text((x, y), words, font=font, fill=colour, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """A line through `points`."""
        scaled = [(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * SUPERSAMPLING), joint="curve")

    def dot(self, place: tuple[float, float], colour: str, radius: float) -> None:
        """A filled circle."""
        x, y, r = (SUPERSAMPLING * value for value in (*place, radius))
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def picture(self) -> Image.Image:
        """What was drawn, at its final size."""
        return self._image.resize(self._size, Image.Resampling.LANCZOS)


def draw_panel(canvas: Canvas, panel: Panel, top: int, across: tuple[float, float], last: bool) -> None:
    """One panel: grid, labels, curves, and the names of the curves where there are several."""
    x_left, x_right, y_top, y_bottom = LEFT, WIDTH - RIGHT, top + TOP, top + PANEL_HEIGHT - BOTTOM
    low, high = limits(panel)

    def place(step: float, value: float) -> tuple[float, float]:
        x = x_left + (step - across[0]) / (across[1] - across[0]) * (x_right - x_left)
        return x, y_bottom - (min(max(value, low), high) - low) / (high - low) * (y_bottom - y_top)

    for value in ticks(low, high, 5):
        _, y = place(across[0], value)
        canvas.line([(x_left, y), (x_right, y)], GRID, 1)
        canvas.text((x_left - 10, y), number(value), 15, FAINT, "rm")
    for step in (tick for tick in ticks(*across, 10) if tick == round(tick)):
        x, _ = place(step, low)
        canvas.line([(x, y_bottom), (x, y_bottom + 5)], FAINT, 1)
        canvas.text((x, y_bottom + 18), f"{step:,.0f}", 15, FAINT, "mm")
    canvas.line([(x_left, y_top), (x_left, y_bottom), (x_right, y_bottom)], FAINT, 1)
    canvas.text((x_left, y_top - 14), panel.title, 18, INK, "ls")
    if last:
        canvas.text((x_right, y_bottom + 38), "step", 15, FAINT, "rm")
    right = float(x_right)
    for series, colour in reversed(list(zip(panel.series, COLOURS, strict=False))):  # as many as there are
        points = [place(step, value) for step, value in zip(series.steps, series.values, strict=True)]
        if panel.style == "noisy":
            faint = 0.45 if len(points) < MANY_POINTS else 0.22
            for point, value in zip(points, series.values, strict=True):
                if low <= value <= high:
                    canvas.dot(point, f"{colour}{round(255 * faint):02x}", 2.2)
            smoothed = zip(series.steps, smooth(series.values), strict=True)
            points = [place(step, value) for step, value in smoothed]
        canvas.line(points, colour, 2.5)
        if panel.style == "marked" or len(points) == 1:
            for point in points:
                canvas.dot(point, colour, 5)
        if len(panel.series) > 1:
            canvas.text((right, y_top - 14), series.name, 16, colour, "rs")
            right -= 12 * len(series.name)


def curves(config: CurvesConfig) -> str:
    """Write the picture by rename; the last values in words. Raises `UserError` as `run_rows` does."""
    rows = run_rows(config.run)
    picture = draw(rows, str(config.run))
    partial = config.run / (PICTURE + ".partial")
    picture.save(partial, format="PNG")
    partial.replace(config.run / PICTURE)
    return headline(rows)


@command
def main() -> None:
    config = tyro.cli(CurvesConfig)
    print(f"{curves(config)}\n{config.run / PICTURE}")


if __name__ == "__main__":
    main()
