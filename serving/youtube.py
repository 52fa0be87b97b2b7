"""One YouTube video, looked up and downloaded by yt-dlp, which reaches nothing but YouTube.

Decision: yt-dlp as a library, held short. It is given the id of one video and its extractor for that alone; it runs no
other program (no JavaScript runtime, no FFmpeg), loads no plugins, configuration, cookies or cache, and its network is
`reach.py`. Some formats stay out of reach without a JavaScript runtime; the sound of most videos does not. YouTube
asks many servers to prove that they are people: every failure says what the visitor can do, mostly to download the
video at home and upload the file.

    video = look_up("https://youtu.be/dQw4w9WgXcQ")      # title and picture, to be shown
    path = download(video, folder, progress, stopped)    # a file for `media.decoded`
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import links
from serving.errors import AudioError, StoppedError, never
from serving.media import LIMITS, Limits, NoRoomError, TooLargeError
from serving.reach import YOUTUBE, Reach
from serving.uploads import room

if TYPE_CHECKING:
    from serving.downloader import ReachingYoutubeDL

TIMEOUT = 20  # seconds without a byte
LARGEST_THUMBNAIL = 1_000_000  # bytes; they have about 20,000
IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
INSTEAD = "download the video yourself and upload the file"
NO_ROOM = "there is no room for its sound; try again later"

# What the disk, yt-dlp or YouTube says, in this order: the kind of error, and the sentence for it.
REASONS: tuple[tuple[str, type[AudioError], str], ...] = (
    (r"no space left|disk quota|file too large", NoRoomError, NO_ROOM),
    (
        r"not a bot|captcha|likely being blocked|rate-limited|Error 429|Error 403|www\.google\.com",
        links.BotCheckError,
        f"YouTube does not let this server fetch videos at the moment; {INSTEAD}",
    ),
    (
        r"requested format|on this app|only images",
        links.LinkFailedError,
        f"YouTube gives the sound in no form that this server can fetch; {INSTEAD}",
    ),
    (
        r"confirm your age|age.restricted|inappropriate for some users",
        links.AgeLimitError,
        f"YouTube shows this video to signed-in adults only; {INSTEAD}",
    ),
    (
        r"members|join this channel|requires? payment|rental|purchase|Premium|DRM",
        links.MembersOnlyError,
        "only members of the channel or paying viewers may see this video; choose another",
    ),
    (r"private", links.PrivateError, "this video is private; ask its owner for the file and upload it"),
    (
        r"premier|will begin|upcoming|live in \w+ (minutes|hours|days)|has not started",
        links.PremiereError,
        "this video has not begun yet; come back when it is over",
    ),
    (
        r"live (event|stream)|recording is not available",
        links.LiveError,
        "live streams cannot be transcribed; come back when it is over and kept as a video",
    ),
    (
        r"(your|this) country|your location|geo.?restrict|blocked it in",
        links.RegionError,
        f"this video cannot be seen in the country this server is in; {INSTEAD}",
    ),
    (
        r"unavailable|not available|isn.t available|removed|terminated|does not exist|deleted|copyright|closed",
        links.RemovedError,
        "there is no such video, or not any more; check the link",
    ),
    (
        r"any player response|Unable to download|timed out|Connection|stopped",
        links.LinkNetworkError,
        f"YouTube could not be reached; try again in a minute, or {INSTEAD}",
    ),
)


@dataclass(frozen=True)
class Video:
    """A video that can be transcribed."""

    id: str
    title: str
    seconds: float
    thumbnail: bytes | None
    """A JPEG, PNG or WebP; None where YouTube gave none."""
    url: str
    """Our own address of it."""


class _Silent:
    """Nothing of what people watch is logged."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def ignore(share: float) -> None:
    """Nobody watches the progress."""


def look_up(link: str, limits: Limits = LIMITS, reach: Reach = YOUTUBE) -> Video:
    """What a link is to. Raises the `LinkError` that says why it cannot be transcribed."""
    name = links.video_id(link)
    with _youtube(name, reach, never) as youtube:
        info = _video(youtube, name, limits)
        title = " ".join(str(info.get("title") or name).split())
        return Video(name, title, float(info["duration"]), _thumbnail(youtube, name), links.canonical(name))


