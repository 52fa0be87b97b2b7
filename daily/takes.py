"""A take is speech with what is known of it, before it is features; a split's takes become a folder of FLAC files.

Decision: the recipe is applied here and not by the featurizer, so that what the champion hears, what the monitor plays
and what the shards hold is one and the same sound. A folder appears whole, by rename, and is a source of
`data.featurize` like any other: FLAC files beside a metadata.csv.

Shapes: N samples at 16 kHz.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from data.audio import resample
from data.augment import Recipe, augment, draw, generator
from data.log_mel import N_SAMPLES, SAMPLE_RATE, WINDOW_SECONDS
from data.storage import writing_to

METADATA = "metadata.csv"
COLUMNS = (
    "file_name",
    "sentence",
    "speaker",
    "locale",
    "source",
    "sex",
    "recipe",
    "augmentations",
    "audio_sha256",
)
FULL_SCALE = 0.99
RECIPE, EFFECTS = 1, 2
"""What randomness is for, beside (seed, clip id); a clip's voice is drawn with 0."""


@dataclass(frozen=True, eq=False)
class Take:
    """One recording or synthesis, and what was said."""

    audio_N: Float32[np.ndarray, "N"]
    sentence: str
    source: str
    """festival or recorded."""
    voice: str
    sex: str
    """female, male, or empty."""
    audio_sha256: str
    """Of the encoded audio."""


def take_id(split: str, number: int) -> str:
    """The id, and file name, of a split's take: unique in the store."""
    return f"{split}-{number:05d}.flac"


def write_takes(
    folder: Path, takes: Iterable[tuple[str, Take]], language: str, recipes: list[Recipe], seed: int
) -> int:
    """`takes` with their ids as the folder `folder`, each synthetic one by a drawn recipe; how many there are.

    A recording is kept as it is: it has a room and a microphone of its own.
    """
    partial = partial_folder(folder)
    with writing_to(folder), (partial / METADATA).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        written = 0
        for name, take in takes:
            recipe, audio_N, drawn = _treated(take, name, recipes, seed)
            write_clip(partial / name, audio_N)
            writer.writerow(
                {
                    "file_name": name,
                    "sentence": take.sentence,
                    "speaker": take.voice,
                    "locale": language,
                    "source": take.source,
                    "sex": take.sex,
                    "recipe": recipe,
                    "augmentations": drawn,
                    "audio_sha256": take.audio_sha256,
                }
            )
            written += 1
    with writing_to(folder):
        if written:
            os.sync()  # a power failure must not leave the folder without its sound
            partial.replace(folder)
        else:
            shutil.rmtree(partial)
    return written


def write_clip(path: Path, audio_N: Float32[np.ndarray, "N"]) -> None:
    """Write sound as FLAC; `OSError` where the disk is full, which libsndfile would not say."""
    content = io.BytesIO()
    soundfile.write(content, audio_N, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(content.getbuffer())


def partial_folder(folder: Path) -> Path:
    """An empty folder in which the takes of `folder` are made; what a killed run left there is gone."""
    partial = folder.with_name(f".{folder.name}.partial")
    with writing_to(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of the folder's metadata.csv by clip id."""
    with (folder / METADATA).open(encoding="utf-8", newline="") as file:
        return {row["file_name"]: row for row in csv.DictReader(file)}


def _treated(take: Take, name: str, recipes: list[Recipe], seed: int) -> tuple[str, Float32[np.ndarray, "K"], str]:
    """The recipe's name, the sound after it, and what it drew as JSON."""
    if take.source != "festival":
        return "none", take.audio_N, ""
    recipe = recipes[generator(seed, RECIPE, name).integers(len(recipes))]
    rng = generator(seed, EFFECTS, name)
    drawn = draw(recipe, rng, slowest=len(take.audio_N) / SAMPLE_RATE / WINDOW_SECONDS)
    audio_N = resample(take.audio_N, SAMPLE_RATE, drawn.get("speed", 1.0))
    audio_N = augment(audio_N, recipe, drawn, rng)[:N_SAMPLES]
    peak = float(np.abs(audio_N).max())
    if peak > FULL_SCALE:  # turned down rather than clipped: clipping is no effect of any recipe
        audio_N = audio_N * np.float32(FULL_SCALE / peak)
    return recipe.name, audio_N, json.dumps(drawn) if drawn else ""
