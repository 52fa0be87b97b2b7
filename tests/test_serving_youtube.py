"""A YouTube link becomes a recording or a sentence that says why not, and nothing but YouTube is ever reached.

yt-dlp's own extractor runs against a stand-in that answers as YouTube's player does, in its words.
"""

import io
import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yt_dlp.globals
from PIL import Image
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import RequestError

from serving import links
from serving.errors import AudioError, StoppedError
from serving.links import video_id
from serving.media import SAMPLE_RATE, Limits, TooLargeError, never
from serving.reach import NotAllowedError, Reach, ReachingYoutubeDL, is_public
from serving.youtube import Video, download, look_up
from tests.youtube_standin import Handler, StandIn, standin

ID = "dQw4w9WgXcQ"
LINK = f"https://youtu.be/{ID}"
SOUND = "https://rr1---sn-abc.googlevideo.com/videoplayback?itag=140&expire=4102444800"
VIDEO = Video(ID, "Titolo", 2.0, None, f"https://www.youtube.com/watch?v={ID}")


@pytest.fixture(scope="module")
def one_standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with standin(tmp_path_factory.mktemp("standin")) as one:
        yield one


EVENTS: list[tuple[str, Any]] = []
sys.addaudithook(lambda event, given: EVENTS.append((event, given)) if event in WATCHED else None)
WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec", "os.posix_spawn")


@pytest.fixture
def youtube(one_standin: StandIn) -> Iterator[StandIn]:
    """The stand-in, without a past. At the end, nothing else was connected to, no name asked for, no program run."""
    one_standin.asked.clear()
    one_standin.answers.clear()
    one_standin.player = playable()
    one_standin.answers["/videoplayback"] = lambda ask: ask.give("audio/wav", clip())
    EVENTS.clear()
    yield one_standin
    happened = list(EVENTS)
    connected = {given[1] for event, given in happened if event == "socket.connect"}
    assert connected <= {("127.0.0.1", one_standin.port)}
    assert {given[0] for event, given in happened if event == "socket.getaddrinfo"} <= {"127.0.0.1"}
    assert [given for event, given in happened if not event.startswith("socket.")] == []
    assert {host.split(":")[0].split(".", 1)[-1] for host, _ in one_standin.asked} <= {
        "youtube.com",
        "googlevideo.com",
        "ytimg.com",
    }


def playable(seconds: int = 2, url: str = SOUND, **details: object) -> dict[str, object]:
    """The player's answer for a video that may be seen."""
    stream = {
        "itag": 140,
        "url": url,
        "mimeType": 'audio/mp4; codecs="mp4a.40.2"',
        "bitrate": 130_000,
        "approxDurationMs": str(seconds * 1000),
        "audioSampleRate": "44100",
        "audioChannels": 2,
    }
    return {
        "playabilityStatus": {"status": "OK"},
        "videoDetails": {"videoId": ID, "title": "Ciao <b>\n mondo", "lengthSeconds": str(seconds), **details},
        "streamingData": {"expiresInSeconds": "21540", "adaptiveFormats": [stream]},
    }


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


def clip() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(2 * SAMPLE_RATE) / 10).astype(np.float32), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 180)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        f"  {LINK}?si=abc&t=42\n",
        f"http://www.youtube.com/watch?v={ID}",
        f"https://youtube.com/watch?v={ID}&list=PL123&index=2",
        f"https://WWW.YouTube.com/watch?feature=share&v={ID}#t=1",
        f"https://m.youtube.com/watch?v={ID}",
        f"https://music.youtube.com/watch?v={ID}",
        f"https://www.youtube.com/shorts/{ID}?feature=share",
        f"https://www.youtube.com/live/{ID}",
        f"https://www.youtube-nocookie.com/embed/{ID}",
        f"youtube.com/watch?v={ID}",
        f"youtu.be/{ID}",
        f"//youtu.be/{ID}",
    ],
)
def test_every_form_of_a_link_leads_to_its_video(link: str) -> None:
    if link.startswith("//"):
        with pytest.raises(links.NotYouTubeError):
            video_id(link)
    else:
        assert video_id(link) == ID


