"""A video's sound is fetched whole or not at all: stopped, too large, too long, or more than the disk takes."""

import html
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving.uploads
import serving.youtube
from serving import links
from serving.errors import StoppedError
from serving.media import Limits, NoRoomError, TooLargeError
from serving.visits import Visits
from serving.words import ENGLISH
from serving.youtube import download
from tests.youtube_standin import ID, VIDEO, Handler, StandIn, clip, playable

# yt-dlp leaves connections that we break off to the garbage collector, which may come in any test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


def test_stopping_ends_a_download_at_once(youtube: StandIn, tmp_path: Path) -> None:
    def endless(ask: Handler) -> None:
        ask.send_response(200)
        ask.send_header("Content-Length", str(10**9))
        ask.end_headers()
        try:
            while True:
                ask.wfile.write(bytes(65_536))
        except OSError:
            ask.close_connection = True

    youtube.answers["/videoplayback"] = endless
    shares: list[float] = []
    with pytest.raises(StoppedError, match=ID):
        download(VIDEO, tmp_path, shares.append, lambda: len(shares) > 3, reach=youtube.reach())
    assert len(shares) == 4


def test_stopping_before_the_download_asks_nothing(youtube: StandIn, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        download(VIDEO, tmp_path, stopped=lambda: True, reach=youtube.reach())
    assert youtube.asked == []


@pytest.mark.parametrize("says_so", [True, False])
def test_a_sound_of_too_many_bytes_is_not_fetched(youtube: StandIn, tmp_path: Path, says_so: bool) -> None:
    def large(ask: Handler) -> None:
        if says_so:
            return ask.give("audio/wav", clip())
        ask.send_response(200)
        ask.send_header("Connection", "close")
        ask.end_headers()
        ask.wfile.write(clip())
        ask.close_connection = True
        return None

    youtube.answers["/videoplayback"] = large
    with pytest.raises(TooLargeError, match="choose a shorter video"):
        download(VIDEO, tmp_path, limits=Limits(size=10_000), reach=youtube.reach())


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can have more than 20,000 bytes, less than the sound has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_is_told_as_that_and_the_part_goes(youtube: StandIn, tmp_path: Path) -> None:
    with pytest.raises(NoRoomError, match=f"{ID}: there is no room"):
        download(VIDEO, tmp_path, reach=youtube.reach())
    assert list(tmp_path.iterdir()) == []


def test_a_download_leaves_the_disks_last_gigabyte_alone(
    youtube: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.youtube, "room", lambda folder: 0 if list(folder.iterdir()) else 1)
    with pytest.raises(NoRoomError, match=f"{ID}: there is no room"):
        download(VIDEO, tmp_path, reach=youtube.reach())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fetched_while_uploads_have_taken_all_room(
    youtube: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.uploads, "LARGEST_FOLDER", 0)
    visits = Visits(None, serving.youtube, tmp_path)
    (*_, last) = visits.fetch(VIDEO, "someone", ENGLISH)
    assert ENGLISH["NoRoomError"] in html.unescape(last.status)
    assert youtube.asked == []


def test_a_video_that_grew_too_long_since_it_was_looked_up_is_not_fetched(youtube: StandIn, tmp_path: Path) -> None:
    youtube.player = playable(seconds=7201)
    with pytest.raises(links.LinkTooLongError, match="at most 120"):
        download(VIDEO, tmp_path, reach=youtube.reach())
    assert "/videoplayback" not in [path for _, path in youtube.asked]
