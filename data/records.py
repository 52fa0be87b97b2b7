"""The shards' schema, writer and random-access reader.

A record is one clip's features as a `tf.train.Example` in a TFRecord file, so that any TFRecord reader opens the
shards. Serialization is deterministic: the same clip gives the same bytes in every run. The index beside the shards
says where each record stands, which makes global shuffling, packing plans and resuming possible without a scan.
Checking a record's CRC-32C costs a tenth of reading it, so it is never skipped: a flipped bit is named by file, record
and offset instead of being trained on.

Shapes: F mel frames, M mel bins, L tokens.
"""

import hashlib
import mmap
import operator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Bool, UInt8
from upath import UPath

from data.set_files import INDEX, INDEX_TYPES, MANIFEST, ShardError, damaged_shards, read_index, read_manifest
from data.split_names import folder_name
from data.storage import local_copy, new_file
from data.tfrecord import Example, RecordError, frame, unframe


@dataclass(frozen=True, eq=False)
class Record:
    """One clip, or one augmented copy of it."""

    id: str
    """Stable clip id; for Common Voice the file name."""
    copy: int
    """0 as recorded, 1…K augmented."""
    log_mel_q: UInt8[np.ndarray, "F M"]
    """The unpadded log-mel in 255 steps, see `data.log_mel.quantize`."""
    log_mel_max: float
    """The clip's maximum in Whisper's normalised units."""
    text: str
    """The sentence as written."""
    tokens: tuple[int, ...]
    """Text tokens of " " + sentence, without special tokens."""
    speaker: str
    """Common Voice's client_id."""
    seconds: float
    """Duration of the audio behind `log_mel_q`."""


def encode(record: Record) -> bytes:
    """`record` as a serialized `tf.train.Example`."""
    frames, n_mels = record.log_mel_q.shape
    example = Example()
    feature = example.features.feature
    feature["id"].bytes_list.value.append(record.id.encode())
    feature["copy"].int64_list.value.append(record.copy)
    feature["log_mel"].bytes_list.value.append(record.log_mel_q.tobytes())
    feature["log_mel_max"].float_list.value.append(record.log_mel_max)
    feature["frames"].int64_list.value.append(frames)
    feature["n_mels"].int64_list.value.append(n_mels)
    feature["text"].bytes_list.value.append(record.text.encode())
    feature["tokens"].int64_list.value.extend(record.tokens)
    feature["speaker"].bytes_list.value.append(record.speaker.encode())
    feature["seconds"].float_list.value.append(record.seconds)
    payload: bytes = example.SerializeToString(deterministic=True)
    return payload


def decode(payload: bytes) -> Record:
    """The record `encode` was given; its array is a read-only view."""
    feature = Example.FromString(payload).features.feature
    frames, n_mels = feature["frames"].int64_list.value[0], feature["n_mels"].int64_list.value[0]
    return Record(
        id=feature["id"].bytes_list.value[0].decode(),
        copy=feature["copy"].int64_list.value[0],
        log_mel_q=np.frombuffer(feature["log_mel"].bytes_list.value[0], np.uint8).reshape(frames, n_mels),
        log_mel_max=feature["log_mel_max"].float_list.value[0],
        text=feature["text"].bytes_list.value[0].decode(),
        tokens=tuple(feature["tokens"].int64_list.value),
        speaker=feature["speaker"].bytes_list.value[0].decode(),
        seconds=feature["seconds"].float_list.value[0],
    )


