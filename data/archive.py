"""Common Voice's own archive, a `.tar.gz` of one language, read as a stream and never extracted.

The first time, one pass over the archive notes where every member begins and keeps a point about every 16 MB from which
decompression can start; both go into a cache folder, so another read needs no pass. A shard's job then decompresses
only the stretch its clips are in: they are in the archive's order. Only regular files of the one language folder count;
links, devices and names that lead elsewhere are never followed.
"""

import hashlib
import json
import os
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import indexed_gzip
from tqdm import tqdm
from upath import UPath

from data.archive_reader import SPACING, open_archive, open_reader, size_of
from data.clips import NO_SUCH_FILE, Clip, ClipError, CorpusError, Split
from data.common_voice import CLIPS, DURATIONS, parse_durations, parse_tsv
from data.storage import open_folder, writing_to

GZIP = b"\x1f\x8b"
BLOCK = 1 << 20
MOST_DEFLATED = 1032  # bytes that one of a gzip can stand for
END = bytes(tarfile.BLOCKSIZE)  # a whole tar ends with blocks of zeros
Members = dict[str, tuple[int, int]]
"""Where each file begins in the decompressed archive, and its size, by its path in the language folder."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file in an archive, by its place in the decompressed stream."""

    archive: str
    index: str
    """File of seek points; empty for an archive that is not compressed."""
    archive_bytes: int
    """Size of the archive when its members were listed: another one is another archive."""
    offset: int
    size: int

    def load(self) -> bytes:
        """The file's bytes; `UserError` if the archive is gone or is another one."""
        reader = open_reader(self.archive, self.index, self.archive_bytes, os.getpid())
        return reader.read(self.offset, self.size)


class Archive:
    """One language's archive."""

    kind = "a Common Voice archive"

    def __init__(self, path: UPath, cache_folder: str | None = None) -> None:
        self.path = str(path)
        self.bytes = size_of(self.path)
        self.index, files = list_files(path, self.bytes, cache_folder)
        self.members = _one_language(self.path, files)

    def splits(self) -> list[str]:
        """The TSVs there are."""
        return sorted(name.removesuffix(".tsv") for name in self.members if name.endswith(".tsv"))

    def read(self, split: str) -> Split:
        """The clips that `split`.tsv lists, in its order; one that is not in the archive is rejected."""
        seconds = parse_durations(self._member(DURATIONS).load()) if DURATIONS in self.members else {}
        content = self._member(f"{split}.tsv").load()
        where = f"{self.path}/{split}.tsv"
        found = parse_tsv(where, content, self.path, lambda name: self._member(f"{CLIPS}/{name}"), seconds)
        return Split(self.path, found.clips, found.rejected, found.language, random_access=not self.index)

    def _member(self, name: str) -> ArchiveMember:
        if name not in self.members:
            raise ClipError(NO_SUCH_FILE, f"{name} is not in {self.path}")
        return ArchiveMember(self.path, self.index, self.bytes, *self.members[name])

    def arrange(self, clips: list[Clip]) -> list[Clip]:
        """In the order of their audio in the archive."""
        return sorted(clips, key=lambda clip: self.members[f"{CLIPS}/{clip.id}"])


def list_files(path: UPath, archive_bytes: int, cache_folder: str | None) -> tuple[str, Members]:
    """The file of seek points (empty if `path` is not compressed), and where the archive's regular files are.

    Both come from the cache if the archive was listed before and has not changed since.
    """
    folder = open_folder(cache_folder or str(_user_cache()))
    changed = path.stat().st_mtime
    key = hashlib.sha256(f"{path.absolute()}\t{archive_bytes}\t{changed}".encode()).hexdigest()[:12]
    index, listing = folder / f"{path.name}-{key}.gzidx", folder / f"{path.name}-{key}.files.json"
    with writing_to(folder):  # what the cache refuses is not the archive's fault
        listed = listing.is_file()
    if not listed:
        points, files = _scan(str(path), archive_bytes)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if points:
                _write(index, points)
            said = {"compressed": bool(points), "files": files}
            _write(listing, json.dumps(said).encode())  # last: it says all is there
    with writing_to(folder):
        content = json.loads(listing.read_bytes())
    return str(index) if content["compressed"] else "", {name: tuple(at) for name, at in content["files"].items()}


