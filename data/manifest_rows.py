"""A manifest's lines → what each says, in the three ways that are common.

- Hugging Face's `audiofolder`: `metadata.csv` or `metadata.jsonl` with a column `file_name`;
- NeMo: JSON lines with `audio_filepath`, `text`, `duration` and maybe `offset`;
- Lhotse: JSON lines that are cuts, each of one recording with one supervision.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.clips import NOT_CONFIDENT, ClipError, CorpusError

PATH_COLUMNS = ("file_name", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
CONFIDENCE_COLUMN = "confidence"
LANGUAGE_COLUMNS = ("lang", "language", "locale")
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # alone; a pair of them is a character
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What one line says."""

    path: str
    text: str
    speaker: str
    language: str
    start: float = 0.0
    length: float | None = None
    """None: to the audio's end."""
    seconds: float | None = None
    id: str = ""
    """If the manifest gives one."""


def find_column(columns: list[str], asked: str | None, usual: tuple[str, ...]) -> str | None:
    """The column of `columns` that was `asked` for, or the first of the `usual` ones; None if it is not there."""
    return next((name for name in ((asked,) if asked else usual) if name in columns), None)


def read_rows(where: str, content: bytes) -> Iterator[tuple[int, Row | ClipError]]:
    """Line number and row of each line of a manifest; `ClipError` in a row's place for a line that cannot be read."""
    try:
        content = gzip.decompress(content) if where.endswith(".gz") else content
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where} is not UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{where} is not gzip, or not whole: {error}") from error
    if where.endswith(".csv"):
        yield from _csv_rows(where, text)
    elif text.lstrip().startswith("["):
        yield from _list_rows(where, text)
    else:
        for line, row in enumerate(text.split("\n"), start=1):
            if row.strip():
                yield line, _json_row(row)


def _csv_rows(where: str, text: str) -> Iterator[tuple[int, Row | ClipError]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # else an open quote takes the rest for one text
    try:
        header = next(reader, [])
        for fields in reader:
            if not fields:
                continue
            if len(fields) == len(header):
                yield reader.line_num, dict(zip(header, fields, strict=True))
            else:
                problem = f"{len(fields)} columns, the first line has {len(header)}"
                yield reader.line_num, ClipError("incomplete row", problem)
    except csv.Error as error:
        raise CorpusError(f"{where} line {reader.line_num} is not CSV: {error}") from error


def _list_rows(where: str, text: str) -> Iterator[tuple[int, Row | ClipError]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is neither JSON nor JSON lines: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, _checked(row, text)


def _json_row(line: str) -> Row | ClipError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ClipError("not JSON", str(error)[:80])
    return _checked(row, line)


def _checked(row: Any, source: str) -> Row | ClipError:
    """`row` of `source` if it is an object of Unicode: JSON can spell half a character, which no file can hold."""
    if not isinstance(row, dict):
        return ClipError("not a JSON object", ascii(row)[:80])
    if HALF_CHARACTER.search(source):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return ClipError("not Unicode", ascii(row)[:80])
    return row


def parse_entry(row: Row | ClipError, text_column: str | None, speaker_column: str | None) -> Entry:
    """What `row` says; `ClipError` if something is missing or is not what it should be."""
    if isinstance(row, ClipError):
        raise row
    if "recording" in row or row.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut"):
        return _parse_cut(row)
    path = _text(row, find_column(list(row), None, PATH_COLUMNS) or PATH_COLUMNS[0])
    start = _number(row, "offset") or 0.0
    seconds = _number(row, "duration")
    speaker = find_column(list(row), speaker_column, SPEAKER_COLUMNS)
    language = find_column(list(row), None, LANGUAGE_COLUMNS)
    return Entry(
        path,
        _text(row, find_column(list(row), text_column, TEXT_COLUMNS) or text_column or TEXT_COLUMNS[0]),
        str(row[speaker]) if speaker and row[speaker] is not None else "",
        str(row[language] or "") if language else "",
        start,
        seconds if row.get("offset") not in (None, "") else None,
        seconds,
    )


def _parse_cut(row: Row) -> Entry:
    if row.get("type", "MonoCut") != "MonoCut":
        raise ClipError("not a MonoCut", f"type {row['type']}")
    recording, supervisions = row.get("recording"), row.get("supervisions")
    if not isinstance(recording, dict) or not isinstance(supervisions, list):
        raise ClipError("incomplete row", "a cut needs a recording and supervisions")
    sources = recording.get("sources")
    if len(supervisions) != 1 or not isinstance(sources, list) or len(sources) != 1:
        raise ClipError("not one utterance", "a cut needs one supervision, its recording one source: trim the cuts")
    source, said = sources[0], supervisions[0]
    if not isinstance(source, dict) or not isinstance(said, dict):
        raise ClipError("incomplete row", "a cut's source and supervision are JSON objects")
    if len(source.get("channels") or [0]) > 1:
        raise ClipError("one of several channels", "make a file of each channel")
    start, length = _number(row, "start") or 0.0, _number(row, "duration")
    whole = start == 0 and length is not None and length == _number(recording, "duration")
    return Entry(
        _text(source, "source"),
        _text(said, "text"),
        str(said.get("speaker") or ""),
        str(said.get("language") or ""),
        start,
        None if whole else length,
        length,
        str(row.get("id") or ""),
    )


def check_confidence(row: Row, least: float) -> None:
    """`ClipError` for a row that is less confident than `least`, or does not say how confident it is."""
    value = row.get(CONFIDENCE_COLUMN)
    try:
        confidence = float(value) if value not in (None, "") else None
    except (TypeError, ValueError, OverflowError):
        confidence = math.nan
    if confidence is None:
        raise ClipError(NOT_CONFIDENT, "none is given")
    if isinstance(value, bool) or not 0 <= confidence <= 1:
        raise ClipError("not a confidence", f"{CONFIDENCE_COLUMN} is {value!r}; it takes 0 to 1")
    if confidence < least:
        raise ClipError(NOT_CONFIDENT, f"{confidence:g}, asked for {least:g}")


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise ClipError("incomplete row", f"no text in {column}; there are: {', '.join(map(str, row))[:200]}")
    return value.strip()


def _number(row: Row, column: str) -> float | None:
    """Seconds in `column`; None if there are none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not (0 <= seconds < math.inf):
        raise ClipError("not a time", f"{column} is {value!r}; it takes seconds, 0 or more")
    return seconds
