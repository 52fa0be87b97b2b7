"""The command `python -m data.verify`: read every byte of finished shards again and name the first corrupt one.

Three witnesses tell what the bytes should be, and two convict the third: the records' own checksums, the index with the
place and content of each record, and the manifest with each file's SHA-256. Files are read, not mapped into memory: a
disk that cannot give a byte then raises an error, which is reported, and not a signal, which kills.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import tyro
from google.protobuf.message import DecodeError
from tqdm import tqdm
from upath import UPath

from data.corruption import Fault, find_fault, is_whole
from data.errors import UserError, command
from data.records import Record, decode
from data.set_damage import MISSING, Damage, check_index, read_index, read_manifest
from data.set_files import INDEX, MANIFEST, ShardError
from data.split_names import folder_name
from data.storage import open_folder, reading
from data.tfrecord import FOOTER, FRAMING_BYTES, HEADER

BLOCK = 2**20  # bytes read at once where no record is known

Row = dict[str, Any]


@dataclass(frozen=True)
class VerifyConfig:
    """Read finished shards again and name file, record and offset of the first corrupt byte of each damaged file."""

    shards: str
    """Folder, local or remote, that featurize wrote into."""
    split: str | None = None
    """One split; by default all that are finished."""


def verify(config: VerifyConfig) -> None:
    """Print a line for each split that is whole; `UserError` with a line for each damaged file."""
    with reading(config.shards):
        folders = _find_folders(open_folder(config.shards), config.split)
    damages = [Damage(folder) for folder in folders]
    manifests = [read_manifest(damage) for damage in damages]
    total = sum(entry["bytes"] for manifest in manifests if manifest for entry in manifest["shards"])
    with tqdm(total=total, unit="B", unit_scale=True, smoothing=0.1, dynamic_ncols=True) as bar:
        for damage, manifest in zip(damages, manifests, strict=True):
            if manifest is None:
                continue
            started = time.monotonic()
            _verify_split(damage, manifest, bar)
            if not damage.found:
                rate = manifest["bytes"] / 1e6 / (time.monotonic() - started)
                hours = f"{manifest['seconds'] / 3600:.2f} h"
                counts = f"{len(manifest['shards'])} shards, {manifest['records']:,} records, {hours}"
                bar.write(f"{damage.folder}: {counts}, {manifest['bytes']:,} bytes, all as written ({rate:,.0f} MB/s)")
    if lines := [line for damage in damages for line in damage.lines()]:
        raise UserError("\n".join([f"{config.shards}: {len(lines)} damaged:", *lines]))


def _find_folders(shards_dir: UPath, split: str | None) -> list[UPath]:
    """The folder of `split`, or all that hold a finished set, or held one: the index is written after all shards."""
    if not shards_dir.is_dir():
        raise ShardError(f"no shards: {shards_dir} is not a folder; make them with `make featurize`")
    folders = [path for path in shards_dir.iterdir() if any((path / name).is_file() for name in (MANIFEST, INDEX))]
    there = ", ".join(sorted(path.name for path in folders)) or "none"
    if split is not None:
        folders = [path for path in folders if path.name == folder_name(split)]
    if not folders:
        asked = "" if split is None else f" {split!r}"
        raise ShardError(f"{shards_dir} has no finished split{asked}; there are: {there}; run featurize")
    return sorted(folders, key=str)


def _verify_split(damage: Damage, manifest: dict[str, Any], bar: Any) -> None:
    """Note in `damage` what is wrong with the split; `bar` is told the bytes read."""
    index, as_written = read_index(damage, manifest)
    shards = {} if index is None else check_index(damage, manifest, index, as_written)
    n_mels = manifest["features"].get("n_mels")
    names = {entry["sha256"]: entry["file"] for entry in manifest["shards"]}
    for number, entry in enumerate(manifest["shards"]):
        path, sha256 = damage.folder / entry["file"], entry["sha256"]
        if not path.is_file():
            damage.add(path, MISSING)
            bar.update(entry["bytes"])
            continue
        reading = _Reading(path, shards.get(number), bar)
        if reading.error is not None:
            damage.add(path, f"byte {reading.size} and what follows cannot be read ({reading.error})")
        elif reading.sha256 == sha256:  # the file is as written: what contradicts it is not
            if reading.bad:
                damage.add(damage.folder / INDEX, f"{path.name} is as written, yet {reading.bad.say(path, sha256)}")
            if reading.n_mels - {n_mels}:
                damage.add(damage.folder / MANIFEST, f"n_mels is {n_mels}, {path.name} has {reading.n_mels}")
            if reading.size != entry["bytes"]:
                damage.add(damage.folder / MANIFEST, f"{path.name} has {reading.size} bytes, not {entry['bytes']}")
        elif reading.sha256 in names:
            damage.add(path, f"byte 0 and what follows: these are the bytes of {names[reading.sha256]}")
        elif reading.bad:
            damage.add(path, reading.bad.say(path, sha256))
        elif reading.known is not None and reading.size > reading.known:
            damage.add(path, f"byte {reading.known} and what follows: {reading.size - reading.known} bytes too many")
        else:
            whole = "" if reading.known is None else "every record is whole, yet "
            damage.add(path, f"{whole}its SHA-256 is {reading.sha256}, the manifest says {sha256}")
    if index is not None and not as_written:
        damage.add(damage.folder / INDEX, f"its SHA-256 is not the manifest's, {manifest['index_sha256']}")


@dataclass(frozen=True)
class _BadRecord:
    """The first damaged record of a shard: its row, what is wrong with it, and the bytes in its place."""

    row: Row
    fault: Fault
    framed: bytes

    def say(self, path: UPath, sha256: str) -> str:
        """The record and its first corrupt byte, by its position in the file `path`, which should have `sha256`."""
        row, fault, start = self.row, self.fault, self.row["offset"]
        record = f"record {row['id']} copy {row['copy']} (bytes {start} to {start + row['length'] + FRAMING_BYTES - 1})"
        if fault.end - fault.start > 1:
            return f"{record}: {fault.what}, among bytes {start + fault.start} to {start + fault.end - 1}"
        mended = fault.mended
        if len(mended) > 1:  # the one that also mends the file, if it has no other damage
            mended = tuple((at, right) for at, right in mended if _sha256_with(path, start + at, right) == sha256)
        if len(mended) != 1:
            maybe = "probably " if fault.mended else ""
            return f"{record}: {maybe}byte {start + fault.start}, {fault.what}"
        ((at, right),) = mended
        return f"{record}: byte {start + at} is 0x{self.framed[at]:02x}, not 0x{right:02x}, {fault.what}"


class _Reading:
    """A shard read from start to end, against the rows its index has for it (None if these cannot be trusted)."""

    def __init__(self, path: UPath, rows: dict[str, np.ndarray] | None, bar: Any) -> None:
        self.size = 0
        """Bytes read."""
        self.known: int | None = None
        """Where the last record ends."""
        self.bad: _BadRecord | None = None
        self.n_mels: set[int] = set()
        """Mel bins of its records."""
        self.error: OSError | None = None
        self._digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                if rows is not None:
                    self._read_records(file, rows, bar)
                while rest := self._read(file, BLOCK):
                    bar.update(len(rest))
        except OSError as error:
            self.error = error
        self.sha256 = self._digest.hexdigest()

    def _read(self, file: BinaryIO, count: int) -> bytes:
        content = file.read(count)
        self.size += len(content)
        self._digest.update(content)
        return content

    def _read_records(self, file: BinaryIO, rows: dict[str, np.ndarray], bar: Any) -> None:
        self.known = 0
        for row in _each(rows):
            length = row["length"]
            # In three pieces: cutting the payload out of one would copy it once more, a tenth of all the time.
            header, payload, footer = (self._read(file, count) for count in (HEADER.size, length, FOOTER.size))
            self.known += length + FRAMING_BYTES
            bar.update(len(header) + len(payload) + len(footer))
            if self.bad is None:
                if is_whole(header, payload, footer, length):
                    fault = self._contradiction(payload, row)
                else:
                    fault = find_fault(header + payload + footer, length)
                if fault is not None:
                    self.bad = _BadRecord(row, fault, header + payload + footer)

    def _contradiction(self, payload: bytes, row: Row) -> Fault | None:
        """What a record whose checksums are right has otherwise than its row of the index says."""
        try:
            record = decode(payload)
        except (ValueError, IndexError, DecodeError) as error:
            return Fault(
                f"its checksums are right, yet it is no record ({error})", HEADER.size, HEADER.size + len(payload)
            )
        self.n_mels.add(record.log_mel_q.shape[1])
        for name, value in _columns(record).items():
            if row[name] != value:
                says = f"its {name} is {value!r}, its row in the index says {row[name]!r}"
                return Fault(says, HEADER.size, HEADER.size + len(payload))
        return None


def _sha256_with(path: UPath, position: int, value: int) -> str:
    """The SHA-256 of `path` if its byte at `position` were `value`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(BLOCK):
            if 0 <= position < len(content):
                content = content[:position] + bytes([value]) + content[position + 1 :]
            digest.update(content)
            position -= len(content)
    return digest.hexdigest()


def _columns(record: Record) -> Row:
    """What the index says of `record`, in the order of telling."""
    return {
        "id": record.id,
        "copy": record.copy,
        "speaker": record.speaker,
        "frames": len(record.log_mel_q),
        "tokens": len(record.tokens),
        "seconds": record.seconds,
        "features_crc32c": google_crc32c.value(record.log_mel_q),
    }


def _each(rows: dict[str, np.ndarray]) -> Iterator[Row]:
    """The rows of an index one by one, as plain Python values."""
    columns = [column.tolist() for column in rows.values()]
    for values in zip(*columns, strict=True):
        yield dict(zip(rows, values, strict=True))


def main() -> None:
    """The command line."""
    verify(tyro.cli(VerifyConfig, prog="python -m data.verify"))


if __name__ == "__main__":
    command(main)()
