"""A Hugging Face dataset, by its name on the hub or as a folder, read by `datasets` without decoding its audio.

Planning reads the columns of text alone. Without streaming the dataset is Arrow files in memory-mapped reach of every
worker, which open those files and nothing else. With streaming nothing is kept: a worker goes through the dataset's
files forwards, from the beginning of the file that its first clip is in.

`datasets` takes a second to import, so this module is imported for such a source only.
"""

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from upath import UPath

from data.clips import NO_SUCH_FILE, AudioFile, Clip, ClipError, CorpusError, Rejected, Split, language_code
from data.errors import UserError
from data.manifest_rows import LANGUAGE_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, find_column
from data.source_options import SourceOptions

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves
FILES = tuple(f"{folders}*.{end}" for folders in ("", "*/", "*/*/") for end in ("parquet", "arrow"))
ID_COLUMNS = ("id", "path")
BATCH = 1000


def is_dataset_folder(folder: UPath) -> bool:
    """Whether `folder` holds a dataset in files of Parquet or Arrow."""
    return any((folder / name).is_file() for name in SAVED) or any(any(folder.glob(files)) for files in FILES)


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
        if not audio.get("path"):
            raise ClipError(NO_SUCH_FILE, f"row {self.row} of {self.spec.name} has no audio")
        return AudioFile(audio["path"]).load()


