"""What a page shows of a clip and of many: waveform, log-mel and sound as text to put into HTML; and histograms.

Everything stands in the page itself (SVG paths, data: URIs), so the page is one file. The sound is FLAC: without loss,
so what is heard is what the features were made of, at two thirds of a WAV's size.

Shapes: N samples, M mel bins, F mel frames.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
import soundfile
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from data.log_mel import SAMPLE_RATE

ENVELOPE_COLUMNS = 480
PLOT_WIDTH, PLOT_HEIGHT = 480, 200  # of a histogram, in the units of its drawing
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24  # around its bars, for the axes
MOST_BARS = 40
SPEAKER_LETTERS = 8  # of a speaker's id: enough to tell two apart, too little to find them elsewhere


@cache
def colours() -> UInt8[np.ndarray, "256 3"]:
    """Red, green and blue of 256 steps from dark indigo over red to pale yellow, each as much lighter as the last.

    Evenly in OKLab (Ottosson 2020), which is made for it: equal steps of a value look equal, also to those who do not
    see all colours, and in print without any.
    """
    step = np.linspace(0.0, 1.0, 256)
    lightness = 0.17 + 0.80 * step
    hue = np.deg2rad(np.interp(step, [0.0, 0.35, 0.7, 1.0], [285.0, 345.0, 410.0, 465.0]))
    chroma = np.interp(step, [0.0, 0.2, 0.55, 0.8, 1.0], [0.06, 0.13, 0.17, 0.145, 0.07])
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB, IEC 61966-2-1
    return np.rint(encoded * 255.0).astype(np.uint8)


def colour_stops(count: int = 12) -> str:
    """The colours as the stops of a CSS gradient."""
    chosen = colours()[np.linspace(0, 255, count).astype(int)]
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in chosen.tolist())


def log_mel_png(log_mel_q_FM: UInt8[np.ndarray, "F M"]) -> bytes:
    """A PNG of the 8-bit log-mel as it is in a shard: a pixel a value, time rightwards, frequency upwards."""
    image = Image.fromarray(np.ascontiguousarray(log_mel_q_FM.T[::-1]))
    image.putpalette(colours().tobytes())
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def flac(audio_N: Float32[np.ndarray, "N"]) -> bytes:
    """16 kHz audio, within ±1, as FLAC of 16 bits."""
    file = BytesIO()
    soundfile.write(file, audio_N, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """`content` of the media type `kind` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def envelope(audio_N: Float32[np.ndarray, "N"], full_scale: float) -> str:
    """The SVG path around the lowest and highest samples of each column; 480 wide, and 100 high at ± `full_scale`."""
    edges = np.linspace(0, len(audio_N), min(ENVELOPE_COLUMNS, len(audio_N)) + 1).astype(int)[:-1]
    high, low = np.maximum.reduceat(audio_N, edges), np.minimum.reduceat(audio_N, edges)
    x = (np.arange(len(edges)) + 0.5) * ENVELOPE_COLUMNS / len(edges)
    there = [f"{at:.4g},{50 - 49 * value / full_scale - 0.3:.4g}" for at, value in zip(x, high, strict=True)]
    back = [f"{at:.4g},{50 - 49 * value / full_scale + 0.3:.4g}" for at, value in zip(x[::-1], low[::-1], strict=True)]
    return f"M{' '.join(there)} {' '.join(back)}Z"


def nice_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, and what to say of it."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """How often values fall into bars of equal width, drawn in `PLOT_WIDTH` × `PLOT_HEIGHT`."""

    title: str
    unit: str
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mean: Tick
    median: Tick
    says: str
    """All of it in a sentence."""


def histogram(title: str, unit: str, values: Float[np.ndarray, "C"], least_step: float) -> Histogram:
    """The histogram of at least one value (not negative) in bars of `least_step` or a wider round number."""
    step = nice_step(max(least_step, float(values.max()) / MOST_BARS))
    # The rounding: 0.3 / 0.1 is a little less than 3.
    counts = np.bincount(np.floor(np.round(values / step, 6)).astype(int))
    x_scale = (PLOT_WIDTH - LEFT - RIGHT) / (len(counts) * step)
    y_step = nice_step(max(counts.max() / 4, 1))
    y_scale = (PLOT_HEIGHT - TOP - BOTTOM) / (math.ceil(counts.max() / y_step) * y_step)
    bottom = PLOT_HEIGHT - BOTTOM
    bars = [
        Bar(
            x=round(LEFT + position * step * x_scale + 0.5, 2),
            y=round(bottom - count * y_scale, 2),
            width=round(max(step * x_scale - 1, 0.5), 2),
            height=round(count * y_scale, 2),
            says=f"{position * step:g} to {(position + 1) * step:g} {unit}: {count:,}",
        )
        for position, count in enumerate(counts.tolist())
        if count
    ]
    x_step = nice_step(len(counts) * step / 8)
    x_marks = np.arange(0.0, len(counts) * step * (1 + 1e-9), x_step)
    y_marks = y_step * np.arange(math.ceil(counts.max() / y_step) + 1)
    low, median, high = np.percentile(values, [5, 50, 95])
    mean = float(values.mean())
    return Histogram(
        title=title,
        unit=unit,
        bars=bars,
        x_ticks=[Tick(round(LEFT + mark * x_scale, 2), f"{mark:g}") for mark in x_marks.tolist()],
        y_ticks=[Tick(round(bottom - mark * y_scale, 2), _short(mark)) for mark in y_marks.tolist()],
        mean=Tick(round(LEFT + mean * x_scale, 2), f"{_say(mean)} {unit}"),
        median=Tick(round(LEFT + median * x_scale, 2), f"{_say(median)} {unit}"),
        says=f"{len(values):,} clips: 9 in 10 have {_say(low)} to {_say(high)} {unit}, at most {_say(values.max())}",
    )


def _say(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _short(count: float) -> str:
    """A count on an axis: 500, 2,000, 12k."""
    return f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,g}k"


def time_ticks(seconds: float, most: int = 8) -> list[Tick]:
    """Round seconds up to `seconds` and where they stand, in percent."""
    step = nice_step(seconds / most)
    marks: Sequence[float] = np.arange(0.0, 0.95 * seconds, step).tolist()  # a label at the very end would stick out
    return [Tick(round(100 * mark / seconds, 3), f"{mark:g}") for mark in marks]


def short_speaker(speaker: str) -> str:
    """The beginning of a speaker's id."""
    return speaker[:SPEAKER_LETTERS] + ("…" if len(speaker) > SPEAKER_LETTERS else "")
