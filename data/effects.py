"""What can be done to a clip: one small frozen dataclass per transform, with its probability and its ranges.

A range is a field of type `Uniform`; its name, with the unit, is the drawn value's name in the shards' index. So a new
transform is one class: ranges, and `apply`. Applying draws only what the effect is made of (noise samples), from the
copy's own generator, and never clips.

Where audiomentations has an effect that depends on its parameters alone, it does the work (`PitchShift`,
`TimeStretch`, by Signalsmith's spectral method: as fast as librosa's phase vocoder, without its 30 s of compilation and
370 MB). Its noises draw float64 from NumPy's global state, which threads share; its filter is a float64 recursion that
delays and whose import takes a second of each worker; its rooms need pyroomacoustics. Those are ours, in float32.

Shapes: N samples at 16 kHz, K of a response, B blocks, L samples of a transform, H samples at 8 kHz.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float32

from data.errors import UserError
from data.log_mel import SAMPLE_RATE

Audio = Float32[np.ndarray, "N"]
Drawn = Mapping[str, float]
Limits = Mapping[str, tuple[float, float]]

DECIBELS = (-100.0, 100.0)  # all at once then leave a full-scale clip with squares that float32 holds
TELEPHONE_RATE = 8_000  # Hz
TELEPHONE_BAND = (300.0, 3400.0)  # Hz, 6 dB down: the band of a telephone channel (ITU-T G.712)
TELEPHONE_TAPS = 321  # at 16 kHz: a transition of 170 Hz, so that nothing above 4 kHz is left to fold back
MU_LAW_SCALE = np.float32(8192.0)  # G.711 counts in 14 bits
MU_LAW_BIAS = np.float32(33.0)
MU_LAW_MOST = np.float32(8158.0)  # the codec's overload, less one
SLOWEST_STRETCH = 0.5  # below it Signalsmith's phases are random, and no seed can be set
FIRST_REFLECTION = 40  # samples: 2.5 ms; what arrives earlier counts as direct sound


@dataclass(frozen=True)
class Uniform:
    """Any value between two is as likely as any other."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise UserError(f"{self} is not a range: low may not be above high, nor either infinite")

    def draw(self, rng: np.random.Generator) -> float:
        """A value rounded to a thousandth, so that the index tells it exactly."""
        return round(rng.uniform(self.low, self.high), 3)


@dataclass(frozen=True)
class Transform:
    """What every transform has: a probability, ranges (its fields of type `Uniform`), and `apply`."""

    probability: float
    """Of a copy getting it."""

    tempo: ClassVar[str | None] = None
    """The drawn value that the clip's duration is divided by."""
    limits: ClassVar[Limits] = {}
    """The least and the most that a range may hold, by its name."""

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if not 0 <= self.probability <= 1:
            raise UserError(f"{kind}: probability is {self.probability}; it takes 0 to 1")
        for name, (least, most) in self.limits.items():
            between = getattr(self, name)
            if not (isinstance(between, Uniform) and least <= between.low and between.high <= most):
                raise UserError(f"{kind}: {name} is {between}; it takes a Uniform within {least:g} to {most:g}")

    @property
    def ranges(self) -> dict[str, Uniform]:
        """The ranges by the names of what is drawn from them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Uniform)}

    def draw(self, rng: np.random.Generator) -> dict[str, float] | None:
        """What a copy gets, None for nothing; as many random numbers are taken either way."""
        chance = rng.random()
        values = {name: between.draw(rng) for name, between in self.ranges.items()}
        return values if chance < self.probability else None

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:
        """`audio_N` with the effect of the `drawn` values, in float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class Speed(Transform):
    """Tempo and pitch together, as played faster: Kaldi's speed perturbation (Ko et al., Interspeech 2015).

    The samples are changed before any other effect, by the resampling every clip goes through (`data.audio.resample`).
    """

    speed: Uniform
    tempo: ClassVar[str | None] = "speed"
    limits: ClassVar[Limits] = {"speed": (0.1, 10.0)}

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:  # noqa: ARG002
        return audio_N


