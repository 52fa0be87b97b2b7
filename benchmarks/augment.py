"""What an augmented copy costs beside a clean one: each transform, each recipe's mean, and audiomentations' own.

One clip of the sample corpus, of Common Voice's mean duration, one thread. A clean copy is decoded, resampled, turned
into log-mel and quantized; a copy by a recipe is all that, resampled at its drawn speed and changed by its transforms.
Both decode here, though a run decodes once for all copies of a clip: `ratio` is what a whole copy costs of a clean one.
What is compared is timed in turn, so that whatever else the machine does falls on all of it, and the median counts.

    make bench-augment [ARGS="--copies 200"]
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in a worker of featurize; OpenBLAS heeds both
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import audiomentations
import numpy as np
import tyro

from benchmarks.result import result_line
from data.audio import decode, resample
from data.augment import RECIPES, Recipe, augment, draw, generator
from data.effects import Transform
from data.errors import command
from data.log_mel import SAMPLE_RATE, log_mel, quantize

CLIP = Path(__file__).parent.parent / "sample/it/clips/cvlocal_it_10000538.mp3"  # 5.56 s, 48 kHz, 65 kbit/s
N_MELS = 80
Work = Callable[[], object]


@dataclass(frozen=True)
class AugmentBenchmark:
    """Milliseconds for one clip."""

    copies: int = 60
    """Of each recipe, for its mean over what is drawn."""
    repeats: int = 7
    """Timed runs of each copy, after one that is not; the median counts."""


def milliseconds(work: dict[str, Work], repeats: int) -> dict[str, float]:
    """The median time of each of `work`, done in turn."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(1 + repeats):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in times.items()}


def kernels() -> dict[str, Work]:
    """The stages of a clean copy."""
    native_N, rate = decode(CLIP)
    audio_N = resample(native_N, rate)
    log_mel_FM = log_mel(audio_N, N_MELS)
    return {
        "decode": partial(decode, CLIP),
        "resample": partial(resample, native_N, rate),
        "resample at another speed": partial(resample, native_N, rate, 0.967),
        "log-mel": partial(log_mel, audio_N, N_MELS),
        "quantize": partial(quantize, log_mel_FM),
    }


def make_copy(recipe: Recipe, number: int) -> object:
    """The features of copy `number`, from the file on."""
    native_N, rate = decode(CLIP)
    rng = generator(0, number, "clip.mp3")
    drawn = draw(recipe, rng)
    audio_N = augment(resample(native_N, rate, drawn.get("speed", 1.0)), recipe, drawn, rng)
    return quantize(log_mel(audio_N, N_MELS))


def copies(count: int, repeats: int) -> dict[str, float]:
    """The mean cost of a copy by each recipe."""
    each = [
        milliseconds({name: partial(make_copy, recipe, number) for name, recipe in RECIPES.items()}, repeats)
        for number in range(count)
    ]
    return {name: statistics.mean(taken[name] for taken in each) for name in RECIPES}


def transforms(audio_N: np.ndarray) -> dict[str, Work]:
    """Every transform of every recipe, in the middle of its ranges; the speed is the resampling's."""

    def run(transform: Transform) -> Work:
        drawn = {name: (between.low + between.high) / 2 for name, between in transform.ranges.items()}
        return partial(transform.apply, audio_N, drawn, np.random.default_rng(0))

    found = (transform for recipe in RECIPES.values() for transform in recipe.transforms)
    return {type(transform).__name__: run(transform) for transform in found if type(transform).__name__ != "Speed"}


def peers(audio_N: np.ndarray) -> dict[str, Work]:
    """audiomentations' transforms nearest to ours, by our transforms' names (a telephone's filter only)."""
    found = {
        "NoiseBySnr": audiomentations.AddGaussianSNR(20.0, 20.0, p=1.0),
        "Telephone": audiomentations.BandPassFilter(1850.0, 1850.0, 1.67, 1.67, 24, 24, p=1.0),
        "Gain": audiomentations.Gain(0.0, 0.0, p=1.0),
        "Noise": audiomentations.AddGaussianNoise(0.05, 0.05, p=1.0),
        "PitchShift": audiomentations.PitchShift(0.05, 0.05, p=1.0),
        "TimeStretch": audiomentations.TimeStretch(1.0, 1.0, leave_length_unchanged=False, p=1.0),
    }
    return {f"{name} of audiomentations": partial(peer, audio_N, SAMPLE_RATE) for name, peer in found.items()}


@command
def main() -> None:
    config = tyro.cli(AugmentBenchmark)
    audio_N = resample(*decode(CLIP))
    print(f"milliseconds for a clip of {len(audio_N) / SAMPLE_RATE:.2f} s, one thread")
    for name, taken in milliseconds(kernels(), 5 * config.repeats).items():
        print(f"  {name:32}{taken:8.2f}")
    ours = transforms(audio_N)
    times = milliseconds({**ours, **peers(audio_N)}, 3 * config.repeats)
    print(f"{'transform':34}{'ours':>8}{'audiomentations':>18}")
    for name in ours:
        peer = times.get(f"{name} of audiomentations")
        print(f"  {name:32}{times[name]:8.2f}{'none' if peer is None else f'{peer:.2f}':>18}")
    each = copies(config.copies, config.repeats)
    print(f"{'whole copies, mean over draws':34}{'ms':>8}{'of a clean one':>18}")
    for name, taken in each.items():
        print(f"  {name:32}{taken:8.2f}{taken / each['none']:18.2f}")
    print(
        result_line("augment: a standard copy, a clean one", "ms", each["standard"], each["none"], less_is_better=True)
    )


if __name__ == "__main__":
    main()
