"""Random access to the bytes of a tar that may be compressed and may be remote.

Decompression starts at the points the index has, so the stretch from one point to the next (about 16 MB) is
decompressed as a whole and the last two are kept: whoever reads forwards decompresses everything once. Readers are
opened once per process and may be used by several threads.
"""

import os
from bisect import bisect_left, bisect_right
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from weakref import finalize

import indexed_gzip
from upath import UPath

from data.errors import UserError

SPACING = 16 << 20  # bytes between two points: 32 kB of index each, so 16 MB for an archive of 8 GB
KEPT = 2  # stretches in memory


class Reader(Protocol):
    """An open archive."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the decompressed archive from `offset` on; `UserError` if they cannot be had."""


@cache
def open_reader(archive: str, index: str, archive_bytes: int, process: int) -> Reader:  # noqa: ARG001
    """The reader of `archive` in this `process` (a child must not share its parent's file position)."""
    _check_size(archive, archive_bytes)
    return GzipReader(archive, index, archive_bytes) if index else TarReader(archive, archive_bytes)


def size_of(archive: str) -> int:
    """Bytes of the file `archive`; `UserError` if it is gone."""
    try:
        return int(UPath(archive).stat().st_size if "://" in archive else Path(archive).stat().st_size)
    except FileNotFoundError:
        raise UserError(f"{archive} is gone; put it back and run the same command again to continue") from None


def open_archive(archive: str) -> Any:
    """`archive` as a binary file, without a buffer of its own if it is local."""
    return UPath(archive).open("rb") if "://" in archive else open(archive, "rb", buffering=0)  # noqa: PTH123


class GzipReader:
    """A compressed archive with its index."""

    def __init__(self, archive: str, index: str, archive_bytes: int) -> None:
        self.archive, self.archive_bytes = archive, archive_bytes
        self.lock = Lock()
        self.kept: dict[int, bytes] = {}
        try:
            # The buffer of the class would decompress past what is asked for, so its unbuffered inside is used.
            compressed = open_archive(archive)
            finalize(self, compressed.close)  # at the latest when the process ends
            self.file = indexed_gzip.IndexedGzipFile(fileobj=compressed, buffer_size=4096, spacing=SPACING)
            with UPath(index).open("rb") as points:
                self.file.import_index(fileobj=points)
        except OSError as error:
            raise UserError(f"{archive} or its index {index} cannot be read ({error}): delete the index") from error
        self.starts = [uncompressed for uncompressed, _ in self.file.seek_points()]
        self.stops = [*self.starts[1:], self.starts[-1] + 8 * SPACING]  # the last one ends where the archive does

    def read(self, offset: int, size: int) -> bytes:
        _check_unchanged(self.archive, self.archive_bytes)
        with self.lock:
            pieces = []
            first = bisect_right(self.starts, offset) - 1
            last = bisect_left(self.starts, offset + size)
            for number in range(first, max(last, first + 1)):
                start = self.starts[number]
                pieces.append(self._stretch(number)[max(offset - start, 0) : offset + size - start])
        content = b"".join(pieces)
        if len(content) != size:
            raise UserError(f"{self.archive} ends before byte {offset + size:,}: it is damaged, download it again")
        return content

    def _stretch(self, number: int) -> bytes:
        if number not in self.kept:
            start, stop = self.starts[number], self.stops[number]
            try:
                content: bytes = self.file.raw.pread(stop - start, start)
            except OSError as error:
                raise UserError(f"{self.archive} cannot be read after byte {start:,} ({error})") from error
            while len(self.kept) >= KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[number] = content
        return self.kept[number]


class TarReader:
    """An archive that is not compressed."""

    def __init__(self, archive: str, archive_bytes: int) -> None:
        self.archive, self.archive_bytes = archive, archive_bytes
        self.descriptor = None if "://" in archive else os.open(archive, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        _check_unchanged(self.archive, self.archive_bytes)
        try:
            if self.descriptor is None:
                path = UPath(self.archive)
                content: bytes = path.fs.cat_file(path.path, start=offset, end=offset + size)
            else:
                content = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise UserError(f"{self.archive} cannot be read after byte {offset:,} ({error})") from error
        if len(content) != size:
            raise UserError(f"{self.archive} ends before byte {offset + size:,}: it is damaged, download it again")
        return content


def _check_unchanged(archive: str, archive_bytes: int) -> None:
    """At every read of a local archive, where it takes microseconds; of a remote one, opening it did."""
    if "://" not in archive:
        _check_size(archive, archive_bytes)


def _check_size(archive: str, archive_bytes: int) -> None:
    if (size := size_of(archive)) != archive_bytes:
        raise UserError(
            f"{archive} has changed: {size:,} bytes now, {archive_bytes:,} when its members were listed; "
            "run the command again when it is whole"
        )
