"""A clip: one recording and what was said; and where its encoded audio is.

Every kind of source (`data.sources`) gives its splits as lists of these. A clip can be pickled, so a shard's job can go
to any process on any machine that sees the source.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from upath import UPath

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


class Audio(Protocol):
    """Where a clip's encoded audio is: small, picklable, and loaded by the worker that needs it."""

    def load(self) -> Path | bytes:
        """A local file, or a file's bytes; `ClipError(NO_SUCH_FILE)` if it is not there."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file by its path, local or remote (`s3://…`)."""

    path: str

    def load(self) -> Path | bytes:
        if "://" not in self.path:
            return Path(self.path)
        try:
            content: bytes = UPath(self.path).read_bytes()
        except FileNotFoundError:
            raise ClipError(NO_SUCH_FILE, self.path) from None
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