class HubDataset:
    """A dataset with the columns that `options` name."""

    kind = "a Hugging Face dataset"

    def __init__(self, name: str, options: SourceOptions) -> None:
        self.name, self.options = name, options
        self.saved = any(Path(name, file).is_file() for file in SAVED)

    def splits(self) -> list[str] | None:
        """The names of the splits; None for a single one that was saved without a name."""
        with _told(self.name):
            if self.saved:
                saved = datasets.load_from_disk(self.name)
                names = list(saved) if isinstance(saved, dict) else [saved.split] if saved.split else []
                return sorted(map(str, names)) or None
            return sorted(map(str, self._builder.info.splits or self._builder.config.data_files or ()))

    def read(self, split: str) -> Split:
        """The rows of `split` that have text."""
        streaming = self.options.streaming and not self.saved
        with _told(self.name):
            if streaming:
                rows: Any = _load(self.name, self.options.dataset_config, split, streaming=True)
            else:
                rows = _load(self.name, self.options.dataset_config, split, streaming=False)
            features = rows.features or dict.fromkeys(next(iter(rows), {}))
            columns = self._columns(features)
            audio_column = self._audio_column(features)
            wanted = list(dict.fromkeys(name for name in columns.values() if name))
            counts, texts = self._read_texts(split, rows, wanted, streaming)
            dataset = self._on_hub()
        files = () if streaming else tuple(file["filename"] for file in rows.cache_files)
        edges = tuple(accumulate(counts, initial=0)) if streaming else ()
        spec = DatasetSpec(self.name, self.options.dataset_config, split, audio_column, files, edges)
        clips, rejected = _clips(spec, texts, columns)
        if not clips:
            raise CorpusError(f"{self.name} has no text in any of the {len(texts)} rows of {split}")
        language = columns["language"]
        spoken = language_code({str(row[language]) for row in texts}) if language else None
        return Split(self._root(spec), clips, rejected, spoken, random_access=not streaming, dataset=dataset)

    def arrange(self, clips: list[Clip]) -> list[Clip]:
        """In the order of the rows, split by split."""
        return clips

    def _read_texts(
        self, split: str, rows: Any, columns: list[str], streaming: bool
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """The number of rows of each of the dataset's files, and all their texts."""
        if streaming:
            rows = _load(self.name, self.options.dataset_config, split, streaming=True, columns=columns)
            parts = [rows.shard(rows.num_shards, number) for number in range(rows.num_shards)]
        else:
            parts = [rows]
        counts: list[int] = []
        texts: list[dict[str, Any]] = []
        for part in parts:
            before = len(texts)
            for batch in part.select_columns(columns).iter(BATCH):
                texts += [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            counts.append(len(texts) - before)
        return counts, texts

    def _columns(self, features: dict[str, Any]) -> dict[str, str | None]:
        there, options = list(features), self.options
        found = {
            "text": find_column(there, options.text_column, TEXT_COLUMNS),
            "speaker": find_column(there, options.speaker_column, SPEAKER_COLUMNS),
            "language": find_column(there, None, LANGUAGE_COLUMNS),
        }
        for what, asked in (("text", options.text_column or TEXT_COLUMNS), ("speaker", options.speaker_column)):
            if asked and found[what] is None:
                names = asked if isinstance(asked, str) else ", ".join(asked)
                raise CorpusError(f"{self.name} has no column with the {what} ({names}); there are: {', '.join(there)}")
        return found | {name: name for name in ID_COLUMNS if name in there}

    def _audio_column(self, features: dict[str, Any]) -> str:
        asked = self.options.audio_column
        audio = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
        if asked is None and len(audio) == 1:
            return audio[0]
        if (asked or "audio") in features:
            return asked or "audio"
        problem = f"no column {asked}" if asked else "several columns of audio" if audio else "no column of audio"
        listed = ", ".join(audio or features)
        raise CorpusError(f"{self.name} has {problem}; there are: {listed}: name one as audio column")

    @cached_property
    def _builder(self) -> Any:
        return datasets.load_dataset_builder(self.name, self.options.dataset_config)

    def _on_hub(self) -> dict[str, str] | None:
        """Name, configuration and commit, by which anyone has the same dataset; None for a folder of this machine."""
        if Path(self.name).exists():
            return None
        return {"name": self.name, "config": self._builder.config.name, "revision": self._builder.hash}

    def _root(self, spec: DatasetSpec) -> str:
        if spec.files:
            return str(Path(spec.files[0]).parent)
        return self.name if Path(self.name).exists() else f"hf://datasets/{self.name}"


def _clips(
    spec: DatasetSpec, texts: list[dict[str, Any]], columns: dict[str, str | None]
) -> tuple[list[Clip], list[Rejected]]:
    """A clip for each row that has text; its id is that of a column in which they all differ, or the row's number."""
    numbered = [f"{spec.split}-row-{number:08d}" for number in range(len(texts))]
    named = ([PurePosixPath(str(row[name] or "")).name for row in texts] for name in ID_COLUMNS if name in columns)
    ids = next((names for names in named if "" not in names and max(Counter(names).values()) == 1), numbered)
    clips, rejected = [], []
    for number, (clip_id, row) in enumerate(zip(ids, texts, strict=True)):
        text, speaker = row[columns["text"] or ""], row[columns["speaker"]] if columns["speaker"] else None
        if isinstance(text, str):
            spoken_by = "" if speaker is None else str(speaker)
            clips.append(Clip(clip_id, DatasetRow(spec, number), text.strip(), spoken_by))
        else:
            rejected.append(Rejected(clip_id, "incomplete row", f"no text in {columns['text']}"))
    return clips, rejected


def _load(name: str, config: str | None, split: str, streaming: bool, columns: list[str] | None = None) -> Any:
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
        return dict(self.rows[row][self.column] or {})


class _Streamed:
    """Rows of a stream: cheap forwards, from the beginning of a file backwards."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        self.lock = Lock()
        with _told(spec.name):
            rows = _load(spec.name, spec.config, spec.split, streaming=True, columns=[spec.audio_column])
            self.rows = _undecoded(rows, spec.audio_column)
        self.position = -1
        self.iterator: Iterator[Any] = iter(())

    def audio(self, row: int) -> dict[str, Any]:
        with self.lock, _told(self.spec.name):
            file = bisect_right(self.spec.edges, row) - 1
            if not self.spec.edges[file] <= self.position <= row and self.position != row:
                self.iterator, self.position = self._from(file, row), row
            for audio in self.iterator:
                self.position += 1
                if self.position > row:
                    return dict(audio or {})
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
def _told(name: str) -> Iterator[None]:
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
