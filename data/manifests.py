"""Manifests: files that list recordings and what was said in them, beside the recordings.

A source is either one manifest, which is one split and takes whatever name is asked for (unless it has a column
`split`), or a folder: `metadata.csv` or `metadata.jsonl` in it or in its folders `train`, `validation`, `test`; or
`train.jsonl`, `dev_manifest.json` and so on. A path is relative to its manifest and must stay in the corpus folder;
with `audio_root` it is relative to that folder and must stay in there.
"""

import os
import posixpath
import re
from functools import cache

from upath import UPath

from data.clips import (
    LEAVES_THE_CORPUS,
    LISTED_TWICE,
    AudioFile,
    Clip,
    ClipError,
    CorpusError,
    Rejected,
    Split,
    is_inside,
    language_code,
)
from data.manifest_rows import (
    CONFIDENCE_COLUMN,
    PATH_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Entry,
    Row,
    check_confidence,
    find_column,
    parse_entry,
    read_rows,
)
from data.source_options import DEFAULTS, SourceOptions
from data.split_names import SYNONYMS

MANIFEST_ENDS = ("jsonl", "jsonl.gz", "json")
METADATA = ("metadata.csv", "metadata.jsonl")
STANDARD = ("train", *SYNONYMS, "test")


def find_manifests(folder: UPath) -> dict[str, UPath]:
    """The manifest of each split in `folder`, by the split's name; empty if there are none."""
    for name in METADATA:
        if (folder / name).is_file():
            return {"train": folder / name}
    inside = {path.parent.name: path for name in METADATA for path in folder.glob(f"*/{name}") if path.is_file()}
    if inside:
        return inside
    found: dict[str, UPath] = {}
    for path in sorted(path for end in MANIFEST_ENDS for path in folder.glob(f"*.{end}") if path.is_file()):
        stem = path.name.split(".")[0]
        split = re.sub(r"(^|[_-])(manifest|cuts)(?=$|[_-])", "", stem).strip("_-")
        if split in STANDARD or (split and (split != stem or ".jsonl" in path.name)):
            if split in found:
                raise CorpusError(f"{found[split]} and {path} both are split {split!r}: name the one that is meant")
            found[split] = path
    return found


