"""The page with real Whisper base in a real Chromium: what a voice says into the microphone of a desktop, and a clip
chosen on a phone, become text; nothing is fetched from anywhere but the page's own server. The README's two pictures
are made here, into build/serving/. Every press, with a scripted engine: test_serving_press.py."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from serving.media import SAMPLE_RATE, load_audio
from tests.page_browser import PATIENCE_MS, SCREENSHOTS, browser_that_hears, button, open_page, rows, shoot, upload, way
from tests.page_process import Page, running_page

EXAMPLE_SAYS = "Tutti gli operatori della ditta sono al momento impegnati con altri clienti."


@pytest.fixture(scope="module")
def clip(sample_corpus: Path) -> tuple[Path, str]:
    """A test clip and its sentence."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return sample_corpus / "clips" / row["path"], row["sentence"]


@pytest.fixture(scope="module")
def browser(clip: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium whose microphone hears the clip over and over, a second apart."""
    voice = tmp_path_factory.mktemp("microphone") / "voice.wav"
    soundfile.write(voice, np.concatenate([load_audio(clip[0]), np.zeros(SAMPLE_RATE, np.float32)]), SAMPLE_RATE)
    with browser_that_hears(voice) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running_page(base_model_dir, tmp_path_factory.mktemp("page")) as page:
        yield page


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def expect_sentence(tab: Tab, sentence: str) -> None:
    """Half of the words: base itself errs on some."""
    expect(tab.locator("#status .note.done")).to_be_visible(timeout=PATIENCE_MS)
    heard = " ".join(rows(tab).locator(".said").all_text_contents())
    assert len(words(sentence) & words(heard)) >= len(words(sentence)) / 2, heard


def test_what_the_microphone_hears_becomes_text(browser: Browser, page: Page, clip: tuple[Path, str]) -> None:
    recording, sentence = clip
    with open_page(browser, page.url, "desktop") as tab:
        button(tab, "Record").click()
        # ms: once through, wherever it began
        tab.wait_for_timeout(2000 * load_audio(recording).size / SAMPLE_RATE + 1000)
        button(tab, "Stop").click()
        expect_sentence(tab, sentence)


def test_an_uploaded_clip_becomes_text_on_a_phone(browser: Browser, page: Page, clip: tuple[Path, str]) -> None:
    recording, sentence = clip
    with open_page(browser, page.url, "phone") as tab:
        upload(tab, "audio", recording)
        expect_sentence(tab, sentence)


@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_the_example_is_transcribed_and_makes_the_readmes_picture(browser: Browser, page: Page, screen: str) -> None:
    """Under 150 kB, so that the README stays light."""
    with open_page(browser, page.url, screen) as tab:
        way(tab, "Audio")
        button(tab, {"desktop": "Try an example", "phone": "Prova un esempio"}[screen]).click()
        expect_sentence(tab, EXAMPLE_SAYS)
        assert rows(tab).count() > 1
        rows(tab).nth(1).click()
        expect(rows(tab).nth(1)).to_have_attribute("aria-current", "true")
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(800)  # ms: the player's buttons settle
        shoot(tab, f"page-{screen}")
    assert (SCREENSHOTS / f"page-{screen}.png").stat().st_size < 150_000
