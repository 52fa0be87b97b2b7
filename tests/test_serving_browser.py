"""The page in a real Chromium, on a desktop and on a phone: upload and microphone give text, and nothing is fetched
from anywhere but the page's own server. Screenshots go to build/serving/."""

import csv
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Locator, expect, sync_playwright
from playwright.sync_api import Page as Tab

from serving.media import SAMPLE_RATE, load_audio
from tests.page_process import REPOSITORY, Page, running_page

SCREENSHOTS = REPOSITORY / "build" / "serving"
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"},
    "phone": {"viewport": {"width": 390, "height": 844}, "locale": "it-IT", "has_touch": True, "color_scheme": "dark"},
}
BUTTON = {"desktop": "Transcribe", "phone": "Trascrivi"}
PATIENCE_MS = 120_000  # two seconds of work on a free machine
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --use-fake-ui-for-media-stream --use-fake-device-for-media-stream"
)


@pytest.fixture(scope="module")
def chromium() -> str:
    """Debian's Chromium, or another; a machine without one skips, unless REQUIRE_CHROMIUM=1 forbids that."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("REQUIRE_CHROMIUM") == "1":
        pytest.fail("no Chromium found and REQUIRE_CHROMIUM=1: apt-get install chromium")
    pytest.skip("no Chromium found: apt-get install chromium")


@pytest.fixture(scope="module")
def clip(sample_corpus: Path) -> tuple[Path, str]:
    """A test clip and its sentence."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return sample_corpus / "clips" / row["path"], row["sentence"]


@pytest.fixture(scope="module")
def browser(chromium: str, clip: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium whose microphone hears the clip over and over, a second apart."""
    voice = tmp_path_factory.mktemp("microphone") / "voice.wav"
    soundfile.write(voice, np.concatenate([load_audio(clip[0]), np.zeros(SAMPLE_RATE, np.float32)]), SAMPLE_RATE)
    flags = [*FLAGS.split(), f"--use-file-for-fake-audio-capture={voice}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running_page(base_model_dir, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(params=list(SCREENS))
def screen(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tab(screen: str, browser: Browser, page: Page) -> Iterator[Tab]:
    """The open page; at the end, every request must have gone to its own server."""
    with browser.new_context(**SCREENS[screen], permissions=["microphone"]) as context:
        tab = context.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.url)
        expect(tab.get_by_role("button", name=BUTTON[screen])).to_be_visible(timeout=PATIENCE_MS)
        yield tab
    assert [url for url in asked if not url.startswith((page.url, "data:", "blob:"))] == []


def text_of(tab: Tab) -> Locator:
    return tab.locator("#text textarea")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def expect_sentence(tab: Tab, sentence: str) -> None:
    """Half of the words: base itself errs on some."""
    expect(text_of(tab)).not_to_have_value("", timeout=PATIENCE_MS)
    heard = text_of(tab).input_value()
    assert len(words(sentence) & words(heard)) >= len(words(sentence)) / 2, heard


def shoot(tab: Tab, screen: str, what: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{screen}-{what}.png", full_page=True)


def test_an_uploaded_clip_becomes_text(tab: Tab, screen: str, clip: tuple[Path, str]) -> None:
    recording, sentence = clip
    shoot(tab, screen, "open")
    tab.get_by_role("button", name="Upload file").click()
    tab.locator("input[type=file]").set_input_files(recording)
    expect_sentence(tab, sentence)
    shoot(tab, screen, "uploaded")
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]  # nothing sticks out
    tab.get_by_role("button", name="Clear").first.click()
    expect(text_of(tab)).to_have_value("")


def test_what_the_microphone_hears_becomes_text(tab: Tab, screen: str, clip: tuple[Path, str]) -> None:
    recording, sentence = clip
    tab.get_by_role("button", name="Record", exact=True).click()
    tab.wait_for_timeout(2000 * load_audio(recording).size / SAMPLE_RATE + 1000)  # ms: once through, wherever it began
    shoot(tab, screen, "recording")
    tab.get_by_role("button", name="Stop", exact=True).first.click()
    expect_sentence(tab, sentence)
    shoot(tab, screen, "recorded")


def test_a_file_that_is_no_recording_shows_plain_words(tab: Tab, screen: str, tmp_path: Path) -> None:
    (tmp_path / "letter.mp3").write_bytes(b"Cara Anna, " * 1000)
    tab.get_by_role("button", name="Upload file").click()
    tab.locator("input[type=file]").set_input_files(tmp_path / "letter.mp3")
    says = {"desktop": "could not be read as audio", "phone": "non è leggibile come audio"}[screen]
    expect(tab.get_by_text(says)).to_be_visible(timeout=PATIENCE_MS)
    tab.wait_for_timeout(500)  # ms: it fades in
    shoot(tab, screen, "error")


def test_the_button_without_a_recording_says_what_to_do(tab: Tab, screen: str) -> None:
    tab.get_by_role("button", name=BUTTON[screen]).click()
    says = {"desktop": "There is no recording yet", "phone": "Non c'è ancora una registrazione"}[screen]
    expect(tab.get_by_text(says)).to_be_visible(timeout=PATIENCE_MS)
