"""What a page of ours holds, read back; and the screens it is shown on."""

import base64
import time
from html.parser import HTMLParser

from playwright.sync_api import Page

SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}
VOID = {"meta", "img", "br", "link", "input"}
PATIENCE_SECONDS = 30
ALL_LOADED = "[...document.querySelectorAll('audio')].every(audio => audio.readyState > 0)"


class PageParser(HTMLParser):
    """The elements of a page with their attributes, the texts by class, and whether all tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("class", "")))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1][1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, kind: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == kind and text.strip()]


def content_of(uri: str, kind: str) -> bytes:
    assert uri.startswith(f"data:{kind};base64,")
    return base64.b64decode(uri.split(",", 1)[1], validate=True)


def wait_until(tab: Page, condition: str) -> None:
    """Until a JavaScript expression is true of a page whose policy forbids eval.

    Playwright's own wait_for_function polls within the page, where that policy stops it at the second look.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while not tab.evaluate(condition):
        assert time.monotonic() < end, f"not true after {PATIENCE_SECONDS} s: {condition}"
        tab.wait_for_timeout(20)
