"""A finished set of made records, harm done to a byte of it, and the damage that verify then names."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.records import Record, ShardWriter
from data.set_files import write_index
from data.verify import VerifyConfig, verify

FIRST, SECOND = (f"train-{number:05d}-of-00002.tfrecord" for number in range(2))
RECORDS = 5  # in a shard


def make_record(number: int, frames: int = 0) -> Record:
    """A record of `frames` frames; by default each of another length, as real ones are."""
    rng = np.random.default_rng(number)
    log_mel_q = rng.integers(0, 256, (frames or 30 + number, 80), dtype=np.uint8)
    return Record(f"clip_{number}.mp3", number % 2, log_mel_q, 0.5, "Perché?", (220, number), "anna", 0.3)


def write_set(folder: Path, frames: int = 0) -> None:
    """A finished set of ten records in two shards."""
    folder.mkdir(parents=True)
    parts, entries = [], []
    for shard, name in enumerate((FIRST, SECOND)):
        with ShardWriter(folder / name) as writer:
            for number in range(RECORDS):
                writer.write(make_record(RECORDS * shard + number, frames))
        entries.append({"file": name, "records": RECORDS, "bytes": writer.size, "sha256": writer.sha256})
        parts.append(writer.rows | {"shard": [shard] * RECORDS})
    manifest = {
        "format_version": 1,
        "features": {"n_mels": 80},
        "records": 2 * RECORDS,
        "bytes": sum(entry["bytes"] for entry in entries),
        "frames": sum(sum(part["frames"]) for part in parts),
        "seconds": round(sum(sum(part["seconds"]) for part in parts), 3),
        "index_sha256": write_index(folder, parts),
        "shards": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def damage_found(folder: Path) -> list[str]:
    """The lines about damaged files, without the folder's name."""
    with pytest.raises(UserError) as error:
        verify(VerifyConfig(str(folder.parent)))
    first, *lines = str(error.value).splitlines()
    assert first == f"{folder.parent}: {len(lines)} damaged:"
    return [line.replace(f"{folder}/", "") for line in lines]


def place(folder: Path, number: int) -> tuple[int, int]:
    """Offset and length of record `number` by the index."""
    index = pq.read_table(folder / "index.parquet")
    return index["offset"][number].as_py(), index["length"][number].as_py()


def change(path: Path, position: int, xor: int) -> tuple[int, int]:
    """Damage one byte; what it is now, and what it was."""
    content = bytearray(path.read_bytes())
    content[position] ^= xor
    path.write_bytes(content)
    return content[position], content[position] ^ xor
