"""Files that appear whole or not at all, on a local disk or in an object store, by one path type (`upath.UPath`).

Locally a file is written under a hidden name of its own, down to the disk, and renamed; so two processes that make the
same file (a cluster that took a worker for lost) never write into each other, and a power cut leaves no empty file of
that name. An object store shows an object when its upload is complete, so there a local temporary file is uploaded.
"""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from data.errors import UserError

PARTIAL = ".partial"
DRIVERS = ("aiohttp", "botocore", "gcsfs", "google")  # stores' errors that are not the operating system's


def is_local(path: UPath) -> bool:
    """Whether `path` is on a disk of this machine."""
    return isinstance(path, Path)


@contextmanager
def new_file(target: UPath, once: bool = False) -> Iterator[BinaryIO]:
    """A file to write; it stands at `target` once the block ends well, and nowhere if it does not.

    `once`, of a local file alone: never in the place of another, `FileExistsError` if there is one by then.
    """
    if not is_local(target):
        with tempfile.NamedTemporaryFile() as file:
            yield file  # type: ignore[misc]
            file.flush()
            target.fs.put_file(file.name, target.path)
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if once:
            _link(partial, target)
        else:
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _link(partial: Path, target: Path) -> None:
    """Give a file its name unless another has it; on file systems without links two may do so at one moment."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:
        if target.exists():
            raise FileExistsError(target) from None
        partial.replace(target)
    partial.unlink(missing_ok=True)


def write_text(target: UPath, text: str) -> None:
    """`text` as the file `target`, in one step."""
    with new_file(target) as file:
        file.write(text.encode())


def read_json(path: UPath, advice: str = "") -> dict[str, Any]:
    """The object in the file `path`; `UserError` if there is none.

    The error gives `advice`, by default for a file of a set of shards: to make the set again.
    """
    advice = advice or f"delete {path.parent} and run featurize again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {advice}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: {advice}")
    return content


@contextmanager
def reading(place: str, problem: type[UserError] = UserError) -> Iterator[None]:
    """What a disk or an object store raises for a `place` that it will not give, as a `problem` in one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # A remote place's driver has errors of its own kind: no such protocol, driver not installed, no credentials.
        if "://" not in place and not isinstance(error, OSError):
            raise
        raise problem(f"{place} cannot be read: {_one_line(error)}") from error


def open_folder(place: str) -> UPath:
    """The folder `place`, there or not, once its disk or store has answered for it; `UserError` if it does not."""
    with reading(place):
        folder = UPath(place)
        folder.exists()
        return folder


@contextmanager
def writing_to(folder: Any) -> Iterator[None]:
    """What the operating system or the store refuses inside becomes a `UserError` that says what to do."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in DRIVERS:
            raise
        what = (error.strerror if isinstance(error, OSError) else "") or _one_line(error)
        place = getattr(error, "filename", None) or folder
        raise UserError(
            f"{place}: {what[0].lower()}{what[1:]}; nothing is lost: mend that (make room, or name a place that can "
            "be written) and run the same command again to continue"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def local_copy(path: UPath, sha256: str) -> Path:
    """`path` itself if it is local, else a copy in this machine's cache, fetched once and known by its checksum.

    The cache is `$SUSSURRO_CACHE`, or `sussurro` in the user's cache folder.
    """
    if is_local(path):
        return Path(path)
    cache = UPath(os.environ.get("SUSSURRO_CACHE") or Path.home() / ".cache" / "sussurro")
    copy = cache / sha256
    if not copy.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with new_file(copy) as file:
            path.fs.get_file(path.path, file.name)
    return copy


def parquet_table(content: bytes) -> pa.Table:
    """The table in a Parquet file's bytes, read by this thread alone.

    Arrow's own threads reading a Python file may still hold one of its pieces when the interpreter ends, and one that
    then gives it back ends the process with SIGABRT.
    """
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
