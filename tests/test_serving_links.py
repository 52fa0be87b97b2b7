"""What is a link to one YouTube video, and what only looks like one."""

from types import SimpleNamespace
from typing import Any

import pytest

from serving import links
from serving.links import video_id
from serving.media import LIMITS
from serving.reach import Reach
from serving.youtube import _video, look_up

ID = "dQw4w9WgXcQ"
LINK = f"https://youtu.be/{ID}"


def nobody(host: str) -> list[str]:
    """Nothing is to be asked for."""
    raise AssertionError(f"{host} was asked for")


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
    ],
)
def test_every_form_of_a_link_leads_to_its_video(link: str) -> None:
    assert video_id(link) == ID


@pytest.mark.parametrize(
    "link",
    [
        "",
        "ciao",
        f"//youtu.be/{ID}",
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
def test_what_is_no_link_to_a_video_is_refused_before_anything_is_asked(link: str) -> None:
    with pytest.raises(links.NotYouTubeError, match="copy it from there") as caught:
        look_up(link, reach=Reach(resolve=nobody))
    assert len(str(caught.value)) < 300


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
def test_lists_and_channels_are_refused_as_such(link: str) -> None:
    with pytest.raises(links.PlaylistError, match="open one video"):
        look_up(link, reach=Reach(resolve=nobody))


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ({"id": "xxxxxxxxxxx"}, links.PlaylistError),
        ({"_type": "playlist"}, links.PlaylistError),
        ({"live_status": "is_upcoming"}, links.PremiereError),
        ({"live_status": "is_live"}, links.LiveError),
        ({"live_status": "post_live"}, links.LiveError),  # it is over, and not yet whole
        ({"duration": None}, links.LiveError),
        ({"duration": 7201}, links.LinkTooLongError),
    ],
)
def test_only_the_one_video_that_was_asked_for_is_taken_and_only_when_it_is_whole(says, kind) -> None:
    good = {"id": ID, "duration": 7200, "live_status": "was_live"}
    youtube: Any = SimpleNamespace(extract_info=lambda *_, **__: dict(good))
    assert _video(youtube, ID, LIMITS) == good
    good |= says
    with pytest.raises(kind):
        _video(youtube, ID, LIMITS)