def _scan(archive: str, archive_bytes: int) -> tuple[bytes, Members]:
    """The seek points (none if `archive` is not compressed) and the regular files, from one pass over `archive`."""
    compressed = _is_compressed(archive)
    try:
        with open_archive(archive) as file:
            if compressed:
                stream = indexed_gzip.IndexedGzipFile(fileobj=file, spacing=SPACING)
            files, end = _walk(stream if compressed else file, file, archive, archive_bytes)
            if not compressed:
                file.seek(end)
                return b"", _whole(files, file.read(len(END)))
            while stream.read(BLOCK):  # up to the end, where the checksum is
                pass
            stream.seek(end)
            files = _whole(files, stream.read(len(END)))
            return _export(stream), files
    except (tarfile.TarError, EOFError, OSError, OverflowError, MemoryError) as error:  # sizes beyond all limits
        raise CorpusError(f"{archive} is damaged or not whole ({error}): download it again") from error


def _is_compressed(archive: str) -> bool:
    with open_archive(archive) as file:
        beginning = file.read(tarfile.BLOCKSIZE)
    if beginning.startswith(GZIP):
        return True
    try:
        tarfile.TarInfo.frombuf(beginning, "utf-8", "surrogateescape")
    except tarfile.TarError:
        raise CorpusError(f"{archive} is neither gzip nor tar: download it again") from None
    return False


def _walk(stream: Any, file: Any, archive: str, archive_bytes: int) -> tuple[Members, int]:
    """The regular files in `stream`, and where its last header should be; shows how far `file` has been read."""
    files: Members = {}
    seekable = stream is file and "://" not in archive  # then the files' contents need not be read
    with (
        tqdm(
            total=archive_bytes, unit="B", unit_scale=True, desc=f"listing {Path(archive).name}", file=sys.stderr
        ) as bar,
        tarfile.open(fileobj=stream, mode="r:" if seekable else "r|", bufsize=BLOCK) as tar,
    ):
        limit = archive_bytes * (1 if stream is file else MOST_DEFLATED)
        while (member := tar.next()) is not None:
            if not member.offset < tar.offset <= limit:  # else an hour could go into looking for it, or it never ends
                raise tarfile.ReadError(f"a member of {member.size:,} bytes")
            if member.isreg() and not member.issparse():
                files[member.name] = (member.offset_data, member.size)
            tar.members.clear()  # type: ignore[attr-defined]  # else a million headers stay in memory
            bar.update(_position(file) - bar.n)
        return files, tar.offset


def _position(file: Any) -> int:
    """How far the file has been read, by whoever reads it."""
    try:
        return os.lseek(file.fileno(), 0, os.SEEK_CUR)
    except (OSError, AttributeError):
        return int(file.tell())


def _whole(files: Members, end: bytes) -> Members:
    if end != END:
        raise EOFError("it has no end mark")
    return files


def _one_language(archive: str, files: Members) -> Members:
    """The files of the one language folder, by their path in it."""
    parts = {tuple(name.removeprefix("./").split("/")): place for name, place in files.items()}
    parts = {path: place for path, place in parts.items() if not {"", ".", ".."} & set(path)}
    folders = sorted({path[:-2] for path in parts if len(path) > 1 and path[-2] == CLIPS})
    if not folders:
        raise CorpusError(f"{archive} is not a Common Voice archive: it has no {CLIPS}/ folder with files in it")
    if len(folders) > 1:
        names = ", ".join("/".join(folder) for folder in folders)
        raise CorpusError(f"{archive} holds several languages: {names}; give an archive of one")
    depth = len(folders[0])
    return {"/".join(path[depth:]): place for path, place in parts.items() if path[:depth] == folders[0]}


def _export(stream: Any) -> bytes:
    points = BytesIO()
    stream.export_index(fileobj=points)
    return points.getvalue()


def _write(path: UPath, content: bytes) -> None:
    """Write `path` at once: on a disk by renaming, as object stores do anyway."""
    if "://" in str(path):
        path.write_bytes(content)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sussurro" / "archives"
