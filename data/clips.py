"""Where recordings come from: a Common Voice language folder, `clips/` beside `train.tsv`, `dev.tsv`, `test.tsv`.

The TSVs are read as Common Voice writes them: UTF-8, tab-separated, quotation marks are text (a quoting CSV reader
merges rows at the first unbalanced one). A clip's path is a file name in `clips/` and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

COLUMNS = ("client_id", "path", "sentence")


class CorpusError(UserError):
    """A corpus that is missing, empty, or not in Common Voice's layout."""


@dataclass(frozen=True)
class Clip:
    """One recording and what was said."""

    id: str
    """The file name, stable between releases."""
    path: Path
    sentence: str
    speaker: str


@dataclass(frozen=True)
class Rejected:
    """A clip left out; a row of `rejected.tsv`."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Split:
    """The clips of one TSV in its order, the rows that name no clip, and the language the rows agree on (or None)."""

    folder: Path
    clips: list[Clip]
    rejected: list[Rejected]
    language: str | None


def read_split(source: Path | str, split: str) -> Split:
    """The clips that `source`'s `split`.tsv lists; whether they exist and decode is not looked at."""
    folder = corpus_folder(Path(source))
    there = sorted(path.stem for path in folder.glob("*.tsv"))
    if split not in there:
        raise CorpusError(f"{folder} has no split {split!r} ({split}.tsv); there are: {', '.join(there) or 'none'}")
    path = folder / f"{split}.tsv"
    rows = _read_rows(path)
    clips: dict[str, Clip] = {}
    rejected = []
    for line, row in enumerate(rows, start=2):
        name = row.get("path", "")
        if any(column not in row for column in COLUMNS):
            rejected.append(Rejected(name, "incomplete row", f"{path.name} line {line} has {len(row)} columns"))
        elif name != Path(name).name or name in ("", ".."):
            rejected.append(Rejected(name, "path is not a file name", f"{path.name} line {line}"))
        elif name in clips:
            rejected.append(Rejected(name, "listed twice", f"{path.name} line {line}"))
        else:
            clips[name] = Clip(name, folder / "clips" / name, row["sentence"].strip(), row["client_id"])
    if not clips:
        first = f"{rejected[0].reason}, {rejected[0].detail}"
        raise CorpusError(f"none of the {len(rows)} rows of {path} names a clip; the first: {first}")
    locales = {row.get("locale", "") for row in rows}
    language = locales.pop().split("-")[0] if len(locales) == 1 else ""
    return Split(folder, list(clips.values()), rejected, language or None)


def corpus_folder(source: Path) -> Path:
    """`source`, or the only language folder in it."""
    if not source.is_dir():
        raise CorpusError(f"no corpus: {source} is not a folder")
    if (source / "clips").is_dir():
        return source
    inside = sorted(path.parent for path in source.glob("*/clips") if path.is_dir())
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise CorpusError(f"{source} holds several languages, name one: {', '.join(map(str, inside))}")
    raise CorpusError(f"{source} is not in Common Voice's layout: it has no clips/ folder beside train.tsv")


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: {error}") from error
    header, *content = (line.removesuffix("\r").split("\t") for line in lines)
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise CorpusError(f"{path} has no column {', '.join(missing)}; its first line is: {' '.join(header)[:200]}")
    # A short row lacks columns, which `read_split` rejects by line; a long one has more than the header names.
    rows = [dict(zip(header, fields, strict=False)) for fields in content if fields != [""]]
    if not rows:
        raise CorpusError(f"{path} lists no clips")
    return rows
