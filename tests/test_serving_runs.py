"""What a visitor asked for last is what the page does, in a real Chromium with a scripted engine: who waits in line
and is no longer wanted gives up, no other video takes a failed one's place, what was cancelled can be taken away."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from serving.media import SAMPLE_RATE
from serving.page import LANGUAGE_NAMES
from serving.words import ENGLISH
from tests.page_browser import PATIENCE_MS, browser_that_hears, button, open_page, rows, upload, way
from tests.page_process import Page, free_port, running
from tests.scripted_page import LINK, SENTENCES, WITHHELD
from tests.watched_page import QUEUE_SIZE, ROOM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    (folder / "log").touch()
    return folder / "log"


@pytest.fixture(scope="module")
def page(folder: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    temporary = tmp_path_factory.mktemp("temporary")
    with running(["tests.watched_page", str(folder / "reached"), str(free_port()), str(log)], temporary) as page:
        yield page
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def recording(folder: Path, seconds: float) -> Path:
    path = folder / f"{seconds:g}.wav"
    soundfile.write(path, np.zeros(int(seconds * SAMPLE_RATE), np.int16), SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def lecture(folder: Path) -> Path:
    """40 s of the script's patience: nobody waits for its end."""
    return recording(folder, 400)


@pytest.fixture(scope="module")
def browser(lecture: Path) -> Iterator[Browser]:
    with browser_that_hears(lecture) as browser:
        yield browser


@pytest.mark.parametrize(("language", "italian"), [("de", "Italienisch"), ("C", "it"), ("it_IT.UTF-8", "it")])
def test_a_language_that_has_no_name_has_its_code(browser: Browser, language: str, italian: str) -> None:
    """A browser's may be none, as its system says it; a model may have a code of its own."""
    empty = browser.new_page()
    empty.evaluate("language => Object.defineProperty(navigator, 'language', {get: () => language})", language)
    (names,) = empty.evaluate(LANGUAGE_NAMES.replace("CODES", json.dumps(["it", "our_own_language"])))
    assert names == {"it": italian, "our_own_language": "our_own_language"}
    empty.close()


@pytest.fixture
def tab(browser: Browser, page: Page) -> Iterator[Tab]:
    with open_page(browser, page.url, "desktop") as tab:
        yield tab


def done(tab: Tab, passages: int) -> None:
    expect(tab.locator("#status .note.done")).to_be_visible(timeout=PATIENCE_MS)
    assert rows(tab).count() == passages


def in_line(tab: Tab) -> None:
    expect(tab.locator("#status")).to_contain_text(re.compile(r"\d of \d in the queue"), timeout=PATIENCE_MS)


def began(log: Path) -> int:
    return log.read_text().count("began")


@pytest.fixture
def engine(browser: Browser, page: Page, lecture: Path) -> Iterator[Tab]:
    """Somebody else's tab, whose lecture keeps the engine."""
    with open_page(browser, page.url, "desktop") as first:
        upload(first, "audio", lecture)
        expect(rows(first).nth(0)).to_be_visible(timeout=PATIENCE_MS)
        yield first


@pytest.mark.parametrize("cleared", [True, False])
def test_a_file_chosen_while_one_waits_in_line_takes_its_place(
    engine: Tab, tab: Tab, log: Path, folder: Path, cleared: bool
) -> None:
    """Whether the first one was cleared away, or another was chosen beside it."""
    upload(tab, "audio", recording(folder, 3))
    in_line(tab)
    before = began(log)
    if cleared:
        tab.locator("#audio").get_by_role("button", name="Clear").first.click()
        expect(tab.locator("#status")).to_contain_text(ENGLISH["placeholder"])
    upload(tab, "audio" if cleared else "video", recording(folder, 7))
    in_line(tab)
    expect(tab.locator("#status .note.error")).to_be_hidden()
    button(engine, "Cancel").click()
    done(tab, passages=4)
    tab.wait_for_timeout(1000)  # ms: for whoever waits behind it
    done(tab, passages=4)
    assert began(log) == before + 1


def test_who_clears_a_waiting_file_gives_up_the_place(engine: Tab, tab: Tab, log: Path, folder: Path) -> None:
    upload(tab, "audio", recording(folder, 3))
    in_line(tab)
    before = began(log)
    tab.locator("#audio").get_by_role("button", name="Clear").first.click()
    button(engine, "Cancel").click()
    tab.wait_for_timeout(2000)
    expect(tab.locator("#status")).to_contain_text(ENGLISH["placeholder"])
    assert began(log) == before


def test_what_was_cancelled_can_be_taken_away_as_far_as_it_came(tab: Tab, lecture: Path) -> None:
    upload(tab, "audio", lecture)
    expect(rows(tab).nth(2)).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.locator("#downloads")).to_be_hidden()
    button(tab, "Cancel").click()
    expect(tab.locator("#status")).to_contain_text("Cancelled")
    with tab.expect_download() as download:
        button(tab, "TXT").click()
    assert download.value.suggested_filename == "400.txt"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.startswith(" ".join(SENTENCES[:3]))
    tab.wait_for_timeout(1000)
    expect(tab.locator("#status")).to_contain_text("Cancelled")


def find(tab: Tab, link: str) -> None:
    way(tab, "YouTube")
    tab.get_by_label("YouTube link").fill(link)
    button(tab, "Find the video").click()
    expect(tab.locator("#card strong")).to_be_visible()
    expect(button(tab, "Transcribe")).to_be_visible()


def test_a_video_that_is_not_given_out_is_said_to_be_so_and_no_other_is_transcribed(tab: Tab, log: Path) -> None:
    """At first, when there is none, and after another, which would be there still."""
    before = began(log)
    for link in (WITHHELD, LINK, WITHHELD):
        find(tab, link)
        tab.wait_for_timeout(500)  # the card of the one before is replaced
        button(tab, "Transcribe").click()
        if link == LINK:
            done(tab, passages=2)
            continue
        expect(tab.get_by_role("alert")).to_contain_text(ENGLISH["BotCheckError"], timeout=PATIENCE_MS)
        tab.wait_for_timeout(2000)
        expect(tab.get_by_role("alert")).to_contain_text(ENGLISH["BotCheckError"])
        assert rows(tab).count() == 0
        expect(button(tab, "Cancel")).to_be_hidden()
    assert began(log) == before + 1


@pytest.mark.usefixtures("engine")
def test_a_video_for_which_there_is_no_place_in_line_is_told_to_come_back(
    browser: Browser, page: Page, tab: Tab, folder: Path
) -> None:
    find(tab, LINK)
    others = []
    for _ in range(QUEUE_SIZE):
        others.append(browser.new_page(locale="en-US"))
        others[-1].goto(page.url)
        upload(others[-1], "audio", recording(folder, 3))
        in_line(others[-1])
    button(tab, "Transcribe").click()
    expect(tab.locator("#status .note.error")).to_contain_text("Try again in a minute", timeout=PATIENCE_MS)
    expect(button(tab, "Cancel")).to_be_hidden()
    tab.get_by_label("YouTube link").fill(LINK)
    button(tab, "Find the video").click()
    expect(tab.locator("#card")).to_contain_text("Try again in a minute", timeout=PATIENCE_MS)
    for other in others:
        other.close()


def test_an_upload_for_which_there_is_no_room_is_told_so(tab: Tab, folder: Path) -> None:
    size = ROOM // 2 // SAMPLE_RATE + 100  # seconds of two bytes
    upload(tab, "audio", recording(folder, size))
    expect(tab.get_by_text("There is no room for this recording").first).to_be_visible(timeout=PATIENCE_MS)
