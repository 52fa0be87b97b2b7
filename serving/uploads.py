"""Where uploads lie: a folder of this process alone, of bounded size, which goes with it.

Decision: whoever is killed outright cleans up nothing. So a page holds a lock on a file in its folder for as long as it
lives, and each one that starts removes the folders whose lock nobody holds any more. Everything temporary of the
process lies in that folder, downloads and all, and nothing of it outlives the next start.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PREFIX, LOCK = "sussurro-", "page.lock"
FETCHED = "youtube-"  # how the folders begin of what was fetched for a visitor, and goes with him
SWEEP_AFTER = 60 * 60  # seconds without a change, after which a file is deleted
LARGEST_FOLDER = 20 * 1024**3  # bytes: ten recordings of the largest size
KEPT_FREE = 1024**3  # bytes of the disk: the sound of two hours takes 0.5 GB while it is transcribed


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder for all temporary files of this process, gone when the block ends; those of killed pages go, too."""
    remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder, usual = Path(name), tempfile.tempdir
        with (folder / "starting").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "starting").rename(folder / LOCK)  # under this name it is never seen unlocked
            tempfile.tempdir = name
            try:
                yield folder
            finally:
                tempfile.tempdir = usual


def remove_abandoned() -> None:
    """Removes the folders that pages of this user left behind when they were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open() as held:  # another user's, or a page's that runs, or just gone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(held.fileno()).st_uid == os.getuid() and not lock.parent.is_symlink():
                shutil.rmtree(lock.parent)


def sweep(folder: Path, awaited: Collection[Path] = ()) -> None:
    """Removes the files that lie in the folder for an hour: recordings, transcripts, and what Gradio leaves behind of
    uploads whose sender went away; and the folders that are empty for an hour.

    A new file may be an upload that has just begun. The files in `awaited` stay, and so does what was fetched.
    """
    before = time.time() - SWEEP_AFTER
    for place, _, names in os.walk(folder, topdown=False):
        inside = Path(place).relative_to(folder).parts
        if inside and inside[0].startswith(FETCHED):
            continue
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                if path not in awaited and _changed(path) < before:
                    path.unlink()
        with suppress(OSError):  # one that is not empty
            if inside and _changed(Path(place)) < before:
                Path(place).rmdir()


def _changed(path: Path) -> float:
    """When a file was written, or came to where it is: seconds since 1970."""
    status = path.lstat()
    return max(status.st_mtime, status.st_ctime)


def paths(given: Any) -> Iterator[str]:
    """The paths of all files in what a browser or a program sent."""
    if isinstance(given, dict):
        if isinstance(path := given.get("path"), str):
            yield path
        given = list(given.values())
    if isinstance(given, list):
        for value in given:
            yield from paths(value)


def room(folder: Path) -> int:
    """How many bytes may still be uploaded into the folder: below zero where there are too many already."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                used += Path(parent, name).stat().st_size
    return min(LARGEST_FOLDER - used, shutil.disk_usage(folder).free - KEPT_FREE)
