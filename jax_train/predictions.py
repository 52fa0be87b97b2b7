"""predictions.parquet: a row per clip with what was said, what was heard, and every count the scores are made of.

Decision: one file from which all scores can be computed again, by us or by any other program; predictions made
elsewhere come in by the same door, as a Parquet or TSV file with the columns `id` and `hypothesis`.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from data.errors import UserError
from data.storage import new_file
from jax_train.scores import NORMALISER, Edits

PREDICTIONS = "predictions.parquet"
SHOWN = 3  # ids named in an error
_PLAIN = r'[^"\t\r\n]*+'
QUOTED = re.compile(rf'(?:(?:"(?:[^"]|"")*+"|{_PLAIN})(?:[\t\r\n]|\Z))*+')
"""A table in which every field that holds a quote stands in quotes, with those inside doubled."""
QUOTED_LINES = re.compile(rf'(?:(?:"(?:[^"\r\n]|"")*+"|{_PLAIN})(?:[\t\r\n]|\Z))*+')
"""The same, and none goes over a line's end."""


def clip_table(facts: dict[str, Any], written: Edits, normal: Edits, signs: dict[str, np.ndarray]) -> pa.Table:
    """The columns of `facts` (id, reference, hypothesis, speaker, seconds, snr_db), then the counts and the signs."""
    columns = dict(facts)
    for suffix, edits in (("", written), ("_normalised", normal)):
        for name in ("words", "substitutions", "deletions", "insertions", "characters", "character_errors"):
            columns[name + suffix] = getattr(edits, name).astype(np.int32)
    table = pa.table(columns | signs)
    return table.replace_schema_metadata({"normaliser": NORMALISER})


def write_predictions(path: Path, table: pa.Table) -> None:
    """`table` as the file `path`, in one step."""
    with new_file(UPath(path)) as file:
        pq.write_table(table, file)


def read_predictions(path: Path, *names: str) -> dict[str, list[str]]:
    """The text columns `names` of a Parquet file, or of a TSV with a header.

    Raises:
        UserError: no such file, not such a file, a column or a value missing, or a clip twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; predictions are a .parquet or .tsv file with {', '.join(names)}")
    columns = _read_tsv(path) if path.suffix == ".tsv" else _read_parquet(path)
    missing = [name for name in names if name not in columns]
    if missing:
        there = ", ".join(columns) or "none"
        raise UserError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; there are: {there}")
    for name in names:
        for number, value in enumerate(columns[name]):
            if not isinstance(value, str):
                raise UserError(f"{path}: {name} of row {number} is {value!r}, not text; what was not heard is empty")
    twice = [clip for clip, count in Counter(columns["id"]).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {say_ids(twice)} stand there twice; give one hypothesis to a clip")
    return {name: columns[name] for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        return pq.read_table(path).to_pydict()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: pages that are damaged
        what = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a Parquet file, or damaged ({what}); a TSV's name ends in .tsv") from error


def _read_tsv(path: Path) -> dict[str, list[Any]]:
    """Tab-separated with a header; a byte order mark is none of it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        names, *rows = filter(None, _rows(text))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 table with tabs ({error})") from error
    except ValueError:  # not even a header
        return {}
    if longer := [row[0] for row in rows if len(row) > len(names)]:
        raise UserError(f"{path}: {say_ids(longer)} have more fields than the header: a tab too many?")
    return {name: [row[place] if place < len(row) else None for row in rows] for place, name in enumerate(names)}


def _rows(text: str) -> list[list[str]]:
    """The fields of each line.

    Decision: quotes are csv's where all of the file is written so: each field that holds one stands in quotes, with
    those inside doubled. Anywhere else they are what was heard, and never make one line of two.
    """
    plain = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    is_a_line_a_row = all(len(row) in (0, len(plain[0])) for row in plain)
    if not (QUOTED_LINES if is_a_line_a_row else QUOTED).fullmatch(text):
        return plain
    return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))


def hypotheses_for(path: Path, ids: Sequence[str]) -> list[str]:
    """The hypotheses of the clips `ids` in their order.

    Raises:
        UserError: as `read_predictions`; a clip is missing, or one is there that is not asked for.
    """
    found = read_predictions(path, "id", "hypothesis")
    hypotheses = dict(zip(found["id"], found["hypothesis"], strict=True))
    missing, unknown = [clip for clip in ids if clip not in hypotheses], sorted(hypotheses.keys() - set(ids))
    if missing:
        raise UserError(
            f"{path} has no hypothesis for {say_ids(missing)} of {len(ids):,} clips; a clip that was not heard "
            "has an empty one"
        )
    if unknown:
        raise UserError(f"{path} has {say_ids(unknown)}, which the split has not; is it of another split?")
    return [hypotheses[clip] for clip in ids]


def say_ids(ids: Sequence[str]) -> str:
    """How many, and the first of them."""
    return f"{len(ids):,} ({', '.join(ids[:SHOWN])}{' …' if len(ids) > SHOWN else ''})"
