"""What a featurize run will do, settled before any work: its settings, its shards, and the room they take.

The plan depends on the corpus and the settings alone, never on the number of workers, so neither do the bytes. Two sets
of shards are the same exactly if their settings are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from data.augment import Recipe
from data.clips import Split
from data.errors import UserError
from data.log_mel import HOP_LENGTH, N_FFT, SAMPLE_RATE
from data.set_files import FORMAT_VERSION
from data.shard_jobs import ShardJob
from data.tokens import parse_tokenizer

UNFINISHED = ".settings.json"  # the settings of a set that is not finished yet
TOKENIZER = ".tokenizer.json"  # in the folder of unfinished shards, where every worker sees it
RECORDS_PER_SHARD = 2400  # × 43 kB, a Common Voice clip's mean: about 100 MB
FEWEST_SHARDS = 16  # a small corpus is still split this far, so that many workers can share it …
FEWEST_RECORDS = 50  # … but not into shards smaller than this


@dataclass(frozen=True)
class Settings:
    """All that decides a set of shards' bytes; kept in its manifest."""

    split: str
    language: str
    clips: int
    clips_sha256: str
    """Checksum over the clips' ids, sentences and speakers, in order."""
    tokenizer_sha256: str
    n_mels: int
    recipe: Recipe
    copies: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """The manifest's settings: these, and the constants of the format."""
        features = {"sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop_length": HOP_LENGTH, "n_mels": self.n_mels}
        recipe = self.recipe.as_json()
        rest = {name: value for name, value in vars(self).items() if name not in ("n_mels", "recipe")}
        return {"format_version": FORMAT_VERSION, **rest, "recipe": recipe, "features": features}


def make_settings(
    split: Split,
    name: str,
    language: str | None,
    tokenizer_file: Path,
    n_mels: int,
    recipe: Recipe,
    copies: int,
    seed: int,
) -> Settings:
    """The settings of a run over `split` (which the user calls `name`), checked."""
    language = language or split.language
    if language is None:
        raise UserError(f"{split.root}: {name} does not say one language in a `locale` column: give --language")
    content = tokenizer_file.read_text(encoding="utf-8")
    if parse_tokenizer(content).token_to_id(f"<|{language}|>") is None:
        raise UserError(f"language {language!r} is not one of Whisper's: {tokenizer_file} has no token <|{language}|>")
    corpus = hashlib.sha256()
    for clip in split.clips:
        corpus.update(f"{clip.id}\t{clip.start}\t{clip.length}\t{clip.sentence}\t{clip.speaker}\n".encode())
    return Settings(
        split=name,
        language=language,
        clips=len(split.clips),
        clips_sha256=corpus.hexdigest(),
        tokenizer_sha256=hashlib.sha256(content.encode()).hexdigest(),
        n_mels=n_mels,
        recipe=recipe,
        copies=copies if recipe.name != "none" else 0,
        seed=seed,
    )


def differences(there: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """What `asked` has otherwise than `there`, one phrase each; keys that only `there` has are not settings."""
    if "name" in asked and there.get("name") != asked["name"]:
        return [f"{prefix}name is {there.get('name')!r} there, {asked['name']!r} asked"]
    found = []
    for name, value in asked.items():
        if isinstance(value, dict) and isinstance(there.get(name), dict):
            found += differences(there[name], value, f"{prefix}{name}.")
        elif there.get(name) != value:
            found.append(f"{prefix}{name} is {there.get(name)!r} there, {value!r} asked")
    return found


def plan_shards(folder: UPath, split: Split, settings: Settings) -> list[ShardJob]:
    """The jobs that write `split` into shards of equal numbers of clips in `folder`, which holds the tokenizer."""
    clips = split.clips
    records = len(clips) * (1 + settings.copies)
    count = max(-(-records // RECORDS_PER_SHARD), min(FEWEST_SHARDS, records // FEWEST_RECORDS), 1)
    count = min(count, len(clips))
    edges = [len(clips) * number // count for number in range(count + 1)]
    return [
        ShardJob(
            path=folder / f"{folder.name}-{number:05d}-of-{count:05d}.tfrecord",
            clips=tuple(clips[edges[number] : edges[number + 1]]),
            source=split.root,
            tokenizer_file=folder / TOKENIZER,
            n_mels=settings.n_mels,
            recipe=settings.recipe,
            copies=settings.copies,
            seed=settings.seed,
        )
        for number in range(count)
    ]