@pytest.mark.parametrize(
    "link",
    [
        "",
        "ciao",
        ID,
        "https://vimeo.com/1234",
        f"https://youtube.com.evil.example/watch?v={ID}",
        f"https://evil.example/watch?v={ID}#youtube.com",
        f"https://evil.example/youtu.be/{ID}",
        f"https://notyoutube.com/watch?v={ID}",
        f"https://evil.youtube.com/watch?v={ID}",
        f"https://youtube.com@evil.example/watch?v={ID}",
        f"https://evil.example@youtube.com/watch?v={ID}",
        f"https://youtube.com:443@evil.example/watch?v={ID}",
        f"https://youtube.com:8080/watch?v={ID}",
        f"https://youtube.com:443/watch?v={ID}",
        f"https://youtube.com./watch?v={ID}",
        f"https://youtube.com\\@evil.example/watch?v={ID}",
        f"https:\\\\youtube.com\\watch?v={ID}",
        f"https://youtubе.com/watch?v={ID}",  # a Cyrillic letter
        f"https://xn--youtub-dua.com/watch?v={ID}",
        f"https://youtube。com/watch?v={ID}",
        f"https://youtube.com%2eevil.example/watch?v={ID}",
        f"https://[::1]/watch?v={ID}",
        f"https://[youtube.com/watch?v={ID}",
        f"https://127.0.0.1/watch?v={ID}",
        f"ftp://youtube.com/watch?v={ID}",
        f"file://youtube.com/watch?v={ID}",
        f"javascript://youtube.com/watch?v={ID}",
        f"https://youtube.com/\nwatch?v={ID}",
        f"https://youtu\t.be/{ID}",
        "https://youtube.com/watch?v=short",
        f"https://youtube.com/watch?v={ID}x",
        "https://youtube.com/watch?v=dQw4w9WgXc٣",
        "https://youtu.be/../../../../etc",
        f"https://youtube.com/redirect?q=https://evil.example&v={ID}",
        f"https://youtu.be/{ID}/{ID}",
        f"https://youtu.be/{ID}?{'a' * 3000}",
    ],
)
def test_what_is_no_link_to_a_video_is_refused_before_anything_is_asked(link: str, youtube: StandIn) -> None:
    with pytest.raises(links.NotYouTubeError, match="copy it from there") as caught:
        look_up(link, reach=youtube.reach())
    assert len(str(caught.value)) < 300
    assert youtube.asked == []


@pytest.mark.parametrize(
    "link",
    [
        "https://www.youtube.com/playlist?list=PLx",
        "https://www.youtube.com/@someone",
        "https://www.youtube.com/channel/UCx/videos",
        "https://www.youtube.com/watch?list=PLx",
        "https://www.youtube.com/results?search_query=ciao",
    ],
)
def test_lists_and_channels_are_refused_as_such(link: str, youtube: StandIn) -> None:
    with pytest.raises(links.PlaylistError, match="open one video"):
        look_up(link, reach=youtube.reach())
    assert youtube.asked == []


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


