"""The command `python -m data.preview`: one HTML page to see and hear what training will be given.

Some clips with their augmented copies, made by the very functions that write shards and shown from the 8 bits that
shards hold, and the lengths, tokens and rejections of many. The page holds everything itself and asks nothing of any
server: it can be mailed, archived beside a run, or opened from an unplugged disk.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float32
from tokenizers import Tokenizer
from tqdm import tqdm
from upath import UPath

from data.audio import decode
from data.augment import find_recipe
from data.budget import say_bytes
from data.clips import Clip, ClipError, Split
from data.errors import UserError, command
from data.model_files import model_file, read_n_mels
from data.pages import write_page
from data.pictures import Histogram, Tick, data_uri, envelope, flac, histogram, log_mel_png, short_speaker, time_ticks
from data.records import Record, Shards
from data.set_files import MANIFEST
from data.shard_jobs import ShardJob, each_record, make_copy
from data.sources import SourceOptions, read_split
from data.split_names import folder_name
from data.storage import open_folder, reading
from data.survey import Survey, of_sample, of_shards, reasons, spread
from data.tokens import load_tokenizer

TEMPLATE = Path(__file__).with_name("preview.html.jinja")
UNITS = {"db": "dB", "seconds": "s", "hz": "Hz"}
SPELLINGS = {"snr": "SNR", "rt60": "RT60"}


@dataclass(frozen=True)
class PreviewConfig:
    """Write one self-contained HTML page of some clips and their augmented copies, with histograms of many."""

    source: str
    """Common Voice folder or tar.gz, Hugging Face dataset, folder with metadata, or manifest."""
    model: str
    """Hugging Face Whisper folder or hub name: decides the tokenizer and the mel bins."""
    split: str = "train"
    """Which split: train, train+validation, train[:10%] and so on."""
    recipe: str = "standard"
    """Augmentation of the copies: standard, lab, none, or your own as module:NAME."""
    copies: int = 2
    """Augmented copies beside the clean one."""
    clips: int = 8
    """Clips to show, from all over the split."""
    sample: int = 500
    """Clips to look at for the histograms, from all over the split."""
    shards: str | None = None
    """Where featurize wrote; if the split is finished there, the histograms are of all its clips."""
    output: str = "preview.html"
    """The page."""
    seed: int = 0
    """Of the augmentation; with featurize's the copies are the same as its."""
    source_options: Annotated[SourceOptions, tyro.conf.arg(name="")] = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class Version:
    """A clip as recorded, or one of its copies."""

    label: str
    drawn: list[str]
    seconds: float
    width: float
    """Percent of the longest version."""
    ticks: list[Tick]
    peak: str
    quieter: str
    """How much quieter the player plays it, where it would not fit."""
    waveform: str
    log_mel: str
    frames: int
    n_mels: int
    audio: str


@dataclass(frozen=True)
class Card:
    """A clip with all its versions; `problem` if it can no longer be read."""

    clip: Clip
    speaker: str
    seconds: float
    tokens: int
    versions: list[Version]
    problem: str = ""


def preview(config: PreviewConfig) -> None:
    """Write the page that `config` asks for."""
    for name, least in (("copies", 0), ("clips", 1), ("sample", 1)):
        if getattr(config, name) < least:
            raise UserError(f"{name} is {getattr(config, name)}; it takes {least} or more")
    split = read_split(config.source, config.split, _source_options(config))
    job, tokenizer = shard_job(config, split), load_tokenizer(config.model)
    shards = _finished_shards(config)
    looked_at = [] if shards else spread(_within_reach(split, config), config.sample)
    with tqdm(total=len(looked_at) + config.clips, unit="clip", dynamic_ncols=True) as bar:
        survey = of_shards(shards, split) if shards else of_sample(looked_at, split, job, tokenizer, bar.update)
        if not survey.usable:
            raise UserError(_say_unusable(config, shards, survey))
        shown = spread(survey.usable[: None if split.random_access else config.sample], config.clips)
        cards = _cards(shown, job, tokenizer, bar.update)
        size = _write_page(config, split, survey, job, cards)
    clips = f"{len(shown)} clip{'' if len(shown) == 1 else 's'}"
    versions = f"{1 + job.copies} version{'s' if job.copies else ''}"
    print(f"{config.output}: {clips} in {versions}, {say_bytes(size)}; open it in a browser")


def _source_options(config: PreviewConfig) -> SourceOptions:
    """With an archive's seek points where featurize has them, if that is known."""
    if config.source_options.cache is None and config.shards is not None:
        return replace(config.source_options, cache=str(open_folder(config.shards) / ".archives"))
    return config.source_options


def shard_job(config: PreviewConfig, split: Split) -> ShardJob:
    """What featurize would do with the clips."""
    recipe = find_recipe(config.recipe)
    return ShardJob(
        path=UPath(config.output),
        clips=(),
        source=split.root,
        tokenizer_file=UPath(model_file(config.model, "tokenizer.json")),
        n_mels=read_n_mels(config.model),
        recipe=recipe,
        copies=config.copies if recipe.name != "none" else 0,
        seed=config.seed,
    )


def _finished_shards(config: PreviewConfig) -> Shards | None:
    if config.shards is None:
        return None
    folder = open_folder(config.shards) / folder_name(config.split)
    with reading(config.shards):
        return Shards(folder) if (folder / MANIFEST).is_file() else None


