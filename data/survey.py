"""What many clips are like: their lengths, their tokens, their speakers, and those that cannot be used.

A finished set of shards tells it in its index, of every clip; without one, some clips are looked at.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from data.clips import Clip, ClipError, Rejected, Split
from data.errors import UserError
from data.finish import REJECTED
from data.records import Shards
from data.shard_jobs import ShardJob, each_record

EXAMPLES = 3  # rejected clips named for each reason

T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """What many clips are like."""

    seconds: np.ndarray
    tokens: np.ndarray
    speakers: int
    """0 if the source does not tell them."""
    rejected: list[Rejected]
    not_clips: int
    """How many of `rejected` are rows of the whole source that name no clip."""
    usable: list[Clip]
    of: str
    """Which clips these are, in words."""

    @property
    def unusable(self) -> int:
        """How many of the clips looked at cannot be used."""
        return len(self.rejected) - self.not_clips

    @property
    def looked_at(self) -> int:
        return self.unusable + len(self.seconds)


def spread(items: list[T], count: int) -> list[T]:
    """`count` of `items` at even distances, or all of them."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def of_sample(
    clips: list[Clip], split: Split, job: ShardJob, tokenizer: Tokenizer, advance: Callable[[], Any]
) -> Survey:
    """What `clips` are like, by making their clean records."""
    clean = replace(job, copies=0)
    seconds, tokens, usable, rejected = [], [], [], list(split.rejected)
    for clip in clips:
        try:
            ((record, _),) = each_record(clip, clean, tokenizer)
        except ClipError as error:
            rejected.append(Rejected(clip.id, error.reason, error.detail))
        else:
            seconds.append(record.seconds)
            tokens.append(len(record.tokens))
            usable.append(clip)
        advance()
    if len(clips) == len(split.clips):
        of = f"all {len(clips):,} clips of the split"
    elif split.random_access:
        of = f"{len(clips):,} clips from all over the {len(split.clips):,} of the split"
    else:
        of = f"the first {len(clips):,} clips of the {len(split.clips):,} of the split"
    speakers = {clip.speaker for clip in usable}
    return Survey(
        seconds=np.array(seconds),
        tokens=np.array(tokens),
        speakers=len(speakers - {""}),
        rejected=rejected,
        not_clips=len(split.rejected),
        usable=usable,
        of=of,
    )


def of_shards(shards: Shards, split: Split) -> Survey:
    """What the clips of a finished set are like, by its index."""
    clean = shards.index["copy"] == 0
    ids = set(shards.index["id"][clean])
    path = shards.folder / REJECTED
    if not path.is_file():
        raise UserError(f"{path} is missing: delete {shards.folder} and run featurize again, or leave --shards out")
    with path.open("r", encoding="utf-8", newline="") as file:
        rejected = [Rejected(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return Survey(
        seconds=shards.index["seconds"][clean],
        tokens=shards.index["tokens"][clean],
        speakers=len(set(shards.index["speaker"]) - {""}),
        rejected=rejected,
        not_clips=0,
        usable=[clip for clip in split.clips if clip.id in ids],
        of=f"all {len(ids):,} clips in the finished shards {shards.folder}",
    )


def reasons(rejected: list[Rejected]) -> list[tuple[str, int, list[str]]]:
    """Each reason with how many clips it left out and the first of them, the most frequent first."""
    found: dict[str, list[Rejected]] = {}
    for one in rejected:
        found.setdefault(one.reason, []).append(one)
    by_count = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(reason, len(those), [_say_clip(one) for one in those[:EXAMPLES]]) for reason, those in by_count]


def _say_clip(rejected: Rejected) -> str:
    """Id and detail, without saying the id twice."""
    if rejected.id in rejected.detail:
        return rejected.detail
    return f"{rejected.id}: {rejected.detail}" if rejected.detail else rejected.id