@dataclass(frozen=True)
class TimeStretch(Transform):
    """Tempo without pitch, by audiomentations."""

    stretch_rate: Uniform
    """2 is twice as fast."""
    tempo: ClassVar[str | None] = "stretch_rate"
    limits: ClassVar[Limits] = {"stretch_rate": (SLOWEST_STRETCH, 10.0)}  # 10: audiomentations' own

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:  # noqa: ARG002
        import audiomentations  # a second, which only the recipes that need it spend

        rate = drawn["stretch_rate"]
        effect = audiomentations.TimeStretch(rate, rate, leave_length_unchanged=False, method="signalsmith_stretch")
        effect.parameters["rate"] = rate  # not drawn by the effect: that would be from Python's global state
        stretched_N: np.ndarray = effect.apply(audio_N, SAMPLE_RATE)
        return stretched_N


@dataclass(frozen=True)
class PitchShift(Transform):
    """Pitch without tempo, by audiomentations."""

    semitones: Uniform
    limits: ClassVar[Limits] = {"semitones": (-24.0, 24.0)}  # audiomentations' own

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:  # noqa: ARG002
        import audiomentations

        semitones = drawn["semitones"]
        effect = audiomentations.PitchShift(semitones, semitones, method="signalsmith_stretch")
        effect.parameters["num_semitones"] = semitones
        shifted_N: np.ndarray = effect.apply(audio_N, SAMPLE_RATE)
        return shifted_N


@dataclass(frozen=True)
class Gain(Transform):
    """Another level."""

    gain_db: Uniform
    limits: ClassVar[Limits] = {"gain_db": DECIBELS}

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:  # noqa: ARG002
        return audio_N * np.float32(amplitude(drawn["gain_db"]))


@dataclass(frozen=True)
class Noise(Transform):
    """White Gaussian noise of a standard deviation, whatever the clip's level: full scale is 1."""

    noise_amplitude: Uniform
    limits: ClassVar[Limits] = {"noise_amplitude": (0.0, 1000.0)}

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:
        return _add_noise(audio_N, drawn["noise_amplitude"], rng)


@dataclass(frozen=True)
class NoiseBySnr(Transform):
    """White Gaussian noise so many dB below the clip's mean power, its pauses included."""

    snr_db: Uniform
    limits: ClassVar[Limits] = {"snr_db": DECIBELS}

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:
        rms = math.sqrt(np.dot(audio_N, audio_N) / len(audio_N))
        return _add_noise(audio_N, rms * amplitude(-drawn["snr_db"]), rng)


@dataclass(frozen=True)
class Reverb(Transform):
    """A room: the direct sound as it is, and a tail of Gaussian noise that decays exponentially.

    Polack's model of late reverberation (1988); that simulated rooms serve as well as recorded ones is Ko et al.'s
    finding (ICASSP 2017). The direct sound keeps its place and level.
    """

    rt60_seconds: Uniform
    """Until the tail is 60 dB down."""
    direct_db: Uniform
    """The direct sound's energy over the tail's."""
    limits: ClassVar[Limits] = {"rt60_seconds": (0.001, 30.0), "direct_db": DECIBELS}  # drawn to a thousandth

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:
        return convolve(audio_N, room_response(drawn["rt60_seconds"], drawn["direct_db"], rng))