ELSEWHERE = [
    "http://127.0.0.1:{port}/secret",
    "https://127.0.0.1/secret",
    "https://127.0.0.1:{port}/secret",
    "https://localhost:{port}/secret",
    "https://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "https://[::1]/secret",
    "https://[::ffff:127.0.0.1]/secret",
    "https://2130706433/secret",
    "https://0x7f.1/secret",
    "https://0/secret",
    "https://evil.example/secret",
    "https://www.youtube.com.evil.example/secret",
    "https://www.youtube.com@evil.example/secret",
    "https://www.youtube.com:{port}/secret",
    "https://private.googlevideo.com/secret",
    "file:///etc/passwd",
    "ftp://www.youtube.com/secret",
    "data:text/plain,secret",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_no_request_and_no_redirect_leads_elsewhere(youtube: StandIn, target: str) -> None:
    url = target.format(port=youtube.port)
    youtube.answers["/away"] = lambda ask: ask.give("text/html", b"", 302, Location=url)
    reach = youtube.reach({"private.googlevideo.com": ["10.0.0.1"]})
    with ReachingYoutubeDL({"quiet": True, "js_runtimes": {}}, reach, never) as ours:
        for asked in (url, "https://www.youtube.com/away"):
            with pytest.raises(RequestError):
                ours.urlopen(Request(asked))
    assert youtube.asked == [("www.youtube.com", "/away")]


@pytest.mark.parametrize("target", ELSEWHERE[::6])
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


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:192.168.0.1"]
)
def test_a_name_of_youtubes_that_resolves_to_a_private_address_is_not_asked(address: str) -> None:
    """Nor is one that resolves to a public and a private one."""
    for addresses in ([address], ["142.250.180.78", address]):
        reach = Reach(resolve={"www.youtube.com": addresses}.__getitem__)
        with (
            ReachingYoutubeDL({"quiet": True, "js_runtimes": {}}, reach, never) as youtube,
            pytest.raises(RequestError, match="not a public address"),
        ):
            youtube.urlopen(Request("https://www.youtube.com/x"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("142.250.180.78", True),
        ("2a00:1450:4002:403::200e", True),
        ("64:ff9b::8efa:b44e", True),  # 142.250.180.78, behind an IPv6-only network
        ("64:ff9b::7f00:1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_addresses_of_the_open_internet_are_public(address: str, public: bool) -> None:
    ipaddress.ip_address(address)
    assert is_public(address) == public


def test_a_name_is_resolved_once_and_that_address_is_used(youtube: StandIn) -> None:
    """So that a second, other answer of the name's owner changes nothing."""
    asked: list[str] = []

    def first_public_then_private(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if asked.count(host) % 2 else ["10.0.0.1"]

    reach = replace(youtube.reach(), resolve=first_public_then_private)
    reach.connect("www.youtube.com", 443, 5.0).close()
    assert asked == ["www.youtube.com"]
    with pytest.raises(NotAllowedError):
        reach.connect("www.youtube.com", 443, 5.0)


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


def test_a_video_that_grew_too_long_since_it_was_looked_up_is_not_fetched(youtube: StandIn, tmp_path: Path) -> None:
    youtube.player = playable(seconds=7201)
    with pytest.raises(links.LinkTooLongError, match="at most 120"):
        download(VIDEO, tmp_path, reach=youtube.reach())
    assert "/videoplayback" not in [path for _, path in youtube.asked]


def test_yt_dlp_loads_no_plugins_and_knows_no_other_sites(
    youtube: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert yt_dlp.globals.plugin_dirs.value == []
    plugin = tmp_path / "yt_dlp_plugins" / "extractor"
    plugin.mkdir(parents=True)
    (plugin / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yt_dlp.globals.all_plugins_loaded.value = False
    with ReachingYoutubeDL({"quiet": True, "js_runtimes": {}}, youtube.reach(), never) as ours:
        assert list(ours._ies) == []
        assert set(ours._request_director.handlers) == {"Reach"}
        assert ours._js_runtimes == {}
    assert not (tmp_path / "ran").exists()


def test_a_proxy_of_the_environment_is_not_used(youtube: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    assert look_up(LINK, reach=youtube.reach()).seconds == 2.0


def test_nothing_is_printed_of_what_people_watch(youtube: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    look_up(LINK, reach=youtube.reach())
    youtube.player = refused("ERROR", "Video unavailable")
    with pytest.raises(links.RemovedError):
        look_up(LINK, reach=youtube.reach())
    assert capfd.readouterr() == ("", "")
