"""The manifest and the index of a finished set of shards: read, checked, and the index written."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from data.errors import UserError
from data.storage import new_file, parquet_table

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.parquet"
INDEX_TYPES = {
    "id": pa.string(),
    "copy": pa.int32(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "length": pa.int64(),
    "frames": pa.int32(),
    "tokens": pa.int32(),
    "seconds": pa.float32(),
    "speaker": pa.string(),
    "augmentations": pa.string(),
    "features_crc32c": pa.int64(),
}


class ShardError(UserError):
    """Shards that are missing, damaged or of another kind than asked for."""


def write_index(folder: UPath, parts: Iterable[dict[str, list[Any]]]) -> str:
    """Write the folder's index from its `parts` (every name of `INDEX_TYPES`), one in memory at a time; its SHA-256."""
    schema = pa.schema(list(INDEX_TYPES.items()))
    with new_file(folder / INDEX) as file:
        with pq.ParquetWriter(file, schema) as writer:
            for columns in parts:
                writer.write_table(pa.table(columns, schema))
        file.flush()
        with Path(file.name).open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def damaged_shards(folder: UPath, manifest: dict[str, Any]) -> dict[int, str]:
    """The shards, by number, that are missing or not of the manifest's size, and what is wrong with each."""
    found = {}
    for number, shard in enumerate(manifest["shards"]):
        path = folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            is_so = "is missing" if size is None else f"has {size} bytes"
            found[number] = f"{path} {is_so}, its manifest says {shard['bytes']}"
    return found


def read_manifest(folder: UPath) -> dict[str, Any]:
    """A finished set's manifest; `ShardError` if it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ShardError(f"{folder} holds no finished shards ({MANIFEST} is missing): run featurize") from None
    except ValueError as error:
        raise _not_usable(path, f"is not JSON ({error})") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise _not_usable(path, f"has format version {version}, this program reads {FORMAT_VERSION}")
    if not isinstance(manifest.get("records"), int) or not _are_shards(manifest.get("shards")):
        raise _not_usable(path, "does not tell what is in the shards")
    return manifest


def _are_shards(listed: Any) -> bool:
    needed = {"file", "bytes", "sha256"}
    return isinstance(listed, list) and all(isinstance(entry, dict) and entry.keys() >= needed for entry in listed)


def _not_usable(path: UPath, problem: str) -> ShardError:
    return ShardError(f"{path} {problem}: delete {path.parent} and run featurize again")


def read_index(folder: UPath) -> dict[str, np.ndarray]:
    """The index's columns; `ShardError` if it is missing or damaged."""
    path = folder / INDEX
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _not_usable(path, "is missing") from None
    try:
        table = parquet_table(content)
        columns = {name: table[name].to_numpy() for name in INDEX_TYPES if name in table.column_names}
    except (OSError, ValueError, pa.ArrowException) as error:  # Arrow's are of all three kinds
        raise _not_usable(path, f"cannot be read ({' '.join(str(error).split())})") from error
    if missing := INDEX_TYPES.keys() - columns.keys():
        raise _not_usable(path, f"lacks the columns {sorted(missing)}")
    return columns
