"""Stand-in until the media branch is merged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import AudioError


class LinkError(AudioError):
    """A link that gives no recording."""


class NotYouTubeError(LinkError):
    """Not a YouTube link."""


@dataclass(frozen=True)
class Video:
    id: str
    title: str
    seconds: float
    thumbnail: bytes | None
    url: str


def look_up(link: str) -> Video:
    raise NotYouTubeError(f"{link}: is not a YouTube link")


def download(video: Video, folder: Path, progress: Callable[[float], None], stopped: Callable[[], bool]) -> Path:
    raise NotYouTubeError(f"{video.url}: is not a YouTube link")