class ShardWriter:
    """Writes records to `path`, which appears only when all are in it.

    After a clean exit `rows` holds the index columns of what was written (`offset` is where a record's framing starts,
    `length` its payload's bytes), `size` the bytes and `sha256` the file's checksum.
    """

    def __init__(self, path: UPath | Path) -> None:
        self.path = UPath(path)
        self.size = 0
        self.sha256 = ""
        self.rows: dict[str, list[Any]] = {name: [] for name in INDEX_TYPES if name != "shard"}
        self._digest = hashlib.sha256()

    def __enter__(self) -> "ShardWriter":
        self._new = new_file(self.path)
        self._file = self._new.__enter__()
        return self

    def write(self, record: Record, augmentations: str = "") -> None:
        """Append `record`; `augmentations` (JSON: what was drawn) goes into the index only."""
        payload = encode(record)
        row = {
            "id": record.id,
            "copy": record.copy,
            "offset": self.size,
            "length": len(payload),
            "frames": record.log_mel_q.shape[0],
            "tokens": len(record.tokens),
            "seconds": float(np.float32(record.seconds)),
            "speaker": record.speaker,
            "augmentations": augmentations,
            "features_crc32c": google_crc32c.value(record.log_mel_q),
        }
        self._append(payload, row)

    def copy(self, payload: bytes, row: dict[str, Any]) -> None:
        """Append a record of another shard as it is, with its index `row` there."""
        self._append(payload, {**row, "offset": self.size})

    def _append(self, payload: bytes, row: dict[str, Any]) -> None:
        framed = frame(payload)
        self._file.write(framed)
        self._digest.update(framed)
        for name, column in self.rows.items():
            column.append(row[name])
        self.size += len(framed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sha256 = self._digest.hexdigest()
        self._new.__exit__(kind, error, trace)


class Shards:
    """One split's records by position: `len(shards)`, `shards[i]`.

    `index` maps each column's name to a NumPy array with an entry per record, `manifest` is the parsed file.
    Pickling keeps the folder and the choice of records; files are opened on first use, so a copy per reader process
    costs nothing.
    """

    def __init__(self, folder: UPath | Path | str, chosen: Bool[np.ndarray, "N"] | None = None) -> None:
        self.folder, self._chosen = UPath(folder), chosen
        self.manifest = read_manifest(self.folder)
        for damage in damaged_shards(self.folder, self.manifest).values():
            raise ShardError(f"{damage}: run featurize again")
        self.index = read_index(self.folder)
        if len(self) != self.manifest["records"]:
            raise ShardError(
                f"{self.folder / INDEX} has {len(self)} rows, the manifest {self.manifest['records']} records: "
                f"delete {self.folder} and run featurize again"
            )
        if chosen is not None:
            self.index = {name: column[chosen] for name, column in self.index.items()}
        self._maps: dict[int, mmap.mmap] = {}

    @classmethod
    def open(cls, shards_dir: UPath | Path | str, split: str) -> "Shards":
        """The shards of `split` in `shards_dir`."""
        shards_dir = UPath(shards_dir)
        if not shards_dir.is_dir():
            raise ShardError(f"no shards: {shards_dir} is not a folder; make them with `make featurize`")
        folder = shards_dir / folder_name(split)
        if not (folder / MANIFEST).is_file():
            there = sorted(path.parent.name for path in shards_dir.glob(f"*/{MANIFEST}"))
            unfinished = " (it is not finished: run featurize again)" if folder.is_dir() else ""
            raise ShardError(
                f"{shards_dir} has no split {split!r}{unfinished}; there are: {', '.join(there) or 'none'}"
            )
        return cls(folder)

    def only(self, chosen: Bool[np.ndarray, "N"]) -> "Shards":
        """A view of the records where `chosen` is true, of the whole split; the manifest stays the split's."""
        if self._chosen is not None:
            raise ValueError("a view of a view")
        return Shards(self.folder, chosen)

    def __len__(self) -> int:
        return len(self.index["id"])

    def __getitem__(self, position: int) -> Record:
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        number = int(self.index["shard"][position])
        offset, length = int(self.index["offset"][position]), int(self.index["length"][position])
        try:
            return decode(unframe(self._map(number), offset, length))
        except RecordError as error:
            path = self.folder / self.manifest["shards"][number]["file"]
            raise ShardError(
                f"{path}: record {self.index['id'][position]} copy {self.index['copy'][position]} at byte {offset}: "
                f"{error}; delete that file and run featurize again"
            ) from error

    def _map(self, number: int) -> mmap.mmap:
        if number not in self._maps:
            shard = self.manifest["shards"][number]
            path = local_copy(self.folder / shard["file"], shard["sha256"])
            with path.open("rb") as file:
                self._maps[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "chosen": self._chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Shards({str(self.folder)!r})"