class Manifests:
    """One manifest, or a folder of them."""

    kind = "manifests"

    def __init__(self, source: UPath, options: SourceOptions = DEFAULTS) -> None:
        audio_root = options.audio_root
        single = source.is_file()
        self.files = {"": source} if single else find_manifests(source)
        self.audio_root = audio_root
        self.folder = _resolved(audio_root or str(source.parent if single else source))
        if audio_root and not UPath(audio_root).is_dir():
            raise CorpusError(f"audio root {audio_root} is not a folder")
        self.text_column, self.speaker_column = options.text_column, options.speaker_column
        self.min_confidence = options.min_confidence
        self.rows = cache(self._rows)
        self.leaves = cache(self._leaves)

    def splits(self) -> list[str] | None:
        """The names of the manifests, or what the column `split` of the only one says; None if any name will do."""
        if len(self.files) > 1:
            return sorted(self.files)
        (name,) = self.files
        named = {_split_of(row) for _, row in self.rows(name) if isinstance(row, dict)} - {""}
        return sorted(named) or ([name] if name else None)

    def read(self, split: str) -> Split:
        """The clips that the manifest of `split` lists; whether they exist and decode is not looked at."""
        only = next(iter(self.files)) if len(self.files) == 1 else split
        file, rows = self.files[only], self.rows(only)
        if any(isinstance(row, dict) and _split_of(row) for _, row in rows):
            rows = [(line, row) for line, row in rows if isinstance(row, ClipError) or _split_of(row) == split]
        clips: dict[str, Clip] = {}
        rejected = []
        languages = set()
        for line, row in rows:
            try:
                entry = parse_entry(row, self.text_column, self.speaker_column)
                clip = self._clip(entry, file)
                if clip.id in clips:
                    raise ClipError(LISTED_TWICE)
                if self.min_confidence is not None and isinstance(row, dict):
                    check_confidence(row, self.min_confidence)
                clips[clip.id] = clip
                languages.add(entry.language)
            except ClipError as error:
                where = f"{file.name} line {line}"
                rejected.append(Rejected(_path_of(row), error.reason, ": ".join(filter(None, (where, error.detail)))))
        if not clips:
            first = f"; the first: {rejected[0].reason}, {rejected[0].detail}" if rejected else ""
            raise CorpusError(f"none of the {len(rows)} rows of {file} names a clip{first}")
        return Split(self.folder, list(clips.values()), rejected, language_code(languages))

    def arrange(self, clips: list[Clip]) -> list[Clip]:
        """As they are: any clip loads about as fast as the next one."""
        return clips

    def _rows(self, name: str) -> list[tuple[int, Row | ClipError]]:
        """The rows of a manifest; `CorpusError` if none of them has the columns that are needed."""
        file = self.files[name]
        rows = list(read_rows(str(file), file.read_bytes()))
        columns = sorted({column for _, row in rows if isinstance(row, dict) for column in row})
        if columns and self.min_confidence is not None and CONFIDENCE_COLUMN not in columns:
            raise CorpusError(f"{file} has no column {CONFIDENCE_COLUMN} to filter by; there are: {', '.join(columns)}")
        if not columns or "recording" in columns:
            return rows
        wanted = [("path", None, PATH_COLUMNS), ("text", self.text_column, TEXT_COLUMNS)]
        wanted += [("speaker", self.speaker_column, SPEAKER_COLUMNS)] if self.speaker_column else []
        for what, asked, usual in wanted:
            if find_column(columns, asked, usual) is None:
                names = asked or ", ".join(usual)
                raise CorpusError(
                    f"{file} has no column with the {what} ({names}); there are: {', '.join(columns) or 'none'}"
                )
        return rows

    def _clip(self, entry: Entry, manifest: UPath) -> Clip:
        base = self.folder if self.audio_root else _resolved(str(manifest.parent))
        path = _join(base, entry.path)
        if not entry.path or "\0" in entry.path or not is_inside(path, self.folder) or self.leaves(_parent(path)):
            raise ClipError(LEAVES_THE_CORPUS, entry.path)
        name = path.removeprefix(self.folder.rstrip("/") + "/")
        clip_id = entry.id or (f"{name}@{entry.start:.3f}" if entry.start else name)
        audio = AudioFile(path, self.folder)
        return Clip(clip_id, audio, entry.text, entry.speaker, entry.start, entry.length, entry.seconds)

    def _leaves(self, folder: str) -> bool:
        """Whether a folder in the corpus is a link to one outside of it."""
        return "://" not in folder and not is_inside(os.path.realpath(folder) + "/", os.path.realpath(self.folder))


def _resolved(folder: str) -> str:
    return folder.rstrip("/") if "://" in folder else posixpath.normpath(str(UPath(folder).absolute()))


def _join(base: str, path: str) -> str:
    """`path` from `base` on, without `..`."""
    scheme, divider, rest = base.rpartition("://")
    if "://" in path:
        path_scheme, _, path_rest = path.partition("://")
        return f"{path_scheme}://{posixpath.normpath(path_rest)}"
    return scheme + divider + posixpath.normpath(posixpath.join(rest, path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _split_of(row: Row) -> str:
    """What the column `split` says, as it is asked for: JSON may have a number there; empty if there is nothing."""
    named = row.get("split")
    return "" if named is None else str(named)


def _path_of(row: Row | ClipError) -> str:
    """What to call a row that names no clip."""
    if isinstance(row, ClipError):
        return ""
    named = (row.get(column) for column in (*PATH_COLUMNS, "id"))
    return next((name for name in named if isinstance(name, str)), "")
