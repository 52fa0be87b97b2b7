"""Common Voice's layout: a language folder with `clips/` beside `train.tsv`, `dev.tsv`, `test.tsv`.

The TSVs are read as Common Voice writes them: UTF-8, tab-separated, quotation marks are text (a quoting CSV reader
merges rows at the first unbalanced one). A clip's path is a file name in `clips/` and nothing else.
"""

from collections.abc import Callable
from pathlib import PurePosixPath

from upath import UPath

from data.clips import Audio, AudioFile, Clip, CorpusError, Rejected, Split

COLUMNS = ("client_id", "path", "sentence")
DURATIONS = "clip_durations.tsv"


class CommonVoice:
    """A language folder, or a folder with one language folder in it."""

    def __init__(self, source: UPath) -> None:
        self.folder = _language_folder(source)

    def splits(self) -> list[str]:
        """The TSVs there are."""
        return sorted(path.stem for path in self.folder.glob("*.tsv"))

    def read(self, split: str) -> Split:
        """The clips `split`.tsv lists; whether they exist and decode is not looked at."""
        path = self.folder / f"{split}.tsv"
        durations = self.folder / DURATIONS
        seconds = parse_durations(durations.read_bytes()) if durations.is_file() else {}
        clips_folder = self.folder / "clips"
        prefix = str(clips_folder)
        return parse_tsv(str(path), path.read_bytes(), prefix, lambda name: AudioFile(f"{prefix}/{name}"), seconds)


def parse_tsv(where: str, content: bytes, root: str, audio: Callable[[str], Audio], seconds: dict[str, float]) -> Split:
    """The split that a TSV lists; `where` names it in errors, `audio` gives the audio of a file name in `clips/`."""
    rows = _rows(where, content)
    name_of_tsv = PurePosixPath(where).name
    clips: dict[str, Clip] = {}
    rejected = []
    for line, row in enumerate(rows, start=2):
        name = row.get("path", "")
        if any(column not in row for column in COLUMNS):
            rejected.append(Rejected(name, "incomplete row", f"{name_of_tsv} line {line} has {len(row)} columns"))
        elif name != PurePosixPath(name).name or name in ("", "..") or "\0" in name:
            rejected.append(Rejected(name, "path is not a file name", f"{name_of_tsv} line {line}"))
        elif name in clips:
            rejected.append(Rejected(name, "listed twice", f"{name_of_tsv} line {line}"))
        else:
            sentence, speaker = row["sentence"].strip(), row["client_id"]
            clips[name] = Clip(name, audio(name), sentence, speaker, seconds=seconds.get(name))
    if not clips:
        first = f"{rejected[0].reason}, {rejected[0].detail}"
        raise CorpusError(f"none of the {len(rows)} rows of {where} names a clip; the first: {first}")
    locales = {row.get("locale", "") for row in rows}
    language = locales.pop().split("-")[0] if len(locales) == 1 else ""
    return Split(root, list(clips.values()), rejected, language or None)


def parse_durations(content: bytes) -> dict[str, float]:
    """Seconds by file name, from `clip_durations.tsv`."""
    rows = (line.split("\t") for line in content.decode("utf-8", "replace").splitlines()[1:])
    return {row[0]: float(row[1]) / 1000 for row in rows if len(row) == 2 and row[1].isdigit()}


def _language_folder(source: UPath) -> UPath:
    if (source / "clips").is_dir():
        return source
    inside = sorted(path.parent for path in source.glob("*/clips") if path.is_dir())
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise CorpusError(f"{source} holds several languages, name one: {', '.join(map(str, inside))}")
    raise CorpusError(f"{source} is not in Common Voice's layout: it has no clips/ folder beside train.tsv")


def _rows(where: str, content: bytes) -> list[dict[str, str]]:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where} is not UTF-8: {error}") from error
    header, *content_rows = (line.removesuffix("\r").split("\t") for line in lines)
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise CorpusError(f"{where} has no column {', '.join(missing)}; its first line is: {' '.join(header)[:200]}")
    # A short row lacks columns, which `parse_tsv` rejects by line; a long one has more than the header names.
    rows = [dict(zip(header, fields, strict=False)) for fields in content_rows if fields != [""]]
    if not rows:
        raise CorpusError(f"{where} lists no clips")
    return rows
