"""From what somebody pasted to the id of one YouTube video, and every way in which such a link fails.

Decision: a link is parsed once, its host compared with a list, and all that goes on is an id of eleven letters, from
which the address that is asked for is built anew. So nothing else of what was pasted reaches the network.
"""

import re
from urllib.parse import parse_qs, urlsplit

from serving.errors import AudioError

HOSTS = (
    "youtube.com",
    "www.youtube.com",
    "m.youtube.com",
    "music.youtube.com",
    "youtu.be",
    "www.youtu.be",
    "youtube-nocookie.com",
    "www.youtube-nocookie.com",
)
LONGEST_LINK = 2000  # characters
ID = re.compile(r"[A-Za-z0-9_-]{11}", re.ASCII)
IN_PATH = ("shorts", "live", "embed", "v", "e")  # youtube.com/shorts/ID
LISTS = ("playlist", "channel", "c", "user", "feed", "results")
PRINTABLE = re.compile(r"[!-\[\]-~]+")  # ASCII without spaces and backslashes


class LinkError(AudioError):
    """A link that gives no recording; each kind has a class, which the page puts into words."""


class NotYouTubeError(LinkError):
    """Not a link to a video on YouTube."""


class PlaylistError(LinkError):
    """A link to a list of videos or a channel."""


class LiveError(LinkError):
    """A live stream that is still running, or was never kept as a video."""


class PremiereError(LinkError):
    """A premiere or live stream that has not begun."""


class LinkTooLongError(LinkError):
    """The video is longer than allowed."""


class BotCheckError(LinkError):
    """YouTube asks this server to prove that it is a person, as it does of many servers."""


class AgeLimitError(LinkError):
    """Only for signed-in adults."""


class PrivateError(LinkError):
    """Only for those its owner invited."""


class MembersOnlyError(LinkError):
    """Only for members of the channel, or for those who pay."""


class RegionError(LinkError):
    """Not to be seen in the country this server is in."""


class RemovedError(LinkError):
    """There is no such video, or not any more."""


class LinkNetworkError(LinkError):
    """YouTube could not be reached, or broke off."""


class LinkFailedError(LinkError):
    """YouTube answered in a way that is not understood: mostly it has changed, and yt-dlp must be updated."""


def video_id(link: str) -> str:
    """The id of the one video that a link is to. Raises `NotYouTubeError` or `PlaylistError`."""
    given = link.strip()
    shown = repr(given if len(given) <= 80 else f"{given[:80]}…")
    wrong = f"{shown} is not a link to a video on YouTube, such as https://youtu.be/dQw4w9WgXcQ; copy it from there"
    if len(given) > LONGEST_LINK or not PRINTABLE.fullmatch(given):
        raise NotYouTubeError(wrong)
    try:
        parts = urlsplit(given if "//" in given.split("?")[0] else f"https://{given}")
    except ValueError as error:
        raise NotYouTubeError(wrong) from error
    # The whole of the host part: no user, no port, no trailing dot.
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in HOSTS:
        raise NotYouTubeError(wrong)
    names = [name for name in parts.path.split("/") if name]
    query = parse_qs(parts.query)
    if parts.netloc.lower().endswith("youtu.be"):
        found = names[0] if len(names) == 1 else ""
    elif len(names) == 2 and names[0] in IN_PATH:
        found = names[1]
    else:
        found = query.get("v", [""])[0] if names == ["watch"] else ""
    if ID.fullmatch(found):
        return found
    if names and (names[0] in LISTS or names[0].startswith("@") or "list" in query):
        raise PlaylistError(f"{shown} is a list of videos or a channel; open one video and copy its link")
    raise NotYouTubeError(wrong)


def canonical(video: str) -> str:
    """Our own address of a video's id."""
    return f"https://www.youtube.com/watch?v={video}"
