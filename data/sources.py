"""Where recordings come from: SOURCE and SPLIT → clips, whatever kind of source it is.

The kind is seen by looking at the source, never guessed from a failure of another kind; each kind is a module of its
own, and the rarer ones are imported only when they are asked for.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from upath import UPath

from data.clips import LISTED_TWICE, Clip, CorpusError, Rejected, Split
from data.common_voice import CLIPS, CommonVoice
from data.source_options import DEFAULTS, SourceOptions
from data.split_names import SYNONYMS, SplitPart, find_name, parse_split
from data.storage import reading

HUB = "hf:"
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
ARCHIVES = (".tar.gz", ".tgz", ".tar")
MANIFESTS = (".jsonl", ".jsonl.gz", ".json", ".csv")
STANDARD_SPLITS = ("train", *SYNONYMS, "test")
KINDS = (
    "a Common Voice folder (clips/ beside train.tsv) or its .tar.gz, a folder with metadata.csv or metadata.jsonl, "
    "a .jsonl manifest or a folder of them, or a Hugging Face dataset (a folder, or its name: org/name)"
)


class Source(Protocol):
    """A corpus: its splits' names, and each split's clips."""

    kind: str
    """In words, with the article."""

    def splits(self) -> list[str] | None:
        """The names of the splits there are; None for a source that is one split and takes any name."""

    def read(self, split: str) -> Split:
        """The clips of one of them."""

    def arrange(self, clips: list[Clip]) -> list[Clip]:
        """`clips` in the order in which they load fastest."""


def read_split(source: str, split: str, options: SourceOptions = DEFAULTS) -> Split:
    """The clips that `split` (as `data.split_names` has it) means in `source`; whether they decode is not looked at.

    Clips are in the source's order, those of an archive in the order of their audio in it. Raises `CorpusError` for a
    source or a split that is not there, or that is not what `options` ask for.
    """
    source = str(source)
    try:
        source.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{source!a} is not UTF-8, as which it would be noted: give it another name") from None
    with reading(source, CorpusError):
        return _read_split(source, split, options)


def _read_split(source: str, split: str, options: SourceOptions) -> Split:
    asked = parse_split(split)  # before an archive is listed for minutes
    corpus = open_source(source, options)
    if options.min_confidence is not None and corpus.kind != "manifests":
        raise CorpusError(f"{source} is {corpus.kind}: --min-confidence takes a manifest with a column confidence")
    there = corpus.splits()
    parts = [replace(part, name=_find(source, corpus, there, part.name)) for part in asked]
    names = list(dict.fromkeys(part.name for part in parts))
    read = {name: corpus.read(name) for name in names}
    merged = _merge(parts, read)
    if not merged.clips:
        counts = ", ".join(f"{len(read[name].clips):,} clips in {name}" for name in names)
        raise CorpusError(f"split {split!r} of {source} is empty: there are {counts}")
    if options.speakers_disjoint:
        others = [name for name in there or () if name in STANDARD_SPLITS and name not in names]
        _check_speakers(f"{source}: {split}", merged.clips, ((name, corpus.read(name)) for name in others))
    return replace(merged, clips=corpus.arrange(merged.clips))


def open_source(source: str, options: SourceOptions = DEFAULTS) -> Source:
    """The corpus at `source`, of whatever kind it is; `CorpusError` if it is of none."""
    if source.startswith(HUB) and not source.startswith(f"{HUB}//"):
        return _hub_dataset(source.removeprefix(HUB), options)
    path = UPath(source)
    if path.is_file():
        return _open_file(path, options)
    if path.is_dir():
        return _open_folder(path, options)
    if HUB_NAME.fullmatch(source):
        return _hub_dataset(source, options)
    raise CorpusError(f"no corpus: {source} is not a folder")


def _open_file(path: UPath, options: SourceOptions) -> Source:
    if path.name.endswith(ARCHIVES):
        from data.archive import Archive

        return Archive(path, options.cache)
    if path.name.endswith(MANIFESTS):
        from data.manifests import Manifests

        return Manifests(path, options)
    raise CorpusError(f"{path} is not a source: a file ends in {', '.join(ARCHIVES + MANIFESTS)}")


def _open_folder(path: UPath, options: SourceOptions) -> Source:
    if (path / CLIPS).is_dir() and any(path.glob("*.tsv")):
        return CommonVoice(path)
    from data.hub_dataset import is_dataset_folder
    from data.manifests import Manifests, find_manifests

    if not any(path.glob(f"*/{CLIPS}")) and find_manifests(path):
        return Manifests(path, options)
    if is_dataset_folder(path):
        return _hub_dataset(str(path), options)
    if (path / CLIPS).is_dir() or any(path.glob(f"*/{CLIPS}")):
        return CommonVoice(path)
    raise CorpusError(f"{path} is not in a layout that is known; a source is {KINDS}")


def _hub_dataset(name: str, options: SourceOptions) -> Source:
    from data.hub_dataset import HubDataset

    return HubDataset(name, options)


def _find(source: str, corpus: Source, there: list[str] | None, asked: str) -> str:
    found = asked if there is None else find_name(asked, there)
    if found is None:
        has = ", ".join(there or ()) or "none"
        raise CorpusError(f"{source} has no split {asked!r} (read as {corpus.kind}); there are: {has}")
    return found


def _merge(parts: list[SplitPart], read: dict[str, Split]) -> Split:
    """One split of `parts`, in their order; a clip that comes again is rejected."""
    first = read[parts[0].name]
    clips: dict[str, Clip] = {}
    rejected = [row for split in read.values() for row in split.rejected]
    for part in parts:
        of_part = read[part.name].clips
        start, stop = part.bounds(len(of_part))
        for clip in of_part[start:stop]:
            if clip.id in clips:
                rejected.append(Rejected(clip.id, LISTED_TWICE, f"again in {part.name}"))
            else:
                clips[clip.id] = clip
    languages = {split.language for split in read.values()}
    language = languages.pop() if len(languages) == 1 else None
    random_access = all(split.random_access for split in read.values())
    return Split(first.root, list(clips.values()), rejected, language, random_access, first.dataset)


def _check_speakers(what: str, clips: list[Clip], others: Iterable[tuple[str, Split]]) -> None:
    """`CorpusError` if one of `others` has a speaker of `clips`, or if there is nothing to compare."""
    speakers = {clip.speaker for clip in clips} - {""}
    if not speakers:
        raise CorpusError(f"{what} names no speakers, so whether other splits share them cannot be checked")
    compared = 0
    for name, other in others:
        compared += 1
        if shared := speakers & {clip.speaker for clip in other.clips}:
            raise CorpusError(
                f"{what} and {name} share {len(shared):,} of {len(speakers):,} speakers, for example {min(shared)}: "
                "split the corpus by speaker, or do not ask for disjoint speakers"
            )
    if not compared:
        raise CorpusError(f"{what} has no other split beside it to compare speakers with")
