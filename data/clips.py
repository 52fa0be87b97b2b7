"""A clip: one recording and what was said; and where its encoded audio is.

Every kind of source (`data.sources`) gives its splits as lists of these. A clip can be pickled, so a shard's job can go
to any process on any machine that sees the source.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data.errors import UserError


class CorpusError(UserError):
    """A corpus that is missing, empty, or not in a layout that is known."""


class ClipError(UserError):
    """One clip to leave out: `reason` in few words, the same for all such clips, and this clip's `detail`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


NO_SUCH_FILE = "no such file"
CANNOT_BE_READ = "cannot be read"
LEAVES_THE_CORPUS = "path leaves the corpus folder"
LISTED_TWICE = "listed twice"
NOT_CONFIDENT = "not confident enough"
DRIVE_GONE = {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}


class Audio(Protocol):
    """Where a clip's encoded audio is: small, picklable, and loaded by the worker that needs it."""

    def load(self) -> Path | bytes:
        """A local file, or a file's bytes; `ClipError` if it is not there or may not be read."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file by its path, local or remote (`s3://…`)."""

    path: str
    root: str = ""
    """The corpus folder: a symbolic link must lead into it, or into the folder the link is in."""

    def load(self) -> Path | bytes:
        if "://" in self.path:
            return _download(self.path)
        try:
            mode = os.lstat(self.path).st_mode  # one call tells a missing file, a link, and a pipe that would block
            if stat.S_ISLNK(mode):
                mode = _follow(self.path, self.root)
        except OSError as error:
            raise reading_problem(self.path, error) from None
        if not stat.S_ISREG(mode):
            raise ClipError(CANNOT_BE_READ, f"{self.path} is not a file")
        return Path(self.path)


def find_inside(path: str, folders: Iterable[str]) -> AudioFile:
    """The file `path`, which lies in one of `folders`, links followed; `ClipError` for any other."""
    parent, _, name = path.rpartition("/")
    if "\0" not in path:
        parent = os.path.realpath(parent + "/")
        for root in map(os.path.realpath, folders):
            if is_inside(parent + "/", root):
                return AudioFile(f"{parent}/{name}", root)
    raise ClipError(LEAVES_THE_CORPUS, path)


def _follow(path: str, root: str) -> int:
    """The mode of what the link `path` leads to; `ClipError` if that is outside."""
    target = os.path.realpath(path, strict=True)
    allowed = (os.path.realpath(folder) for folder in (Path(path).parent, root) if folder)
    if not any(is_inside(target, folder) for folder in allowed):
        raise ClipError(LEAVES_THE_CORPUS, f"{path} is a link to {target}")
    return Path(target).stat().st_mode


def reading_problem(path: str, error: OSError) -> UserError:
    """What to raise for `error` at reading `path`: a `ClipError`, unless it is the drive that is gone, not the clip."""
    if error.errno in DRIVE_GONE:
        return UserError(f"{path} cannot be read ({error.strerror}): run the same command again to continue")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ClipError(NO_SUCH_FILE, path)
    return ClipError(CANNOT_BE_READ, f"{path}: {error.strerror}")


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` lies in `folder`; both absolute and free of links and `..`."""
    return path.startswith(folder.rstrip("/") + "/")


def _download(path: str) -> bytes:
    from upath import UPath  # takes 0.1 s to import, which readers of shards need not spend

    try:
        content: bytes = UPath(path).read_bytes()
    except FileNotFoundError:
        raise ClipError(NO_SUCH_FILE, path) from None
    except (PermissionError, IsADirectoryError) as error:
        raise ClipError(CANNOT_BE_READ, f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); run the same command again to continue") from error
    return content


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording and what was said."""

    id: str
    """Unique in its split and stable between releases; for Common Voice the file name."""
    audio: Audio
    sentence: str
    speaker: str = ""
    start: float = 0.0
    """Where in the audio the clip begins, in seconds."""
    length: float | None = None
    """Seconds from `start`; None is to the audio's end."""
    seconds: float | None = None
    """The duration if the source tells it; only for estimates."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A clip left out; a row of `rejected.tsv`."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Split:
    """The clips of a split in their order, the rows that name no clip, and the language they agree on (or None)."""

    root: str
    """The folder or file that all audio is in: when it is gone, the source has vanished."""
    clips: list[Clip]
    rejected: list[Rejected] = field(default_factory=list)
    language: str | None = None
    random_access: bool = True
    """Whether any clip loads about as fast as the next one."""
    dataset: dict[str, str] | None = None
    """Of a dataset on the Hugging Face hub: its `name`, `config` and `revision`."""


def language_code(names: set[str]) -> str | None:
    """The one language that all rows name, as Whisper writes it (`it`, of `it-IT`); None if there is not one."""
    if len(names) != 1:
        return None
    match = re.match(r"([a-z]{2,3})(?:[-_]|$)", next(iter(names)))
    return match[1] if match else None
