"""The network that leads to YouTube leads nowhere else: not by a URL, a redirect, a name, a proxy or a plugin."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yt_dlp.globals
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import RequestError

from serving.downloader import ReachingYoutubeDL
from serving.errors import never
from serving.reach import NotAllowedError, Reach, is_public
from tests.youtube_standin import StandIn


@pytest.fixture
def youtube(one_standin: StandIn) -> Iterator[StandIn]:
    with one_standin.watched():
        yield one_standin


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
    "https://evilyoutube.com/secret",
    "https://youtube.com./secret",
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
        ("2001:0:808:808::f5ff:fffe", False),  # Teredo: 10.0.0.1 behind the server 8.8.8.8
        ("fc00::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_addresses_of_the_open_internet_are_public(address: str, public: bool) -> None:
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
    with (
        ReachingYoutubeDL({"quiet": True, "js_runtimes": {}}, youtube.reach(), never) as ours,
        ours.urlopen(Request("https://www.youtube.com/watch")) as answer,
    ):
        assert answer.status == 200
