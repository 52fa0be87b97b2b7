"""A Hugging Face dataset, by its name on the hub or as a folder, read by `datasets` without decoding its audio.

Planning reads the columns of text alone. With streaming nothing is kept; how workers open the rows: `hub_rows`.

`datasets` takes a second to import, so this module is imported for such a source only.
"""

from collections import Counter
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from upath import UPath

from data.clips import Clip, CorpusError, Rejected, Split, language_code
from data.hub_rows import SAVED, DatasetRow, DatasetSpec, load_split, told
from data.manifest_rows import LANGUAGE_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, find_column
from data.source_options import SourceOptions

FILES = tuple(f"{folders}*.{end}" for folders in ("", "*/", "*/*/") for end in ("parquet", "arrow"))
ID_COLUMNS = ("id", "path")
BATCH = 1000
PLAIN = ("string", "large_string", "binary", "large_binary")  # audio as a path or as bytes, in no struct


def is_dataset_folder(folder: UPath) -> bool:
    """Whether `folder` holds a dataset in files of Parquet or Arrow."""
    return any((folder / name).is_file() for name in SAVED) or any(any(folder.glob(files)) for files in FILES)


class HubDataset:
    """A dataset with the columns that `options` name."""

    kind = "a Hugging Face dataset"

    def __init__(self, name: str, options: SourceOptions) -> None:
        self.name, self.options = name, options
        self.saved = any(Path(name, file).is_file() for file in SAVED)

    def splits(self) -> list[str] | None:
        """The names of the splits; None for a single one that was saved without a name."""
        with told(self.name):
            if self.saved:
                saved = datasets.load_from_disk(self.name)
                names = list(saved) if isinstance(saved, dict) else [saved.split] if saved.split else []
                return sorted(map(str, names)) or None
            return sorted(map(str, self._builder.info.splits or self._builder.config.data_files or ()))

    def read(self, split: str) -> Split:
        """The rows of `split` that have text."""
        streaming = self.options.streaming and not self.saved
        with told(self.name):
            if streaming:
                rows: Any = load_split(self.name, self.options.dataset_config, split, streaming=True)
            else:
                rows = load_split(self.name, self.options.dataset_config, split, streaming=False)
            features = rows.features or dict.fromkeys(next(iter(rows), {}))
            columns = self._columns(features)
            audio_column = self._audio_column(features)
            self._check_audio(audio_column, features[audio_column], columns["text"])
            wanted = list(dict.fromkeys(name for name in columns.values() if name))
            counts, texts = self._read_texts(split, rows, wanted, streaming)
            dataset = self._on_hub()
        files = () if streaming else tuple(file["filename"] for file in rows.cache_files)
        edges = tuple(accumulate(counts, initial=0)) if streaming else ()
        folder = str(Path(self.name).absolute()) if Path(self.name).is_dir() else ""
        spec = DatasetSpec(self.name, self.options.dataset_config, split, audio_column, files, edges, folder)
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
            rows = load_split(self.name, self.options.dataset_config, split, streaming=True, columns=columns)
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

    def _check_audio(self, column: str, feature: Any, text_column: str | None) -> None:
        """`CorpusError` if `column` is of a type that holds no encoded audio; one not known shows when it is read."""
        plain = isinstance(feature, datasets.Value) and feature.dtype in PLAIN and column != text_column
        struct = isinstance(feature, dict) and ("bytes" in feature or ("path" in feature and "array" not in feature))
        if feature is None or isinstance(feature, datasets.Audio) or plain or struct:
            return
        decoded = isinstance(feature, datasets.List) or "array" in str(feature)
        what = "the text" if column == text_column else "decoded samples" if decoded else str(feature)
        raise CorpusError(
            f"column {column} of {self.name} is {what}: audio is files' bytes, or their paths, "
            "or both as datasets.Audio has them; name another as audio column"
        )

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
