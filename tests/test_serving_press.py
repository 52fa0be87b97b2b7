"""Every press on the page in a real Chromium, with a scripted engine: the four ways in, what comes out, Cancel, errors,
the keyboard, and that nothing anybody says becomes part of the page. Real weights: test_serving_browser.py."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from serving.media import SAMPLE_RATE
from tests.made_media import grey_film, tone
from tests.page_browser import (
    PATIENCE_MS,
    browser_that_hears,
    button,
    open_page,
    rows,
    shoot,
    upload,
    way,
)
from tests.page_process import Page, scripted_page
from tests.scripted_page import EACH, LINK, SENTENCES, TITLE

SECONDS = 9.0  # five sentences of the script, each of its kinds
LONG_SECONDS = 400.0  # 40 s of the script's patience: nobody waits for its end


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("press")


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    (folder / "log").touch()
    return folder / "log"


@pytest.fixture(scope="module")
def page(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    temporary = tmp_path_factory.mktemp("temporary")
    with scripted_page(log, temporary) as page:
        yield page
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert left == []  # of uploads, downloads and what came from YouTube


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """A tone of `SECONDS`, under a name that is markup."""
    path = folder / "<img src=x onerror=window.pwned=5>.wav"
    soundfile.write(path, tone(SECONDS), SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def lecture(folder: Path) -> Path:
    soundfile.write(folder / "lecture.wav", tone(LONG_SECONDS), SAMPLE_RATE)
    return folder / "lecture.wav"


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    return grey_film(folder / "film.webm", SECONDS)


@pytest.fixture(scope="module")
def browser(lecture: Path) -> Iterator[Browser]:
    with browser_that_hears(lecture) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, page: Page) -> Iterator[Tab]:
    """The open page on a desktop, in English; at its end no text has become a script."""
    with open_page(browser, page.url, "desktop") as tab:
        yield tab
        assert tab.evaluate("window.pwned") is None


def done(tab: Tab) -> None:
    expect(tab.locator("#status .note.done")).to_be_visible(timeout=PATIENCE_MS)


def said(seconds: float) -> list[str]:
    """What the script says of a recording."""
    return [SENTENCES[at % len(SENTENCES)] for at in range(int(np.ceil(seconds / EACH)))]


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_audio_file_becomes_a_timeline_with_every_sentence_as_it_was_said(tab: Tab, clip: Path) -> None:
    upload(tab, "audio", clip)
    done(tab)
    assert rows(tab).locator(".said").all_text_contents() == said(SECONDS)
    assert rows(tab).locator(".time").all_text_contents() == ["0:00", "0:02", "0:04", "0:06", "0:08"]
    way(tab, "Text")
    expect(tab.locator("#text textarea")).to_have_value(" ".join(said(SECONDS)))
    expect(tab.locator("#audio")).to_contain_text("onerror")  # the file's name is shown as it is


def test_a_passage_plays_from_its_time_when_clicked_and_is_marked_while_it_is_heard(tab: Tab, clip: Path) -> None:
    upload(tab, "audio", clip)
    done(tab)
    rows(tab).nth(2).click()
    expect(rows(tab).nth(2)).to_have_attribute("aria-current", "true")
    assert tab.evaluate("!player.querySelector('audio').paused")
    assert 4 <= tab.evaluate("player.querySelector('audio').currentTime") < 6


def test_each_format_is_downloaded_with_what_was_said(tab: Tab, clip: Path) -> None:
    upload(tab, "audio", clip)
    done(tab)
    texts = {}
    for kind in ("txt", "srt", "vtt", "json"):
        with tab.expect_download() as download:
            button(tab, kind.upper()).click()
        assert download.value.suggested_filename.endswith(f".{kind}")
        assert "<" not in download.value.suggested_filename
        texts[kind] = Path(download.value.path()).read_text(encoding="utf-8")
    assert texts["txt"].split() == " ".join(said(SECONDS)).split()
    assert texts["srt"].startswith("1\n00:00:00")
    assert texts["vtt"].startswith("WEBVTT")
    assert [segment["text"] for segment in json.loads(texts["json"])["segments"]] == said(SECONDS)


def test_a_video_is_shown_with_its_subtitles_on(tab: Tab, film: Path) -> None:
    upload(tab, "video", film)
    done(tab)
    rows(tab).nth(1).click()
    track = "player.querySelector('video').textTracks[0]"
    tab.wait_for_function(f"{track}?.activeCues.length === 1")
    assert tab.evaluate(f"{track}.mode") == "showing"
    assert tab.evaluate(f"{track}.cues.length") == len(said(SECONDS))
    assert tab.evaluate(f"{track}.activeCues[0].getCueAsHTML().textContent") == SENTENCES[1]  # no tag of its own
    assert tab.evaluate("player.querySelector('video').videoWidth") == 160
    shoot(tab, "video")


def test_a_youtube_link_shows_title_length_and_picture_before_it_is_transcribed(tab: Tab, log: Path) -> None:
    before = log.read_text()
    way(tab, "YouTube")
    tab.get_by_label("YouTube link").fill(LINK)
    tab.keyboard.press("Enter")
    expect(tab.locator("#card strong")).to_have_text(TITLE)
    expect(tab.locator("#card span")).to_have_text("1:02:03")
    assert tab.locator("#card img").evaluate("picture => picture.decode().then(() => picture.naturalWidth)") == 1
    assert log.read_text() == before
    button(tab, "Transcribe").click()
    done(tab)
    assert rows(tab).locator(".said").all_text_contents() == said(4.0)
    shoot(tab, "youtube")


def test_a_link_that_is_not_youtubes_is_answered_in_plain_words(tab: Tab) -> None:
    way(tab, "YouTube")
    button(tab, "Find the video").click()
    expect(tab.get_by_role("alert")).to_contain_text("There is no link yet")
    tab.get_by_label("YouTube link").fill("http://169.254.169.254/latest")
    button(tab, "Find the video").click()
    expect(tab.get_by_role("alert")).to_contain_text("This is not a link to a YouTube video")
    expect(button(tab, "Transcribe")).to_be_hidden()


def test_what_the_microphone_hears_is_transcribed_when_the_recording_stops(tab: Tab) -> None:
    button(tab, "Record").click()
    tab.wait_for_timeout(3000)  # ms of recording
    button(tab, "Stop").click()
    done(tab)
    assert rows(tab).count() >= 1


def test_a_visitor_waits_or_is_told_to_come_back_and_cancel_stops_the_engine_for_the_next(
    browser: Browser, page: Page, tab: Tab, log: Path, lecture: Path, clip: Path
) -> None:
    upload(tab, "audio", lecture)
    expect(rows(tab).nth(2)).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]\d?$"))
    expect(tab.locator("#status")).to_contain_text("left")
    shoot(tab, "running")
    with open_page(browser, page.url, "desktop") as second:
        upload(second, "audio", clip)
        expect(second.locator("#status")).to_contain_text("1 of 1 in the queue", timeout=PATIENCE_MS)
        with open_page(browser, page.url, "desktop") as third:  # the scripted page's queue takes one
            upload(third, "audio", clip)
            expect(third.get_by_text("Too many people are waiting").first).to_be_visible(timeout=PATIENCE_MS)
            expect(third.locator("#status .note.error")).to_contain_text("Try again in a minute")
            shoot(third, "busy")
        began = log.read_text().count("stopped")
        button(tab, "Cancel").click()
        expect(tab.locator("#status")).to_contain_text("Cancelled")
        wait_for(lambda: log.read_text().count("stopped") == began + 1)
        done(second)
    assert rows(tab).count() >= 3  # what had come stays
    expect(button(tab, "Cancel")).to_be_hidden()


def test_one_who_waits_can_give_up_the_place_and_a_closed_tab_stops_the_engine(
    browser: Browser, page: Page, tab: Tab, log: Path, lecture: Path, clip: Path
) -> None:
    stopped = log.read_text().count("stopped")
    with open_page(browser, page.url, "desktop") as first:
        upload(first, "audio", lecture)
        expect(rows(first).nth(0)).to_be_visible(timeout=PATIENCE_MS)
        upload(tab, "audio", clip)
        expect(tab.locator("#status")).to_contain_text("1 of 1 in the queue", timeout=PATIENCE_MS)
        button(tab, "Cancel").click()
        expect(tab.locator("#status")).to_contain_text("Cancelled")
        began = log.read_text().count("began")
    wait_for(lambda: log.read_text().count("stopped") == stopped + 1)
    button(tab, "Transcribe").click()
    done(tab)
    assert log.read_text().count("began") == began + 1  # the run that was given up never began


def test_another_file_chosen_meanwhile_takes_the_place_of_the_first(tab: Tab, lecture: Path, clip: Path) -> None:
    upload(tab, "audio", lecture)
    expect(rows(tab).nth(1)).to_be_visible(timeout=PATIENCE_MS)
    tab.get_by_role("button", name="Clear").first.click()
    upload(tab, "audio", clip)
    done(tab)
    assert rows(tab).locator(".said").all_text_contents() == said(SECONDS)


def test_options_reach_the_engine_and_words_play_alone(tab: Tab, log: Path, clip: Path) -> None:
    tab.get_by_label("A time for every word").check()
    tab.get_by_label("Language spoken").click()
    tab.get_by_role("option", name="Italian").click()
    upload(tab, "audio", clip)
    done(tab)
    assert "Options(language='it', task='transcribe', words=True)" in log.read_text().splitlines()[-2]
    tab.locator(".word", has_text="tutti.").first.click()
    assert tab.evaluate("player.querySelector('audio').currentTime") >= 4 / 3 - 0.01  # the third of three words in 2 s
    tab.get_by_label("Translate into English").check()
    button(tab, "Transcribe").click()
    expect(rows(tab).first).to_contain_text("Translated.")


def test_errors_are_said_in_plain_words_and_the_next_file_is_served(tab: Tab, tmp_path: Path, clip: Path) -> None:
    button(tab, "Transcribe").click()
    expect(tab.get_by_role("alert")).to_contain_text("There is no recording yet")
    (tmp_path / "letter.mp3").write_bytes(b"Cara Anna, " * 1000)
    upload(tab, "audio", tmp_path / "letter.mp3")
    expect(tab.get_by_role("alert")).to_contain_text("could not be read as audio", timeout=PATIENCE_MS)
    expect(tab.locator("#status")).not_to_contain_text("letter")
    shoot(tab, "error")
    tab.get_by_role("button", name="Clear").first.click()
    upload(tab, "audio", clip)
    done(tab)


def test_everything_can_be_done_from_the_keyboard(tab: Tab, clip: Path) -> None:
    """Tab reaches every control in the order it is read; a focused one can be seen; Enter and the arrows work."""
    upload(tab, "audio", clip)
    done(tab)
    tab.locator("#ways").get_by_role("tab", name="Audio").focus()
    visited = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        visited.append(tab.evaluate("(document.activeElement.ariaLabel ?? document.activeElement.innerText).trim()"))
        if visited[-1].startswith("0:00"):
            break
    wanted = ["Transcribe", "Try an example", "TXT", "SRT", "VTT", "JSON", "Timeline"]
    assert [name for name in visited if name in wanted] == wanted
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    expect(rows(tab).nth(2)).to_have_attribute("aria-current", "true")
    assert 4 <= tab.evaluate("player.querySelector('audio').currentTime") < 6


def test_on_a_phone_in_italian_gradios_own_words_are_italian_too(browser: Browser, page: Page, clip: Path) -> None:
    with open_page(browser, page.url, "phone") as tab:
        expect(button(tab, "Registra")).to_be_visible()
        for name in ("Registra", "Audio", "Video", "YouTube"):
            expect(tab.get_by_role("tab", name=name, exact=True)).to_be_visible()
        assert tab.evaluate("document.documentElement.lang") == "it"
        assert "dark" in tab.evaluate("document.body.className")
        upload(tab, "audio", clip)
        expect(tab.locator("#status")).to_contain_text("Fatto: 9 s di registrazione", timeout=PATIENCE_MS)
        assert rows(tab).nth(4).locator(".said").text_content() == "Record"  # said, so not translated
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        way(tab, "Video")
        expect(tab.locator("#video")).to_contain_text("Trascina qui il file")
        shoot(tab, "phone-italian")
