"""The monitor in a real Chromium, of a made store: as a page, as a tab of the page, and as a Space that has only what
it installs. What it shows is there to read and to hear; whatever a transcript says is text; nothing comes from
elsewhere. Pictures of it are made here, into build/serving/."""

import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from huggingface_hub import metadata_load
from PIL import Image
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

import serving.monitor
import serving.space
from daily.day_progress import DayProgress, write_progress
from daily.snapshot import snapshot, write
from serving.errors import UserError
from serving.monitor import shown, stale
from serving.monitor_words import ENGLISH, ITALIAN, TABLES
from serving.space import SpaceConfig, write_space
from tests.made_store import Clip, add_day, drawn_clips, made_store
from tests.page_browser import PATIENCE_MS, TRANSCRIBE, browser_that_hears, button, open_tab, shoot
from tests.page_process import Page, free_port, running
from tests.test_serving_alone import running_space

DAYS = 8
LAST = date.today()
HOSTILE = '<img src=x onerror="window.pwned=1"> ${window.pwned=2} {{this}}'
WORSE = Clip(hypothesis=f"uno tre quattro {HOSTILE}", errors=3, voice="</td><script>window.pwned=3</script>")


def day_of(number: int) -> str:
    """Of the days up to today the one of that number, from 0: an old snapshot would be called so."""
    return (LAST - timedelta(DAYS - 1 - number)).isoformat()


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The snapshot of a store whose last day went badly in every way."""
    store = made_store(tmp_path_factory.mktemp("made") / "store")
    rng = np.random.default_rng(0)
    for number in range(DAYS - 1):
        version = str(1 + number // 4)
        clips = drawn_clips(rng, 20, 0.15)
        if number == 0:
            clips = [replace(clip, confidence=None) for clip in clips]
        add_day(store, day_of(number), clips, version)
    last = day_of(DAYS - 1)
    add_day(store, last, [WORSE] * 12, "2")
    write_progress(store.folder, DayProgress(last).note("training", "failed", error=f"out of memory {HOSTILE}"))
    store.confidence(last).mkdir(parents=True)
    for name in ("calibration.png", "confusion.png"):
        Image.new("RGB", (48, 36), "white").save(store.confidence(last) / name)
    write(store.monitor, *snapshot(store, last))
    return store.monitor


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_that_hears(tmp_path_factory.mktemp("microphone") / "none.wav") as browser:
        yield browser


@pytest.fixture(scope="module")
def page(monitor: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    command = ["serving.monitor", "--folder", str(monitor), "--port", str(free_port())]
    with running(command, tmp_path_factory.mktemp("page")) as page:
        yield page


def expect_board(tab: Tab) -> None:
    expect(tab.locator(".board")).to_be_visible(timeout=PATIENCE_MS)


def expect_nothing_ran(tab: Tab) -> None:
    tab.wait_for_timeout(300)  # ms: for an image that fails to load
    assert tab.evaluate("window.pwned") is None
    assert tab.locator(".board script").count() == 0


@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_all_that_a_snapshot_says_is_there_to_read(browser: Browser, page: Page, monitor: Path, screen: str) -> None:
    words = {"desktop": ENGLISH, "phone": ITALIAN}[screen]
    said = json.loads((monitor / "monitor.json").read_text())
    with open_tab(browser, page.url, screen) as tab:
        expect_board(tab)
        for kind in ("wer_rose", "failed_stage", "drifted"):
            longest = max(re.split(r"{\w*}", words[kind]), key=len)
            expect(tab.get_by_role("alert").filter(has_text=longest)).to_have_count(1)
        assert [warning["kind"] for warning in said["warnings"]] == ["wer_rose", "failed_stage", "drifted"]
        expect(tab.locator("#monitor-last tbody tr")).to_have_count(4)
        cells = [int(text) for text in tab.locator("#monitor-confusion strong").all_text_contents()]
        assert cells == [said["confusion"][row][cell] for row in ("trusted", "doubted") for cell in ("right", "wrong")]
        assert sum(cells) + said["confusion"]["unestimated"] == said["clips"] == (DAYS - 1) * 20 + 12
        expect(tab.locator("#monitor-days .point")).to_have_count(DAYS)
        expect(tab.locator("#monitor-days .new-version")).to_have_count(1)
        expect(tab.locator("#monitor-drift tbody tr")).to_have_count(8)
        expect(tab.locator("#monitor-stages tbody tr")).to_have_count(1)
        rate = f"{said['days'][-1]['wer']:.1f}".replace(".", words["decimal"])
        expect(tab.locator(".tiles dd").first).to_have_text(f"{rate} %")
        tab.locator("#monitor-days summary").click()
        expect(tab.locator("#monitor-days tbody tr")).to_have_count(DAYS)
        expect_nothing_ran(tab)
        tab.locator("#monitor-days summary").click()
        shoot(tab, f"monitor-{screen}")


def test_todays_clip_can_be_heard_with_its_words_aligned(browser: Browser, page: Page) -> None:
    with open_tab(browser, page.url, "desktop") as tab:
        expect_board(tab)
        sound = tab.locator("#monitor-clip audio")
        sound.evaluate("sound => sound.play()")
        tab.wait_for_function("document.querySelector('#monitor-clip audio').currentTime > 0.2", timeout=PATIENCE_MS)
        assert sound.evaluate("sound => sound.duration") == pytest.approx(1.0)
        pairs = tab.locator(".aligned .pair")
        expect(pairs.nth(0)).to_have_class("pair same")
        expect(pairs.nth(1)).to_have_class("pair deleted")
        assert pairs.nth(1).locator("span").all_text_contents() == ["due", "·"]
        expect(pairs.nth(4)).to_have_class("pair inserted")
        assert pairs.nth(4).locator("span").all_text_contents() == ["·", "<img"]


def test_the_monitor_is_a_tab_of_the_page_beside_what_transcribes(
    browser: Browser, monitor: Path, tmp_path: Path
) -> None:
    command = ["tests.scripted_page", str(free_port()), str(tmp_path / "log"), str(monitor)]
    with running(command, tmp_path) as page, open_tab(browser, page.url, "phone") as tab:
        expect(button(tab, TRANSCRIBE["phone"])).to_be_visible(timeout=PATIENCE_MS)
        expect(tab.locator(".board")).not_to_be_visible()
        tab.get_by_role("tab", name="Monitor", exact=True).click()
        expect_board(tab)
        expect(button(tab, TRANSCRIBE["phone"])).not_to_be_visible()
        expect(tab.locator("#monitor-last tbody tr")).to_have_count(4)
        expect_nothing_ran(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
        tab.get_by_role("tab", name=TRANSCRIBE["phone"], exact=True).click()
        expect(button(tab, TRANSCRIBE["phone"])).to_be_visible()


def test_a_space_shows_its_snapshot_without_pytorch_and_the_newest_state_when_loaded_again(
    browser: Browser, monitor: Path, tmp_path: Path
) -> None:
    space = write_space(SpaceConfig(monitor=monitor, out=tmp_path / "space", title="Il monitor"))
    assert {path.name for path in (space / "monitor").iterdir()} == {path.name for path in monitor.iterdir()}
    found = metadata_load(space / "README.md")
    assert (found["title"], found["sdk"], found["app_file"]) == ("Il monitor", "gradio", "app.py")
    assert len(found["short_description"]) <= 60  # the hub's limit
    asked = re.findall(r"^([\w-]+)==", (space / "requirements.txt").read_text(), re.MULTILINE)
    assert asked == ["gradio", "tyro"]
    for name in ("torch", "av", "transformers"):  # a Space of these requirements has none of them
        (space / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')")
    with running_space(space, tmp_path) as url, open_tab(browser, url, "desktop") as tab:
        expect_board(tab)
        expect(tab.get_by_role("alert")).to_have_count(3)
        tab.wait_for_function("document.querySelector('#monitor-clip audio').duration == 1", timeout=PATIENCE_MS)
        content = json.loads((space / "monitor" / "monitor.json").read_text())
        (space / "monitor" / "monitor.json").write_text(json.dumps(content | {"warnings": []}))
        tab.reload()
        expect(tab.get_by_text(ENGLISH["all_well"])).to_be_visible(timeout=PATIENCE_MS)
        expect(tab.get_by_role("alert")).to_have_count(0)


def test_files_beside_the_snapshot_stay_where_they_are(page: Page, monitor: Path) -> None:
    (monitor.parent / "secret.flac").write_bytes(b"secret")
    assert httpx.get(f"{page.url}gradio_api/file={monitor}/monitor.json").status_code == 200
    for path in (f"{monitor.parent}/secret.flac", f"{monitor}/../secret.flac", f"{monitor}/..%2Fsecret.flac"):
        assert httpx.get(f"{page.url}gradio_api/file={path}").status_code in (403, 404), path


def test_a_snapshot_that_cannot_be_shown_is_said_in_a_line_to_visitors_and_in_the_log(
    monitor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((monitor / "monitor.json").read_text())
    pictures = [{"kind": "calibration", "file": "../secret.png"}]
    for text, says in (
        ("{", "is no snapshot"),
        (json.dumps({"format": 2}), "has format 2, this version reads 1"),
        (json.dumps({"format": 1}), "lacks day, language, clips"),
        (json.dumps({key: value for key, value in content.items() if key != "drift"}), "lacks drift;"),
        (json.dumps(content | {"pictures": pictures}), "names the file '../secret.png'"),
    ):
        (tmp_path / "monitor.json").write_text(text)
        assert shown(tmp_path, ENGLISH) == f'<p class="note error" role="alert">{ENGLISH["unreadable"]}</p>'
        assert says in capsys.readouterr().err


def test_the_monitor_of_a_store_without_a_day_says_so(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store")
    write(store.monitor, *snapshot(store, day_of(DAYS - 1)))
    for words in TABLES.values():
        board = html.unescape(shown(store.monitor, words))
        assert [words[name] in board for name in ("no_clip", "no_drift", "no_versions", "all_well")] == [True] * 4


def test_days_and_voices_of_few_clips_have_no_interval(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store")
    add_day(store, day_of(0), [Clip(), Clip(errors=2), Clip(errors=4, voice="pc_diphone")])
    add_day(store, day_of(1), [Clip(errors=1)] * 6, "2")
    write(store.monitor, *snapshot(store, day_of(1)))
    board = html.unescape(shown(store.monitor, ITALIAN))
    assert [board.count(said) for said in ('50,0 % <span class="soft">(–)</span>', '50,0 % (–), Versione 1"')] == [1, 1]
    assert (board.count('class="point"'), board.count('class="interval"')) == (2, 1)
    assert (board.count('class="value"'), board.count('class="span"')) == (3, 2)


def test_a_snapshot_that_no_run_renewed_is_said_to_be_old(monitor: Path) -> None:
    """From the second day on: a Space shows yesterday's until the loop has run. One that says so itself is enough."""
    content = json.loads((monitor / "monitor.json").read_text()) | {"warnings": []}
    assert [stale(content, LAST + timedelta(later)) for later in (0, 1)] == [[], []]
    told = [{"kind": "stale", "day": LAST.isoformat()}]
    assert stale(content, LAST + timedelta(2)) == told
    assert stale(content | {"warnings": told}, LAST + timedelta(2)) == []