def _say_unusable(config: PreviewConfig, shards: Shards | None, survey: Survey) -> str:
    """Why there is no clip to show; what a finished set left out says nothing of the clips of another source."""
    if shards and len(survey.seconds):
        return (
            f"{shards.folder} holds none of the clips of {config.split} of {config.source}, but others: "
            "name the source it was made from, or leave --shards out"
        )
    why = ", ".join(f"{count} × {reason}" for reason, count, _ in reasons(survey.rejected))
    return f"no clip of {config.split} of {config.source} can be used: {why}"


def _within_reach(split: Split, config: PreviewConfig) -> list[Clip]:
    """The clips that may be looked at: the first ones, where reaching later ones means reading all before."""
    return split.clips if split.random_access else split.clips[: config.sample]


def _cards(clips: list[Clip], job: ShardJob, tokenizer: Tokenizer, advance: Callable[[], Any]) -> Iterator[Card]:
    """The cards one by one, so that one at a time is in memory."""
    for clip in clips:
        speaker = short_speaker(clip.speaker)
        try:
            card = _card(clip, speaker, job, tokenizer)
        except ClipError as error:  # it was there a minute ago, or when the shards were made
            card = Card(clip, speaker, 0.0, 0, [], str(error))
        yield card
        advance()


def _card(clip: Clip, speaker: str, job: ShardJob, tokenizer: Tokenizer) -> Card:
    """`clip` with its versions; `ClipError` if it cannot be used."""
    records = list(each_record(clip, job, tokenizer))
    native_N, rate = decode(clip.audio.load(), clip.start, clip.length, clip.id)
    audios = [make_copy(native_N, rate, record.copy, clip.id, job)[0] for record, _ in records]
    longest = max(record.seconds for record, _ in records)
    loudest = max(float(np.abs(audio_N).max()) for audio_N in audios) or 1.0
    versions = [
        _version(record, drawn, audio_N, longest, loudest)
        for (record, drawn), audio_N in zip(records, audios, strict=True)
    ]
    return Card(clip, speaker, records[0][0].seconds, len(records[0][0].tokens), versions)


def _version(record: Record, drawn: str, audio_N: Float32[np.ndarray, "N"], longest: float, loudest: float) -> Version:
    """What the page shows of `record` and the audio behind it, beside versions of `longest` seconds and `loudest`."""
    peak = float(np.abs(audio_N).max())
    frames, n_mels = record.log_mel_q.shape
    return Version(
        label=f"copy {record.copy}" if record.copy else "as recorded",
        drawn=say_drawn(drawn),
        seconds=record.seconds,
        width=round(100 * record.seconds / longest, 2),
        ticks=time_ticks(record.seconds),
        peak=_say_db(peak),
        quieter=_say_db(peak).lstrip("+") if peak > 1 else "",
        waveform=envelope(audio_N, loudest),
        log_mel=data_uri(log_mel_png(record.log_mel_q), "image/png"),
        frames=frames,
        n_mels=n_mels,
        audio=data_uri(flac(audio_N / np.float32(max(peak, 1.0))), "audio/flac"),
    )


def say_drawn(drawn: str) -> list[str]:
    """What was drawn for a copy (the index's JSON) for people: `gain −3.2 dB`."""
    said = []
    for name, value in (json.loads(drawn) if drawn else {}).items():
        *words, last = name.split("_")
        words, unit = (words, f" {UNITS[last]}") if last in UNITS and words else ([*words, last], "")
        said.append(f"{' '.join(SPELLINGS.get(word, word) for word in words)} {_say_number(value)}{unit}")
    return said


def _say_number(value: Any) -> str:
    return f"{value:.4g}".replace("-", "−") if isinstance(value, int | float) else str(value)


def _say_db(amplitude: float) -> str:
    return f"{20 * math.log10(amplitude):+.1f} dB".replace("-", "−") if amplitude else "−∞ dB"


def _write_page(config: PreviewConfig, split: Split, survey: Survey, job: ShardJob, cards: Iterator[Card]) -> int:
    """Write the page card by card; its bytes."""
    return write_page(
        config.output,
        TEMPLATE,
        config=config,
        split=split,
        survey=survey,
        job=job,
        cards=cards,
        tiles=_tiles(split, survey),
        settings=_settings(config, split, job),
        histograms=_histograms(survey),
        reasons=reasons(survey.rejected),
    )


def _tiles(split: Split, survey: Survey) -> list[tuple[str, str]]:
    """The few numbers to know first."""
    hours = float(survey.seconds.mean()) * len(split.clips) / 3600
    return [
        ("clips in the split", f"{len(split.clips):,}"),
        ("hours, about", f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"),
        ("speakers", f"{survey.speakers:,}" if survey.speakers else "not told"),
        ("median length", f"{np.median(survey.seconds):.1f} s"),
        ("median tokens", f"{np.median(survey.tokens):.0f}"),
        ("left out", f"{survey.unusable / survey.looked_at:.1%}" if survey.unusable else "none"),
    ]


def _settings(config: PreviewConfig, split: Split, job: ShardJob) -> list[tuple[str, str]]:
    return [
        ("source", config.source),
        ("split", config.split),
        ("language", split.language or "not said"),
        ("model", config.model),
        ("mel bins", str(job.n_mels)),
        ("copies", str(job.copies)),
        ("seed", str(config.seed)),
    ]


def _histograms(survey: Survey) -> list[Histogram]:
    return [
        histogram("Length", "s", survey.seconds.astype(np.float64), 0.1),
        histogram("Text", "tokens", survey.tokens.astype(np.float64), 1.0),
    ]


def main() -> None:
    """The command line."""
    preview(tyro.cli(PreviewConfig, prog="python -m data.preview"))


if __name__ == "__main__":
    command(main)()
