"""What a featurize run will do: its settings from the command line, the source and the model, told before any work."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from upath import UPath

from data.augment import find_recipe
from data.budget import (
    bytes_per_copy,
    copies_that_fit,
    estimate_seconds,
    free_bytes,
    parse_bytes,
    say_bytes,
    say_seconds,
    seconds_per_clip,
)
from data.clips import Split
from data.errors import UserError
from data.model_files import model_file, read_n_mels
from data.plan import UNFINISHED, Settings, make_settings, plan_shards
from data.pool import available_cores
from data.set_files import MANIFEST
from data.shard_jobs import ShardJob
from data.sources import SourceOptions, read_split
from data.split_names import folder_name, parse_split
from data.storage import open_folder, read_json
from data.tokens import parse_tokenizer

KEPT_FREE = 0.05  # of the disk, when the number of copies is chosen to fit
TIMED_CLIPS = 64


@dataclass(frozen=True)
class FeaturizeConfig:
    """Turn one split of a corpus into shards for training."""

    source: str
    """Common Voice folder or tar.gz, Hugging Face dataset, folder with metadata, or manifest; a path may be s3://, gs://."""
    shards: str
    """Where the shards go, into a folder named as the split; may be s3://, gs://."""
    model: str
    """Hugging Face Whisper folder or hub name: decides the tokenizer and the mel bins."""
    split: str = "train"
    """Which split: train, train+validation, train[:10%] and so on."""
    recipe: str = "standard"
    """Augmentation of the copies: standard, lab, none, or your own as module:NAME."""
    copies: int | Literal["auto"] = 1
    """Augmented copies beside the clean one; auto: as many as fit the budget and the disk."""
    budget: str = "200GB"
    """Most bytes the shards may take."""
    max_rejected: str = "5%"
    """Stop when more than this share of the clips cannot be used."""
    workers: int = available_cores()
    """Processes, one thread each; the result does not depend on it."""
    scheduler: str | None = None
    """Address of a Dask scheduler, to work on its cluster instead of in processes here."""
    seed: int = 0
    """Of the augmentation."""
    language: str | None = None
    """Whisper's code, for example it; by default what the source says."""
    limit: int | None = None
    """Take only the first clips of the split."""
    plan: bool = False
    """Only say what would be done and what it would take."""
    source_options: Annotated[SourceOptions, tyro.conf.arg(name="")] = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class Run:
    """All that is settled before any work."""

    folder: UPath
    split: Split
    is_part: bool
    """Whether the clips are only some of the source's; `split.rejected` are those of all."""
    settings: Settings
    tokenizer_file: Path
    jobs: list[ShardJob]
    budget: int
    speech_seconds: float
    copy_bytes: int

    @property
    def estimated_bytes(self) -> int:
        return self.copy_bytes * (1 + self.settings.copies)


def prepare(config: FeaturizeConfig) -> Run:
    """Read the source and settle what `config` asks for; nothing is written but an archive's index."""
    budget = parse_bytes(config.budget)
    for name, value, least in (("workers", config.workers, 1), ("limit", config.limit, 1), ("seed", config.seed, 0)):
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; it takes {least} or more")
    if config.copies != "auto" and config.copies < 0:
        raise UserError(f"copies is {config.copies}; it takes 0 (clean only) or more, or auto")
    confidence = config.source_options.min_confidence
    if confidence is not None and not 0 <= confidence <= 1:
        raise UserError(f"min-confidence is {confidence:g}; it takes 0 to 1")
    recipe = find_recipe(config.recipe)
    shards = open_folder(config.shards)
    folder = shards / folder_name(config.split)
    options = config.source_options
    if options.cache is None:
        options = replace(options, cache=str(shards / ".archives"))
    there = read_split(str(config.source), config.split, options)
    split = replace(there, clips=there.clips[: config.limit])
    sliced = any(part.start is not None or part.stop is not None for part in parse_split(config.split))
    is_part = sliced or len(split.clips) < len(there.clips)
    n_mels, tokenizer_file = read_n_mels(config.model), model_file(config.model, "tokenizer.json")
    speech = estimate_seconds(split)
    copy_bytes = bytes_per_copy(speech, len(split.clips), n_mels)
    copies = _auto_copies(folder, speech, copy_bytes, budget) if config.copies == "auto" else config.copies
    settings = make_settings(split, config.split, config.language, tokenizer_file, n_mels, recipe, copies, config.seed)
    jobs = plan_shards(folder, split, settings)
    return Run(folder, split, is_part, settings, tokenizer_file, jobs, budget, speech, copy_bytes)


def _auto_copies(folder: UPath, speech_seconds: float, copy_bytes: int, budget: int) -> int:
    """As many as fit, or what an earlier run settled on: what it wrote has changed what would fit now."""
    for name in (MANIFEST, UNFINISHED):
        if (folder / name).is_file() and isinstance(copies := read_json(folder / name).get("copies"), int):
            return copies
    if not speech_seconds:
        raise UserError(
            "copies is auto, but none of the clips looked at tells how long it is, or can be used: give a number"
        )
    return max(copies_that_fit(copy_bytes, budget, free_bytes(folder) * (1 - KEPT_FREE)), 0)


def say_plan(run: Run, config: FeaturizeConfig) -> None:
    """Tell what `run` will do and take, after timing a few clips."""
    clips, settings = len(run.split.clips), run.settings
    free = free_bytes(run.folder)
    fitting = copies_that_fit(run.copy_bytes, run.budget, free)
    seconds = clips * seconds_per_clip(_timed_job(run), parse_tokenizer(run.tokenizer_file.read_text(encoding="utf-8")))
    at_once = min(config.workers, available_cores(), len(run.jobs))
    place = "on one core" if config.scheduler else f"with {config.workers} workers"
    print(f"{clips:,} clips, about {run.speech_seconds / 3600:.2f} h of speech in {settings.language}")
    print(
        f"a copy takes about {say_bytes(run.copy_bytes)}; the clean one and {settings.copies} augmented "
        f"({settings.recipe.name}): about {say_bytes(run.estimated_bytes)} in {len(run.jobs)} shards"
    )
    room = f"{say_bytes(run.budget)} budget, {'no limit' if free == float('inf') else say_bytes(int(free))} on disk"
    print(f"room: {room}; up to {max(fitting, 0):,} augmented copies fit")
    print(f"time: about {say_seconds(seconds / (1 if config.scheduler else at_once))} {place}")


def _timed_job(run: Run) -> ShardJob:
    """The first shard's settings with clips from all over the split, where they can be had."""
    step = -(-len(run.split.clips) // TIMED_CLIPS) if run.split.random_access else 1
    return replace(run.jobs[0], clips=tuple(run.split.clips[::step][:TIMED_CLIPS]))
