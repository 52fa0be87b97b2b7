"""Where recordings come from: SOURCE and SPLIT → clips, whatever kind of source it is."""

from dataclasses import dataclass
from typing import Protocol

from upath import UPath

from data.clips import CorpusError, Split
from data.common_voice import CommonVoice


@dataclass(frozen=True)
class SourceOptions:
    """What some kinds of source need to be told."""

    cache: str | None = None
    """Folder that every worker sees, for an archive's index of seek points; by default one beside the shards."""


class Source(Protocol):
    """A corpus: its splits' names, and each split's clips."""

    def splits(self) -> list[str]:
        """The names of the splits there are."""

    def read(self, split: str) -> Split:
        """The clips of one of them."""


def read_split(source: str, split: str, options: SourceOptions = SourceOptions()) -> Split:
    """The clips of `split` of `source`; whether they exist and decode is not looked at."""
    folder = UPath(source)
    if not folder.is_dir():
        raise CorpusError(f"no corpus: {source} is not a folder")
    corpus = CommonVoice(folder)
    there = corpus.splits()
    if split not in there:
        raise CorpusError(f"{source} has no split {split!r} ({split}.tsv); there are: {', '.join(there) or 'none'}")
    return corpus.read(split)