@dataclass(frozen=True)
class Telephone(Transform):
    """A fixed line: 300 to 3400 Hz, 8 kHz, and the eight bits of G.711's mu-law."""

    line_peak_db: Uniform
    """The loudest sample on the line, over the codec's full scale; the clip gets its own level back."""
    limits: ClassVar[Limits] = {"line_peak_db": DECIBELS}

    def apply(self, audio_N: Audio, drawn: Drawn, rng: np.random.Generator) -> Audio:  # noqa: ARG002
        line_H = convolve(audio_N, telephone_filter(), delay=TELEPHONE_TAPS // 2)[::2]
        peak = np.abs(line_H).max()
        if peak < np.finfo(np.float32).tiny:
            return np.zeros_like(audio_N)
        level = np.float32(amplitude(drawn["line_peak_db"])) / peak
        heard_N: np.ndarray = soxr.resample(mu_law(line_H * level), TELEPHONE_RATE, SAMPLE_RATE, quality="HQ")
        return heard_N[: len(audio_N)] / level


def amplitude(db: float) -> float:
    """The factor on samples that changes their level by `db`."""
    return 10.0 ** (db / 20.0)


def _add_noise(audio_N: Audio, deviation: float, rng: np.random.Generator) -> Audio:
    noise_N = rng.standard_normal(len(audio_N), dtype=np.float32)
    noise_N *= np.float32(deviation)
    noise_N += audio_N
    return noise_N


def room_response(rt60_seconds: float, direct_db: float, rng: np.random.Generator) -> Float32[np.ndarray, "K"]:
    """The response of a room at 16 kHz as long as its reverberation time: 1, a gap, and the tail."""
    response_K = rng.standard_normal(FIRST_REFLECTION + math.ceil(rt60_seconds * SAMPLE_RATE), dtype=np.float32)
    nepers_per_sample = math.log(10.0 ** (60.0 / 20.0)) / (rt60_seconds * SAMPLE_RATE)
    response_K *= np.exp(np.arange(len(response_K), dtype=np.float32) * np.float32(-nepers_per_sample))
    response_K[:FIRST_REFLECTION] = 0.0
    response_K *= np.float32(amplitude(-direct_db)) / np.sqrt(np.dot(response_K, response_K))
    response_K[0] = 1.0
    return response_K


def convolve(audio_N: Audio, response_K: Float32[np.ndarray, "K"], delay: int = 0) -> Audio:
    """`audio_N` through a filter, as long as it was, `delay` samples (at most K − 1) earlier than the filter gives it.

    Overlap-save in blocks of three to six responses: they stay in the cache, and SciPy transforms several at a time.
    """
    n_taps = len(response_K)
    size = min(1 << (3 * n_taps - 1).bit_length(), scipy.fft.next_fast_len(len(audio_N) + 2 * n_taps, real=True))
    step = size - n_taps + 1  # samples of a block that are not wrapped around
    n_blocks = -(-len(audio_N) // step)
    padded = np.zeros((n_blocks - 1) * step + size, np.float32)
    first = n_taps - 1 - delay
    padded[first : first + len(audio_N)] = audio_N[: len(padded) - first]
    blocks_BL = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    spectrum = scipy.fft.rfft(blocks_BL)
    spectrum *= scipy.fft.rfft(response_K, size)
    filtered_BL = scipy.fft.irfft(spectrum, size, overwrite_x=True)
    filtered_N: np.ndarray = filtered_BL[:, n_taps - 1 :].reshape(-1)[: len(audio_N)]
    return filtered_N


@cache
def telephone_filter() -> Float32[np.ndarray, "K"]:
    """A linear-phase band-pass at 16 kHz: a difference of two sincs under a Hamming window."""
    time_K = np.arange(TELEPHONE_TAPS) - TELEPHONE_TAPS // 2
    low, high = (2.0 * edge / SAMPLE_RATE for edge in TELEPHONE_BAND)
    taps_K = (high * np.sinc(high * time_K) - low * np.sinc(low * time_K)) * np.hamming(TELEPHONE_TAPS)
    return taps_K.astype(np.float32)


def mu_law(audio_H: Float32[np.ndarray, "H"]) -> Float32[np.ndarray, "H"]:
    """What comes out of G.711's mu-law for samples within ±1; louder ones come out as the loudest there is.

    The code's sign, three bits of segment and four of step are, once 33 is added to a magnitude of 14 bits, a float32's
    sign, exponent and upper four bits of mantissa. So coding clears the other bits, and decoding sets half a step.
    """
    biased_H = np.minimum(np.abs(audio_H) * MU_LAW_SCALE, MU_LAW_MOST) + MU_LAW_BIAS
    bits_H = biased_H.view(np.uint32)
    bits_H &= np.uint32(0xFFF80000)
    bits_H |= np.uint32(0x00040000)
    biased_H -= MU_LAW_BIAS
    biased_H /= MU_LAW_SCALE
    return np.copysign(biased_H, audio_H)
