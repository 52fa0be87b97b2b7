"""A finished set's manifest and index: whether they can be read, and agree with each other; and notes of what does not.

Of the two the index is checked by its SHA-256, which the manifest has, so a contradiction can be blamed on one of them.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from data.set_files import FORMAT_VERSION, INDEX, INDEX_TYPES, MANIFEST
from data.storage import parquet_table
from data.tfrecord import FRAMING_BYTES

MANIFEST_TYPES: dict[str, Any] = {
    "format_version": int,
    "records": int,
    "bytes": int,
    "frames": int,
    "seconds": (int, float),
    "features": dict,
    "index_sha256": str,
    "shards": list,
}
SHARD_TYPES = {"file": str, "records": int, "bytes": int, "sha256": str}
MISSING = "is missing"


@dataclass
class Damage:
    """What is wrong with the files of one split."""

    folder: UPath
    found: dict[UPath, list[str]] = field(default_factory=dict)

    def add(self, path: UPath, what: str) -> None:
        """Note `what` about `path`."""
        self.found.setdefault(path, []).append(what)

    def lines(self) -> list[str]:
        """One line for each damaged file: what was noted first, and what to do."""
        lines = []
        for path, (what, *others) in self.found.items():
            more = f" (and {len(others)} more)" if others else ""
            delete = "" if what == MISSING else f"delete {path if self._is_shard(path) else self.folder} and "
            lines.append(f"{path}: {what}{more}; {delete}run the same featurize command again")
        return lines

    def _is_shard(self, path: UPath) -> bool:
        return path.name not in (MANIFEST, INDEX)


def read_manifest(damage: Damage) -> dict[str, Any] | None:
    """The manifest, or None if it cannot be used."""
    path = damage.folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        damage.add(path, MISSING)
        return None
    except (ValueError, OSError) as error:
        damage.add(path, f"cannot be read ({error})")
        return None
    wrong = _mistyped(manifest, MANIFEST_TYPES)
    if not wrong and manifest["format_version"] != FORMAT_VERSION:
        wrong = [f"format version {manifest['format_version']}, this program reads {FORMAT_VERSION}"]
    wrong = wrong or [phrase for entry in manifest["shards"] for phrase in _mistyped(entry, SHARD_TYPES)]
    wrong = wrong or [f"{entry['file']!r} is not a file name" for entry in manifest["shards"] if "/" in entry["file"]]
    for phrase in wrong:
        damage.add(path, phrase)
    return None if wrong else manifest


def _mistyped(there: Any, types: dict[str, Any]) -> list[str]:
    """What a manifest, or a shard's entry in it, lacks."""
    if not isinstance(there, dict):
        return [f"holds {json.dumps(there)[:50]} where {', '.join(types)} should be"]
    return [f"{name} is {there.get(name)!r}" for name, kind in types.items() if not isinstance(there.get(name), kind)]


def read_index(damage: Damage, manifest: dict[str, Any]) -> tuple[dict[str, np.ndarray] | None, bool]:
    """The index's columns (None if it cannot be read), and whether the file is as the manifest has it."""
    path = damage.folder / INDEX
    try:
        content = path.read_bytes()
        table = parquet_table(content)
    except FileNotFoundError:
        damage.add(path, MISSING)
        return None, False
    except (OSError, pa.ArrowException) as error:
        damage.add(path, f"cannot be read ({' '.join(str(error).split())})")
        return None, False
    kinds = {name: table.schema.field(name).type if name in table.column_names else None for name in INDEX_TYPES}
    wrong = [f"column {name} is {kinds[name]}, not {kind}" for name, kind in INDEX_TYPES.items() if kinds[name] != kind]
    wrong = wrong or [f"column {name} has empty cells" for name in INDEX_TYPES if table[name].null_count]
    for phrase in wrong:
        damage.add(path, phrase)
    as_written = hashlib.sha256(content).hexdigest() == manifest["index_sha256"]
    return None if wrong else {name: table[name].to_numpy() for name in INDEX_TYPES}, as_written


def check_index(
    damage: Damage, manifest: dict[str, Any], index: dict[str, np.ndarray], as_written: bool
) -> dict[int, dict[str, np.ndarray]]:
    """The rows of each shard by number; a shard whose rows do not lie one after the other is left out."""
    path = damage.folder / INDEX
    blamed = damage.folder / MANIFEST if as_written else path
    _compare_totals(damage, blamed, manifest, index)
    order = index["shard"]
    if len(order) and (np.diff(order).min(initial=0) < 0 or order[0] < 0 or order[-1] >= len(manifest["shards"])):
        damage.add(path, "its rows are not in the order of the shards")
        return {}
    rows = {}
    for number, entry in enumerate(manifest["shards"]):
        here = slice(*np.searchsorted(order, [number, number + 1]).tolist())
        ends = np.concatenate([[0], np.cumsum(index["length"][here] + FRAMING_BYTES)])
        apart = (index["offset"][here] != ends[:-1]) | (index["length"][here] < 0)
        if apart.any():
            row = here.start + int(np.argmax(apart))
            record = f"record {index['id'][row]} copy {index['copy'][row]}"
            at = f"at {index['offset'][row]}, the one before ends at {ends[row - here.start]}"
            damage.add(path, f"row {row} ({record}) is {at}")
            continue
        if (ends[-1], len(ends) - 1) != (entry["bytes"], entry["records"]):
            there = f"{entry['records']} records in {entry['bytes']} bytes"
            damage.add(
                blamed, f"{entry['file']} has {there} by the manifest, {len(ends) - 1} in {ends[-1]} by the index"
            )
        if ends[-1] == entry["bytes"] or as_written:
            rows[number] = {name: column[here] for name, column in index.items()}
    return rows


def _compare_totals(damage: Damage, blamed: UPath, manifest: dict[str, Any], index: dict[str, np.ndarray]) -> None:
    totals = {
        "records": len(index["id"]),
        "bytes": int((index["length"] + FRAMING_BYTES).sum()),
        "frames": int(index["frames"].sum()),
        "seconds": round(sum(index["seconds"].tolist()), 3),
    }
    if isinstance(manifest.get("clean_seconds"), int | float):  # sets of earlier versions lack it
        totals["clean_seconds"] = round(sum(index["seconds"][index["copy"] == 0].tolist()), 3)
    for name, total in totals.items():
        if abs(manifest[name] - total) > (0.002 if "seconds" in name else 0):  # s: another order of adding
            damage.add(blamed, f"{name} is {manifest[name]} by the manifest, {total} by the index")
