"""The rows of a Hugging Face dataset as any process opens them, without decoding their audio.

Without streaming they are Arrow files in memory-mapped reach of every worker. With it a worker goes through the
dataset's files forwards, from the beginning of the file that its first clip is in.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.constants import HF_HUB_CACHE

from data.clips import (
    CANNOT_BE_READ,
    LEAVES_THE_CORPUS,
    NO_SUCH_FILE,
    AudioFile,
    ClipError,
    CorpusError,
    find_inside,
)
from data.errors import UserError

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves


@dataclass(frozen=True)
class DatasetSpec:
    """Where the audio of one split is, for any process."""

    name: str
    config: str | None
    split: str
    audio_column: str
    files: tuple[str, ...] = ()
    """Its Arrow files; none if it is streamed."""
    edges: tuple[int, ...] = ()
    """Of a stream: the number of the first row of each of its files, and of all rows."""
    folder: str = ""
    """That its paths are relative to, and must stay in; none if it is on the hub."""


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """The audio of one row."""

    spec: DatasetSpec
    row: int

    def load(self) -> Path | bytes:
        """The encoded audio, or the file that it is in; `UserError` if the dataset is gone."""
        audio = _open_rows(self.spec, os.getpid()).audio(self.row)
        content = audio.get("bytes")
        if isinstance(content, bytes):
            return content
        path = audio.get("path")
        if not path or not isinstance(path, str):
            raise ClipError(NO_SUCH_FILE, f"row {self.row} of {self.spec.name} has no audio")
        return _audio_file(self.spec, path).load()


def load_split(name: str, config: str | None, split: str, streaming: bool, columns: list[str] | None = None) -> Any:
    """A split as `datasets` loads it; of Parquet, `columns` alone are read."""
    if any(Path(name, file).is_file() for file in SAVED):
        saved = datasets.load_from_disk(name)
        return saved[split] if isinstance(saved, dict) else saved
    more = {}
    if columns and hasattr(datasets.load_dataset_builder(name, config).config, "columns"):
        more = {"columns": columns}
    return datasets.load_dataset(name, config, split=split, streaming=streaming, **more)


def _undecoded(rows: Any, column: str) -> Any:
    """`rows` with nothing but the audio, as bytes: decoding would need a library that is not asked for."""
    rows = rows.select_columns([column])
    is_audio = isinstance((rows.features or {}).get(column), datasets.Audio)
    return rows.cast_column(column, datasets.Audio(decode=False)) if is_audio else rows


def _audio_file(spec: DatasetSpec, path: str) -> AudioFile:
    """The file that a row names: in the dataset's folder, or where `datasets` keeps what it fetched and extracted."""
    if "://" in path:
        on_hub = path.startswith((f"hf://datasets/{spec.name}/", f"hf://datasets/{spec.name}@"))
        if spec.folder or not on_hub or ".." in path.split("/"):
            raise ClipError(LEAVES_THE_CORPUS, path)
        return AudioFile(path)
    if not (spec.folder or path.startswith("/")):
        raise ClipError(NO_SUCH_FILE, path)
    kept = (datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    folders = [str(folder) for folder in (spec.folder, *kept) if folder]
    return find_inside(path if path.startswith("/") else f"{spec.folder}/{path}", folders)


def _encoded(audio: Any) -> dict[str, Any]:
    """A cell of the column of audio as `datasets.Audio` has it, whatever the column's type."""
    if isinstance(audio, str | bytes):
        return {"path" if isinstance(audio, str) else "bytes": audio}
    if isinstance(audio, dict | None):
        return audio or {}
    raise ClipError(CANNOT_BE_READ, f"a {type(audio).__name__} is not audio")


class _Mapped:
    """Rows of Arrow files."""

    def __init__(self, spec: DatasetSpec) -> None:
        missing = [file for file in spec.files if not Path(file).is_file()]
        if missing:
            raise UserError(f"{missing[0]}, a file of {spec.name}, is gone, or not on this machine: load it again")
        self.column = spec.audio_column
        rows = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in spec.files])
        self.rows = _undecoded(rows, self.column)

    def audio(self, row: int) -> dict[str, Any]:
        return _encoded(self.rows[row][self.column])


class _Streamed:
    """Rows of a stream: cheap forwards, from the beginning of a file backwards."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        self.lock = Lock()
        with told(spec.name):
            rows = load_split(spec.name, spec.config, spec.split, streaming=True, columns=[spec.audio_column])
            self.rows = _undecoded(rows, spec.audio_column)
        self.position = -1
        self.iterator: Iterator[Any] = iter(())

    def audio(self, row: int) -> dict[str, Any]:
        with self.lock, told(self.spec.name):
            file = bisect_right(self.spec.edges, row) - 1
            if not self.spec.edges[file] <= self.position <= row and self.position != row:
                self.iterator, self.position = self._from(file, row), row
            for audio in self.iterator:
                self.position += 1
                if self.position > row:
                    return _encoded(audio)
        raise UserError(f"{self.spec.name} ends before row {row} of {self.spec.split}: it has changed, start again")

    def _from(self, file: int, row: int) -> Iterator[Any]:
        """The audio of the rows from `row` on, which is in `file`."""
        count = self.rows.num_shards
        if count != len(self.spec.edges) - 1:
            raise UserError(f"{self.spec.name} has {count} files now, it had {len(self.spec.edges) - 1}: start again")
        for number in range(file, count):
            part = self.rows.shard(count, number)
            skipped = row - self.spec.edges[file] if number == file else 0
            for example in part.skip(skipped) if skipped else part:
                yield example[self.spec.audio_column]


@cache
def _open_rows(spec: DatasetSpec, process: int) -> _Mapped | _Streamed:  # noqa: ARG001
    """The rows of `spec`, opened once in each `process`."""
    return _Mapped(spec) if spec.files else _Streamed(spec)


@contextmanager
def told(name: str) -> Iterator[None]:
    """What `datasets` raises for a dataset that is not there or not whole, as a `CorpusError`."""
    try:
        yield
    except DatasetNotFoundError as error:
        raise CorpusError(f"no corpus: {name} is neither a folder here nor a dataset on the hub ({error})") from error
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise CorpusError(f"{name} is not a folder here, and the hub cannot be reached ({reason})") from error
    except (ValueError, RuntimeError, OSError, DatasetsError) as error:
        reason = " ".join((f"{error}: {error.__cause__}" if error.__cause__ else str(error)).split())
        raise CorpusError(f"{name} cannot be read as a Hugging Face dataset: {reason}") from error
