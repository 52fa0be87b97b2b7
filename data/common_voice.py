"""Common Voice's layout: a language folder with `clips/` beside `train.tsv`, `dev.tsv`, `test.tsv`, of any release.

Releases differ in their other columns, and the first ones name clips without `.mp3`.

The TSVs are read as Common Voice writes them: UTF-8, tab-separated, quotation marks are text (a quoting CSV reader
merges rows at the first unbalanced one). A clip's path is a file name in `clips/` and nothing else.
"""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from upath import UPath

from data.clips import LISTED_TWICE, Audio, AudioFile, Clip, ClipError, CorpusError, Rejected, Split, language_code

COLUMNS = ("client_id", "path", "sentence")
LOCALE = "locale"  # behind the others: a row that lacks it may have been cut anywhere
CLIPS = "clips"
DURATIONS = "clip_durations.tsv"
_MILLISECONDS = re.compile(r"[0-9]{1,10}")


class CommonVoice:
    """A language folder, or a folder with one language folder in it."""

    kind = "a Common Voice folder"

    def __init__(self, source: UPath) -> None:
        self.folder = _language_folder(source)

    def splits(self) -> list[str]:
        """The TSVs there are."""
        return sorted(path.stem for path in self.folder.glob("*.tsv"))

    def read(self, split: str) -> Split:
        """The clips `split`.tsv lists; whether they exist and decode is not looked at."""
        path = self.folder / f"{split}.tsv"
        if not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise CorpusError(f"{path} is not a file")
        durations = self.folder / DURATIONS
        seconds = parse_durations(durations.read_bytes()) if durations.is_file() else {}
        root, prefix = str(self.folder), str(self.folder / CLIPS)

        def audio(name: str) -> Audio:
            return AudioFile(f"{prefix}/{name}", root)

        return parse_tsv(str(path), path.read_bytes(), prefix, audio, seconds)

    def arrange(self, clips: list[Clip]) -> list[Clip]:
        """As they are: any clip loads about as fast as the next one."""
        return clips


def parse_tsv(where: str, content: bytes, root: str, audio: Callable[[str], Audio], seconds: dict[str, float]) -> Split:
    """The split that a TSV lists; `where` names it in errors, `audio` gives the audio of a file name in `clips/`.

    Raises `CorpusError` if no row names a clip; a row that does not becomes a rejection, as does one for whose file
    `audio` raises `ClipError`.
    """
    rows = _rows(where, content)
    tsv = PurePosixPath(where).name
    needed = [*COLUMNS, *({LOCALE} & {column for row in rows for column in row})]
    clips: dict[str, Clip] = {}
    rejected, languages = [], set()
    for line, row in enumerate(rows, start=2):
        name = row.get("path", "")
        try:
            clip = _clip(row, needed, audio, seconds, f"{tsv} line {line}")
            if clip.id in clips:
                raise ClipError(LISTED_TWICE, f"{tsv} line {line}")
            clips[clip.id] = clip
            languages.add(row.get(LOCALE, ""))
        except ClipError as error:
            rejected.append(Rejected(name, error.reason, error.detail))
    if not clips:
        first = f"{rejected[0].reason}, {rejected[0].detail}"
        raise CorpusError(f"none of the {len(rows)} rows of {where} names a clip; the first: {first}")
    return Split(root, list(clips.values()), rejected, language_code(languages - {""}))


def _clip(
    row: dict[str, str], needed: list[str], audio: Callable[[str], Audio], seconds: dict[str, float], where: str
) -> Clip:
    name = row.get("path", "")
    if any(column not in row for column in needed):
        raise ClipError("incomplete row", f"{where} has {len(row)} columns")
    if name != PurePosixPath(name).name or name in ("", "..") or "\0" in name:
        raise ClipError("path is not a file name", where)
    file = name if "." in name else f"{name}.mp3"
    return Clip(file, audio(file), row["sentence"].strip(), row["client_id"], seconds=seconds.get(file))


def parse_durations(content: bytes) -> dict[str, float]:
    """Seconds by file name, from `clip_durations.tsv`."""
    rows = (line.split("\t") for line in content.decode("utf-8", "replace").splitlines()[1:])
    return {row[0]: float(row[1]) / 1000 for row in rows if len(row) == 2 and _MILLISECONDS.fullmatch(row[1])}


def _language_folder(source: UPath) -> UPath:
    if (source / CLIPS).is_dir():
        return source
    inside = sorted(path.parent for path in source.glob(f"*/{CLIPS}") if path.is_dir())
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
