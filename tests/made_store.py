"""A store of the daily loop with made days: what its stages would write, for tests of what is read of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import soundfile

from daily.store import FEATURES, PREDICTIONS, Store, create_store, write_table

FIRST = date(2026, 11, 1)
SAMPLE_RATE = 16_000
VOICES = {"lp_diphone": "female", "pc_diphone": "male"}
RECIPES = ("none", "standard")


@dataclass(frozen=True)
class Clip:
    """A clip of a day and what became of it; the defaults are a clip in which nothing is remarkable."""

    reference: str = "uno due tre quattro"
    hypothesis: str = "uno due tre quattro"
    errors: int = 0
    voice: str = "lp_diphone"
    recipe: str = "none"
    snr_db: float = 20.0
    confidence: float | None = 0.9

    @property
    def right(self) -> bool:
        return self.errors == 0


def day_of(number: int) -> str:
    """The day of that number, from 0."""
    return (FIRST + timedelta(days=number)).isoformat()


def made_store(folder: Path) -> Store:
    """A store without a day."""
    return create_store(folder, "it", "openai/whisper-base", 80, "0" * 64)


def add_day(store: Store, day: str, clips: Sequence[Clip], version: str = "1", is_heard: bool = True) -> None:
    """A day's audio and features, and what the champion heard."""
    folder = store.clips(day)
    folder.mkdir(parents=True)
    features, predictions = [], []
    for number, clip in enumerate(clips):
        clip_id = f"{day}-{number:03}.flac"
        tone_N = 0.1 * np.sin(2 * np.pi * 220 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(folder / clip_id, tone_N, SAMPLE_RATE)
        words, seconds = len(clip.reference.split()), 1.0 + 0.01 * number
        features.append(
            {
                "id": clip_id, "day": day, "source": "festival", "voice": clip.voice, "sex": VOICES.get(clip.voice, ""),
                "sentence": clip.reference, "words": words, "seconds": seconds, "snr_db": clip.snr_db,
                "words_per_second": words / seconds, "recipe": clip.recipe, "augmentations": "{}",
                "file": str((folder / clip_id).relative_to(store.folder)), "audio_sha256": "0" * 64,
            }
        )  # fmt: skip
        trusted = None if clip.confidence is None else clip.confidence >= 0.5
        predictions.append(
            {
                "id": clip_id, "day": day, "model_version": version, "reference": clip.reference,
                "hypothesis": clip.hypothesis, "words": words, "errors": clip.errors, "confidence": clip.confidence,
                "trusted": trusted, "right": clip.right, "bound": 0.0, "compression_ratio": 1.2,
            }
        )  # fmt: skip
    write_table(FEATURES, store.features(day), features)
    if is_heard:
        write_table(PREDICTIONS, store.predictions(day), predictions)


def drawn_clips(rng: np.random.Generator, count: int, error_rate: float, snr_db: float = 20.0) -> list[Clip]:
    """Clips of four words with independent errors, of both voices and recipes."""
    plain = Clip()
    clips = []
    for errors in rng.binomial(len(plain.reference.split()), error_rate, count).tolist():
        wrong = plain.reference.split()[errors:] + ["cinque"] * errors
        confidence = float(np.clip(rng.normal(0.3 if errors else 0.8, 0.2), 0, 1))
        voice, recipe = str(rng.choice(list(VOICES))), str(rng.choice(RECIPES))
        noisy = float(rng.normal(snr_db, 3.0))
        clips.append(
            replace(
                plain, hypothesis=" ".join(wrong), errors=errors, confidence=confidence, voice=voice, recipe=recipe,
                snr_db=noisy,
            )
        )  # fmt: skip
    return clips
