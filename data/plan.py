"""What a featurize run will do, settled before any work: its settings, its shards, and the room they take.

The plan depends on the corpus and the settings alone, never on the number of workers, so neither do the bytes. Two sets
of shards are the same exactly if their settings are.
"""

import hashlib
import re
import shutil
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile
from tokenizers import Tokenizer

from data.augment import Recipe
from data.clips import Clip, ClipError, Split
from data.errors import UserError
from data.log_mel import FRAMES_PER_SECOND, HOP_LENGTH, N_FFT, SAMPLE_RATE
from data.records import FORMAT_VERSION
from data.shard_jobs import ShardJob

RECORDS_PER_SHARD = 2400  # × 43 kB, a Common Voice clip's mean: about 100 MB
FEWEST_SHARDS = 16  # a small corpus is still split this far, so that many workers can share it …
FEWEST_RECORDS = 50  # … but not into shards smaller than this
RECORD_OVERHEAD = 400  # bytes beside the features: names, framing, sentence, client_id
PROBED_CLIPS = 64  # their mean duration is within 4 % for Common Voice, whose clips deviate by a third of the mean
UNITS = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "ki": 2**10,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


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
        fields = {name: value for name, value in asdict(self).items() if name != "n_mels"}
        recipe = {name: list(value) if isinstance(value, tuple) else value for name, value in fields["recipe"].items()}
        return {"format_version": FORMAT_VERSION, **fields, "recipe": recipe, "features": features}


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
    """The settings of a run over `split` (the TSV called `name`), checked."""
    language = language or split.language
    if language is None:
        raise UserError(f"{split.root}: {name} does not say one language in a `locale` column: give --language")
    content = tokenizer_file.read_bytes()
    if Tokenizer.from_file(str(tokenizer_file)).token_to_id(f"<|{language}|>") is None:
        raise UserError(f"language {language!r} is not one of Whisper's: {tokenizer_file} has no token <|{language}|>")
    if copies < 0:
        raise UserError(f"copies is {copies}; it takes 0 (clean only) or more")
    corpus = hashlib.sha256()
    for clip in split.clips:
        corpus.update(f"{clip.id}\t{clip.sentence}\t{clip.speaker}\n".encode())
    return Settings(
        split=name,
        language=language,
        clips=len(split.clips),
        clips_sha256=corpus.hexdigest(),
        tokenizer_sha256=hashlib.sha256(content).hexdigest(),
        n_mels=n_mels,
        recipe=recipe,
        copies=copies if recipe.name != "none" else 0,
        seed=seed,
    )


def differences(there: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """What `asked` has otherwise than `there`, one phrase each; keys that only `there` has are not settings."""
    found = []
    for name, value in asked.items():
        if isinstance(value, dict) and isinstance(there.get(name), dict):
            found += differences(there[name], value, f"{prefix}{name}.")
        elif there.get(name) != value:
            found.append(f"{prefix}{name} is {there.get(name)!r} there, {value!r} asked")
    return found


def plan_shards(folder: Path, clips: list[Clip], settings: Settings, tokenizer_file: Path) -> list[ShardJob]:
    """The jobs that write `clips` into shards of equal numbers of clips."""
    records = len(clips) * (1 + settings.copies)
    count = max(-(-records // RECORDS_PER_SHARD), min(FEWEST_SHARDS, records // FEWEST_RECORDS), 1)
    count = min(count, len(clips))
    edges = [len(clips) * number // count for number in range(count + 1)]
    return [
        ShardJob(
            path=folder / f"{settings.split}-{number:05d}-of-{count:05d}.tfrecord",
            clips=tuple(clips[edges[number] : edges[number + 1]]),
            tokenizer_file=tokenizer_file,
            n_mels=settings.n_mels,
            recipe=settings.recipe,
            copies=settings.copies,
            seed=settings.seed,
        )
        for number in range(count)
    ]


def estimate_seconds(split: Split) -> float:
    """Seconds of speech in `split`: as its source tells, or else from some clips' headers."""
    known = [clip.seconds for clip in split.clips if clip.seconds is not None]
    if not known:
        step = -(-len(split.clips) // PROBED_CLIPS) if split.random_access else 1
        probed = split.clips[::step][:PROBED_CLIPS]
        known = [seconds for clip in probed if (seconds := duration(clip)) is not None]
    return sum(known) / max(len(known), 1) * len(split.clips)


def duration(clip: Clip) -> float | None:
    """Seconds of `clip` by its header; None if it cannot be opened, which the run itself will report."""
    if clip.length is not None:
        return clip.length
    try:
        audio = clip.audio.load()
        return float(soundfile.info(BytesIO(audio) if isinstance(audio, bytes) else audio).duration) - clip.start
    except (soundfile.SoundFileError, ClipError):
        return None


def estimate_bytes(seconds: float, settings: Settings) -> int:
    """Bytes of the shards of `seconds` of speech."""
    per_copy = seconds * FRAMES_PER_SECOND * settings.n_mels + settings.clips * RECORD_OVERHEAD
    return int(per_copy * (1 + settings.copies))


def check_room(estimated: int, present: int, budget: int, folder: Path) -> None:
    """Stop unless `estimated` bytes, of which `present` are there already, fit the budget and the disk of `folder`."""
    if estimated > budget:
        raise UserError(
            f"the shards would take about {say_bytes(estimated)}, the budget is {say_bytes(budget)}: "
            "raise --budget, or lower --copies or --limit"
        )
    free = shutil.disk_usage(folder).free
    if estimated - present > free:
        raise UserError(
            f"the shards need about {say_bytes(estimated - present)} more, "
            f"the disk of {folder} has {say_bytes(free)} free: make room, or lower --copies or --limit"
        )


def parse_bytes(text: str) -> int:
    """Bytes from `200GB`, `1.5 TB`, `300MiB` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[kKMGT]i?)?)B?\s*", text, re.ASCII)
    if match is None:
        raise UserError(f"budget {text!r} is not a size; write for example 200GB, 500MB or 1TiB")
    return int(float(match[1]) * UNITS[match[2]])


def say_bytes(count: int) -> str:
    """`count` for people: 7.2 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
