"""A YouTube link becomes a recording or a sentence that says why not, and nothing but YouTube is ever reached.

yt-dlp's own extractor runs against a stand-in that answers as YouTube's player does, in its words.
"""

import io
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving import links
from serving.errors import AudioError
from serving.youtube import Video, download, look_up
from tests.youtube_standin import ID, SOUND, VIDEO, StandIn, clip, playable

# yt-dlp leaves connections that we break off to the garbage collector, which may come in any test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

LINK = f"https://youtu.be/{ID}"


def refused(status: str, reason: str, subreason: str = "") -> dict[str, object]:
    """The player's answer for one that may not."""
    screen = {"reason": {"simpleText": reason}, "subreason": {"simpleText": subreason}}
    return {
        "playabilityStatus": {
            "status": status,
            "reason": reason,
            "errorScreen": {"playerErrorMessageRenderer": screen},
        },
        "videoDetails": {"videoId": ID},
    }


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 180)).save(file, "JPEG")
    return file.getvalue()


def test_a_link_becomes_title_picture_and_sound(youtube: StandIn, tmp_path: Path) -> None:
    youtube.answers[f"/vi/{ID}/mqdefault.jpg"] = lambda ask: ask.give("image/jpeg", picture())
    video = look_up(f"youtu.be/{ID}?list=PLx", reach=youtube.reach())
    assert video == Video(ID, "Ciao <b> mondo", 2.0, picture(), VIDEO.url)
    shares: list[float] = []
    path = download(video, tmp_path, shares.append, reach=youtube.reach())
    assert path.parent == tmp_path
    assert path.read_bytes() == clip()
    assert list(tmp_path.iterdir()) == [path]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_of_a_videos_formats_the_sound_alone_is_fetched(youtube: StandIn, tmp_path: Path) -> None:
    """The other has ten times the bytes, and a picture that nobody looks at."""
    (sound,) = youtube.player["streamingData"]["adaptiveFormats"]
    whole = {"itag": 18, "url": SOUND.replace("?itag=140", "/whole?itag=18"), "width": 640, "height": 360}
    whole |= {"mimeType": 'video/mp4; codecs="avc1.42001E, mp4a.40.2"', "bitrate": 1_300_000}
    youtube.player["streamingData"]["formats"] = [sound | whole]
    youtube.answers["/videoplayback/whole"] = youtube.answers["/videoplayback"]
    download(VIDEO, tmp_path, lambda _: None, reach=youtube.reach())
    assert [path for _, path in youtube.asked if path.startswith("/videoplayback")] == ["/videoplayback"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda ask: ask.give("image/jpeg", b"", 404),
        lambda ask: ask.give("image/jpeg", picture() + bytes(1_000_000)),
        lambda ask: ask.give("image/svg+xml", b"<svg onload='alert(1)'/>"),
        lambda ask: ask.give("text/html", b"", 302, Location="https://evil.example/x.jpg"),
    ],
)
def test_a_picture_that_is_none_is_left_out(youtube: StandIn, answer: Any) -> None:
    youtube.answers[f"/vi/{ID}/mqdefault.jpg"] = answer
    assert look_up(LINK, reach=youtube.reach()).thumbnail is None


