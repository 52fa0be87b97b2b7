"""Chromium for the page's tests: one that hears a recording as its microphone, and tabs of a desktop and of a phone."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.page_process import REPOSITORY

SCREENSHOTS = REPOSITORY / "build" / "serving"
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"},
    "phone": {"viewport": {"width": 390, "height": 844}, "locale": "it-IT", "has_touch": True, "color_scheme": "dark"},
}
TRANSCRIBE = {"desktop": "Transcribe", "phone": "Trascrivi"}
PATIENCE_MS = 30_000  # two seconds of work on a free machine
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --use-fake-ui-for-media-stream --use-fake-device-for-media-stream"
)


@contextmanager
def browser_that_hears(voice: Path) -> Iterator[Browser]:
    """Debian's Chromium, or another; a machine without one skips, unless REQUIRE_CHROMIUM=1 forbids that."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None and os.environ.get("REQUIRE_CHROMIUM") == "1":
        pytest.fail("no Chromium found and REQUIRE_CHROMIUM=1: apt-get install chromium")
    if path is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = [*FLAGS.split(), f"--use-file-for-fake-audio-capture={voice}"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, url: str, screen: str) -> Iterator[Page]:
    """The page on a screen, ready; for the rest as `open_tab`."""
    with open_tab(browser, url, screen) as tab:
        expect(button(tab, TRANSCRIBE[screen])).to_be_visible(timeout=PATIENCE_MS)
        yield tab


@contextmanager
def open_tab(browser: Browser, url: str, screen: str) -> Iterator[Page]:
    """A page on a screen; every request must have gone to its own server, and nothing may stick out."""
    with browser.new_context(**SCREENS[screen], permissions=["microphone"]) as context:
        tab = context.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(url)
        yield tab
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []


def button(tab: Page, name: str) -> Locator:
    """The visible button of that name: each way in has its own."""
    return tab.get_by_role("button", name=name, exact=True)


def way(tab: Page, name: str) -> None:
    tab.get_by_role("tab", name=name, exact=True).click()


def upload(tab: Page, kind: str, path: Path) -> None:
    """Chooses a file in the tab `audio` or `video`; the tab's name is the same in both languages."""
    way(tab, kind.capitalize())
    tab.locator(f"#{kind} input[type=file]").set_input_files(path)


def rows(tab: Page) -> Locator:
    return tab.locator("#timeline .passage")


def shoot(tab: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