def download(
    video: Video,
    folder: Path,
    progress: Callable[[float], None] = ignore,
    stopped: Callable[[], bool] = never,
    limits: Limits = LIMITS,
    reach: Reach = YOUTUBE,
) -> Path:
    """The video's sound as a file in `folder`; `progress` is told the share that is there.

    Raises a `LinkError`, `TooLargeError`, `NoRoomError`, or `StoppedError` soon after `stopped()` turned true.
    """
    too_large = TooLargeError(f"{video.id}: has over {limits.size / 1e6:,.0f} MB; choose a shorter video")

    def watch(state: dict[str, float]) -> None:
        if stopped():
            raise StoppedError(f"{video.id}: stopped while it was downloaded")
        done = state.get("downloaded_bytes") or 0
        if done > limits.size:
            raise too_large
        if room(folder) <= 0:
            raise NoRoomError(f"{video.id}: {NO_ROOM}")
        if total := state.get("total_bytes") or state.get("total_bytes_estimate"):
            progress(min(1.0, done / total))

    where = {"outtmpl": str(folder / "%(id)s.%(ext)s"), "max_filesize": limits.size, "progress_hooks": [watch]}
    try:
        with _youtube(video.id, reach, stopped, **where) as youtube:
            info = _video(youtube, video.id, limits)
            youtube.process_info(info)
            path = Path(youtube.prepare_filename(info))
    finally:
        for part in folder.glob("*.part"):
            part.unlink()
    if not path.is_file():
        raise too_large  # yt-dlp says so in its log alone
    return path


@contextmanager
def _youtube(name: str, reach: Reach, stopped: Callable[[], bool], **params: object) -> Iterator["ReachingYoutubeDL"]:
    """yt-dlp for one video; its failures within the block become ours, as does that it cannot be imported."""
    try:
        from serving.downloader import ReachingYoutubeDL, YoutubeDLError, YoutubeIE
    except (ImportError, AttributeError, TypeError) as error:
        raise links.LinkFailedError(
            f"{name}: this server's yt-dlp cannot be used ({error}); {INSTEAD}, and ask who runs this page to install"
            " the version it was tested with"
        ) from error
    settings = {
        "format": "bestaudio[protocol=https]/best[protocol=https]",
        "extractor_args": {"youtube": {"skip": ["hls", "dash", "translated_subs"]}},
        "noplaylist": True,
        "socket_timeout": TIMEOUT,
        "retries": 2,
        "extractor_retries": 1,
        "logger": _Silent(),
        "quiet": True,
        "noprogress": True,
        "cachedir": False,
        "proxy": "",
        "geo_bypass": False,
        "js_runtimes": {},
        "remote_components": [],
        "ffmpeg_location": "",
        "fixup": "never",
        "overwrites": True,
        "continuedl": False,
        "updatetime": False,
        **params,
    }
    try:
        with ReachingYoutubeDL(settings, reach, stopped) as youtube:
            youtube.add_info_extractor(YoutubeIE())
            yield youtube
    except (YoutubeDLError, LookupError, TypeError, AttributeError, ValueError) as error:
        if stopped():
            raise StoppedError(f"{name}: stopped while YouTube was asked") from error
        raise _link_error(error, name) from error


def _video(youtube: "ReachingYoutubeDL", name: str, limits: Limits) -> dict[str, Any]:
    """What yt-dlp says of one video, if it can be transcribed."""
    info = youtube.extract_info(links.canonical(name), download=False, ie_key="Youtube")
    if info is None or info.get("_type", "video") != "video" or info.get("id") != name:
        raise links.PlaylistError(f"{name}: is not one video; open one and copy its link")
    state = info.get("live_status")
    if state == "is_upcoming":
        raise links.PremiereError(f"{name}: this video has not begun yet; come back when it is over")
    if state in ("is_live", "post_live") or not info.get("duration"):
        raise links.LiveError(f"{name}: live streams cannot be transcribed; come back when it is over")
    if info["duration"] > limits.seconds:
        raise links.LinkTooLongError(
            f"{name}: lasts {info['duration'] / 60:.0f} minutes, at most {limits.seconds / 60:g} are allowed;"
            " choose a shorter video, or download it, cut it into parts and upload these"
        )
    return info


def _thumbnail(youtube: "ReachingYoutubeDL", name: str) -> bytes | None:
    """A small picture of the video, None where there is none: it can be transcribed all the same."""
    from serving.downloader import RequestError

    try:
        with youtube.urlopen(f"https://i.ytimg.com/vi/{name}/mqdefault.jpg") as answer:
            image = answer.read(LARGEST_THUMBNAIL + 1)
    except RequestError:
        return None
    return image if len(image) <= LARGEST_THUMBNAIL and image.startswith(IMAGES) else None


def _link_error(error: Exception, name: str) -> AudioError:
    """The kind of `LinkError` that yt-dlp's failure is, or `NoRoomError`, with what to do about it."""
    from serving.downloader import GeoRestrictedError, RequestError

    inner = getattr(error, "exc_info", (None, None))[1] or error
    said = str(getattr(inner, "orig_msg", None) or inner)
    if isinstance(inner, GeoRestrictedError):
        said = "in your country"
    for pattern, kind, sentence in REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind(f"{name}: {sentence}")
    if isinstance(inner, RequestError) or isinstance(getattr(inner, "cause", None), RequestError):
        return links.LinkNetworkError(f"{name}: YouTube could not be reached; try again in a minute, or {INSTEAD}")
    return links.LinkFailedError(
        f"{name}: YouTube's answer was not understood; {INSTEAD}, and ask who runs this page to update yt-dlp"
    )