@pytest.mark.parametrize(
    ("player", "kind"),
    [
        (refused("LOGIN_REQUIRED", "Sign in to confirm you’re not a bot"), links.BotCheckError),
        (refused("ERROR", "This content isn't available, try again later."), links.BotCheckError),
        (
            refused("LOGIN_REQUIRED", "Sign in to confirm your age", "inappropriate for some users."),
            links.AgeLimitError,
        ),
        (refused("LOGIN_REQUIRED", "Private video", "Sign in if you've been granted access"), links.PrivateError),
        (refused("LOGIN_REQUIRED", "This video is private"), links.PrivateError),
        (
            refused("UNPLAYABLE", "Video unavailable", "Join this channel to get access to members-only content"),
            links.MembersOnlyError,
        ),
        (
            refused("UNPLAYABLE", "This video is available to this channel's members on level: Fan"),
            links.MembersOnlyError,
        ),
        (refused("UNPLAYABLE", "This video requires payment to watch"), links.MembersOnlyError),
        (refused("UNPLAYABLE", "This video is only available to Music Premium members"), links.MembersOnlyError),
        (refused("LIVE_STREAM_OFFLINE", "Premieres in 43 minutes"), links.PremiereError),
        (refused("LIVE_STREAM_OFFLINE", "This live event will begin in 3 days."), links.PremiereError),
        (refused("UNPLAYABLE", "This live stream recording is not available."), links.LiveError),
        (
            refused(
                "UNPLAYABLE", "Video unavailable", "The uploader has not made this video available in your country"
            ),
            links.RegionError,
        ),
        (
            refused(
                "ERROR",
                "Video unavailable",
                "This video contains content from X, who has blocked it in your country on copyright grounds",
            ),
            links.RegionError,
        ),
        (refused("ERROR", "Video unavailable"), links.RemovedError),
        (refused("ERROR", "This video has been removed by the uploader"), links.RemovedError),
        (
            refused(
                "ERROR",
                "Video unavailable",
                "This video is no longer available because the YouTube account"
                " associated with this video has been terminated.",
            ),
            links.RemovedError,
        ),
        (refused("UNPLAYABLE", "The following content is not available on this app."), links.LinkFailedError),
        (playable() | {"streamingData": {}}, links.LinkFailedError),
        (playable(seconds=7201), links.LinkTooLongError),
        (playable(isLive=True, isLiveContent=True), links.LiveError),
        (playable(isUpcoming=True), links.PremiereError),
        ({"videoDetails": {"videoId": "AAAAAAAAAAA"}}, AudioError),
        ({}, links.LinkNetworkError),
    ],
)
def test_what_youtube_refuses_is_told_in_a_sentence_with_what_to_do(
    youtube: StandIn, player: dict[str, object], kind: type[AudioError]
) -> None:
    youtube.player = player
    with pytest.raises(kind, match=ID) as caught:
        look_up(LINK, reach=youtube.reach())
    said = str(caught.value)
    assert ";" in said  # what to do stands behind it
    assert not any(word in said for word in ("--cookies", "yt-dlp -U", "http", "Traceback", "\n"))


@pytest.mark.parametrize("status", [500, 403, 429])
def test_a_youtube_that_does_not_answer_is_told_as_that(youtube: StandIn, status: int) -> None:
    for path in ("/watch", "/youtubei/v1/player"):
        youtube.answers[path] = lambda ask: ask.give("text/html", b"", status)
    with pytest.raises((links.LinkNetworkError, links.BotCheckError), match="upload the file"):
        look_up(LINK, reach=youtube.reach())


def test_a_network_that_is_not_there_is_told_as_that(youtube: StandIn) -> None:
    def nothing(_: str) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(links.LinkNetworkError, match="could not be reached"):
        look_up(LINK, reach=replace(youtube.reach(), resolve=nothing))


def test_a_certificate_that_is_not_youtubes_is_not_taken(youtube: StandIn) -> None:
    with pytest.raises(links.LinkNetworkError):
        look_up(LINK, reach=replace(youtube.reach(), context=None))
    assert youtube.asked == []


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/secret", "https://[::1]/secret", "https://www.youtube.com.evil.example/secret"],
)
def test_no_video_leads_elsewhere(youtube: StandIn, tmp_path: Path, target: str) -> None:
    """Neither by where its sound is said to lie, nor by a redirect from there, or from the player."""
    url = target.format(port=youtube.port)
    youtube.answers["/videoplayback"] = lambda ask: ask.give("text/html", b"", 302, Location=url)
    with pytest.raises(links.LinkError):
        download(VIDEO, tmp_path, reach=youtube.reach())
    youtube.player = playable(url=url)
    with pytest.raises(links.LinkError):
        download(VIDEO, tmp_path, reach=youtube.reach())
    for path in ("/watch", "/youtubei/v1/player"):
        youtube.answers[path] = lambda ask: ask.give("text/html", b"", 302, Location=url)
    with pytest.raises(links.LinkError):
        look_up(LINK, reach=youtube.reach())
    assert {path for _, path in youtube.asked} <= {
        "/watch",
        "/youtubei/v1/player",
        "/youtubei/v1/next",
        "/videoplayback",
    }
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed_of_what_people_watch(youtube: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    look_up(LINK, reach=youtube.reach())
    youtube.player = refused("ERROR", "Video unavailable")
    with pytest.raises(links.RemovedError):
        look_up(LINK, reach=youtube.reach())
    assert capfd.readouterr() == ("", "")