def test_an_old_snapshot_and_every_kind_of_warning_can_be_shown(monitor: Path, tmp_path: Path) -> None:
    content = json.loads((monitor / "monitor.json").read_text())
    told = {"day": LAST.isoformat(), "stage": "training", "error": "<b>gone</b>", "count": 3}
    kinds = ("failed_stage", "started_stage", "given_up", "no_registry", "no_predictions")
    states = [{**told, "state": state} for state in ("failed", "started", "waiting")]
    old = {
        "day": "2026-01-01",
        "warnings": [{"kind": kind, **told} for kind in kinds],
        "stages": [*states, told],  # the last as snapshots were before
        "confusion": content["confusion"] | {"bound": None},
    }
    (tmp_path / "monitor.json").write_text(json.dumps(content | old))
    for words in TABLES.values():
        board = html.unescape(shown(tmp_path, words))
        assert board.count('role="alert"') == len(kinds) + 1
        assert words["stale"].format(day="2026-01-01") in board
        assert words["bound_of_day"] in board
        assert all(f"<td>{words[f'state_{state}']}</td>" in board for state in ("failed", "started", "waiting"))


def test_the_commands_say_in_a_line_what_they_cannot_do(
    monitor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "monitor.json").write_text('{"format": 1}')
    out = ["--out", str(tmp_path / "space")]
    for main, words, says in (
        (serving.monitor.main, ["--folder", str(tmp_path / "empty")], "monitor.json: is not there"),
        (serving.monitor.main, ["--folder", str(tmp_path / "half")], "monitor.json: lacks day"),
        (serving.space.main, ["--monitor", str(tmp_path / "empty"), *out], "monitor.json: is not there"),
        (serving.space.main, out, "give either --model or --monitor"),
    ):
        monkeypatch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(SystemExit, match="2"):
            main()
        error = capsys.readouterr().err
        assert (error.count("\n"), says in error) == (1, True), error
    assert not (tmp_path / "space").exists()
    with pytest.raises(UserError, match="the monitor computes nothing"):
        SpaceConfig(monitor=monitor, hardware="zero-a10g")


def test_both_languages_say_everything() -> None:
    """The same keys, with the same figures in each."""
    fields = {
        name: {key: set(re.findall(r"{\w*}", text)) for key, text in table.items()} for name, table in TABLES.items()
    }
    assert fields["en"] == fields["it"]
