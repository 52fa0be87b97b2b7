"""What the page says and shows, without a browser: words for every error in both languages, HTML that holds no
markup of anybody's, a run's views from the first to the downloads, and its files gone afterwards."""

import string
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile

import serving.youtube  # noqa: F401  its errors are subclasses of AudioError
from serving import timeline
from serving.errors import AudioError, StoppedError
from serving.media import SAMPLE_RATE
from serving.transcript import Options, Progress, Segment, Word
from serving.visits import View, Visits
from serving.wiring import _Presses
from serving.words import ENGLISH, GRADIO, ITALIAN, QUEUED, TABLES, explain, in_language_of
from serving.youtube import Video
from tests.scripted_page import LINK, SENTENCES, TITLE, ScriptedTranscriber, ScriptedVideos


def kinds(error: type[AudioError] = AudioError) -> Iterator[type[AudioError]]:
    for kind in error.__subclasses__():
        if kind.__module__.startswith("serving."):
            yield kind
            yield from kinds(kind)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_error_has_words_of_its_own_in_every_language() -> None:
    assert len(list(kinds())) > 5
    for table in TABLES.values():
        assert [kind.__name__ for kind in kinds() if kind.__name__ not in table] == []
        for kind in kinds():
            assert "{" not in explain(kind("/tmp/gradio/x/letter.mp3: is a secret"), table)
            assert "letter" not in explain(kind("/tmp/gradio/x/letter.mp3: is a secret"), table)


def test_the_tables_have_the_same_keys_and_figures() -> None:
    assert ENGLISH.keys() == ITALIAN.keys()
    assert {key: fields(text) for key, text in ENGLISH.items()} == {key: fields(text) for key, text in ITALIAN.items()}
    assert set(GRADIO) == set(QUEUED) == set(TABLES)


@pytest.mark.parametrize(
    ("header", "table"),
    [
        ("it-IT,it;q=0.9,en;q=0.8", ITALIAN),
        ("en-GB,en", ENGLISH),
        ("de,it;q=0.5", ITALIAN),
        ("de", ENGLISH),
        ("", ENGLISH),
    ],
)
def test_the_first_language_with_a_table_is_spoken(header: str, table: dict[str, str]) -> None:
    assert in_language_of(header) is table


class Found(HTMLParser):
    """The elements of a piece of HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.text = list[str](), ""
        self.attributes = dict[str, str | None]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("said", SENTENCES)
def test_what_was_said_is_text_and_never_markup(said: str) -> None:
    row = Found(timeline.row(Segment(61.0, 62.0, said), "it"))
    assert row.elements == ["li", "button", "span", "span"]
    assert row.text == f"1:01{said}"
    words = tuple(Word(0, 1, word) for word in said.split())
    row = Found(timeline.row(Segment(0.0, 1.0, said, words), '"><script>'))
    assert row.elements == ["li", "button", "span", "span", *["span"] * len(words)]
    assert row.text == "0:00" + " ".join(said.split())
    assert Found(timeline.note(said, "error")).elements == ["p"]


def test_a_files_name_and_a_videos_title_are_text_too() -> None:
    path = Path("/tmp/<img src=x onerror=alert(1)>\"'?#%20.mp3")
    player = Found(timeline.player(path, "audio", ENGLISH))
    assert player.elements == ["audio", "p"]
    assert player.attributes["src"] == (
        "gradio_api/file=/tmp/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%3F%23%2520.mp3"
    )
    card = Found(timeline.card(Video(id="x", title=TITLE, seconds=59, thumbnail=b"<svg onload=alert(1)>", url="")))
    assert card.elements == ["div", "div", "strong", "span"]  # and what is no picture is not shown as one
    assert card.text == f"{TITLE}0:59"


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.99, "0:59"), (3599, "59:59"), (3723, "1:02:03")])
def test_times_are_read_as_a_clock(seconds: float, shown: str) -> None:
    assert timeline.clock(seconds) == shown


@pytest.fixture
def visits(tmp_path: Path) -> Visits:
    (tmp_path / "log").touch()
    return Visits(ScriptedTranscriber(tmp_path / "log"), ScriptedVideos, tmp_path / "uploads")


def recording(folder: Path, seconds: float) -> Path:
    path = folder / f"{seconds:g}.wav"
    soundfile.write(path, np.full(int(seconds * SAMPLE_RATE), 0.1, np.float32), SAMPLE_RATE)
    return path


def run(visits: Visits, path: Path, words: dict[str, str] = ENGLISH) -> Iterator[View]:
    return visits.run(path, path.name, Options(), "someone", words)


def test_a_run_shows_what_is_new_after_what_was_there_and_ends_with_downloads(visits: Visits, tmp_path: Path) -> None:
    views, files = [], {}
    for view in run(visits, recording(tmp_path, 6)):
        views.append(view)
        files |= {kind: path.read_text(encoding="utf-8") for kind, path in view.files.items()}
    assert [view.running for view in views] == [True] * (len(views) - 1) + [False]
    for before, after in pairwise(views):
        assert after.rows.startswith(before.rows)
        assert after.text.startswith(before.text)
    assert views[-1].text == " ".join(SENTENCES[:3])
    assert files["txt"] == " ".join(SENTENCES[:3]) + "\n"
    assert set(files) == {"txt", "srt", "vtt", "json"}
    assert [path for path in views[-1].files.values() if path.exists()] == []  # Gradio has its copies by then


def test_the_time_left_is_what_the_speed_so_far_promises(visits: Visits, tmp_path: Path) -> None:
    """61 s in 31 steps of 0.2 s: about 6 s left at first; a busy machine only adds to it."""
    views = run(visits, recording(tmp_path, 61))
    next(views)
    status = Found(next(views).status).text
    assert status.startswith("Transcribing …3 % · about ")
    assert float(status.split("about ")[1].split()[0].replace(":", "")) >= 6
    visits.stop("someone")
    assert "Cancelled" in list(views)[-1].status


def test_a_session_that_leaves_stops_its_run_and_takes_its_download_along(visits: Visits, tmp_path: Path) -> None:
    *_, path = visits.fetch(ScriptedVideos.look_up(LINK), "someone", ENGLISH)
    assert isinstance(path, Path)
    views = run(visits, path)
    next(views)
    visits.leave("someone")
    assert "Cancelled" in list(views)[-1].status
    assert list((tmp_path / "uploads").iterdir()) == []


def test_the_next_download_takes_the_place_of_the_one_before(visits: Visits, tmp_path: Path) -> None:
    for _ in range(2):
        *_, path = visits.fetch(ScriptedVideos.look_up(LINK), "someone", ENGLISH)
    assert [path.parent] == list((tmp_path / "uploads").iterdir())


def test_a_download_can_be_cancelled(visits: Visits) -> None:
    steps = visits.fetch(ScriptedVideos.look_up(LINK), "someone", ITALIAN)
    assert "Prelievo" in next(steps).status
    visits.stop("someone")
    assert "Annullato" in list(steps)[-1].status


def test_a_file_that_cannot_be_read_ends_the_run_in_words_and_leaves_nothing(visits: Visits, tmp_path: Path) -> None:
    (tmp_path / "letter.mp3").write_bytes(b"Cara Anna, " * 1000)
    last = list(run(visits, tmp_path / "letter.mp3", ITALIAN))[-1]
    assert (last.running, last.files) == (False, {})
    assert "Il file non è leggibile" in last.status


def test_a_run_gives_up_once_its_visitor_has_begun_another(visits: Visits, tmp_path: Path) -> None:
    """Before it has its turn, and in the middle; it shows nothing then, as the page is the other's."""
    path = recording(tmp_path, 6)

    def numbered(number: int) -> Iterator[View]:
        return visits.run(path, path.name, Options(), "someone", ENGLISH, number)

    first = visits.begin("someone")
    second = visits.begin("someone")
    assert list(numbered(first)) == []
    under_way = numbered(second)
    assert next(under_way).running
    third = visits.begin("someone")
    assert list(under_way) == []
    assert list(numbered(third))[-1].text == " ".join(SENTENCES[:3])
    assert (tmp_path / "log").read_text().count("began") == 1


def test_a_download_gives_up_once_its_visitor_has_begun_another_run(visits: Visits) -> None:
    video = ScriptedVideos.look_up(LINK)
    first = visits.begin("someone")
    under_way = visits.fetch(video, "someone", ENGLISH, first)
    next(under_way)
    visits.begin("someone")
    assert list(under_way) == []
    assert list(visits.fetch(video, "someone", ENGLISH, first)) == []


def test_a_program_that_ends_forgets_no_later_run_of_its_session(visits: Visits, tmp_path: Path, monkeypatch) -> None:
    later: list[int] = []

    def steps(*_: object) -> Iterator[Progress]:
        later.append(visits.begin("program"))
        raise StoppedError

    monkeypatch.setattr(visits, "_steps", steps)
    with pytest.raises(StoppedError):
        visits.transcript(tmp_path, Options(), "program")
    assert visits.is_last("program", later[0])


def test_programs_without_a_session_do_not_stop_each_other(visits: Visits, tmp_path: Path, monkeypatch) -> None:
    stops: list[threading.Event] = []

    def steps(path: Path, options: Options, stop: threading.Event) -> Iterator[Progress]:
        stops.append(stop)
        if len(stops) == 1:
            with pytest.raises(StoppedError):
                visits.transcript(path, options, None)
        raise StoppedError

    monkeypatch.setattr(visits, "_steps", steps)
    with pytest.raises(StoppedError):
        visits.transcript(tmp_path, Options(), None)
    assert [stop.is_set() for stop in stops] == [False, False]


def test_what_was_found_before_a_run_was_stopped_can_be_downloaded(visits: Visits, tmp_path: Path) -> None:
    views = run(visits, recording(tmp_path, 6))
    next(views)
    assert visits.kept("someone") == {}
    next(views)
    visits.stop("someone")
    views.close()  # as Gradio does
    files = visits.kept("someone")
    assert files["txt"].read_text(encoding="utf-8") == SENTENCES[0] + "\n"
    assert files["srt"].parent.parent == visits.folder
    assert set(files) == {"txt", "srt", "vtt", "json"}


def test_a_place_that_its_visitor_gave_up_is_cancelled_and_not_refused(visits: Visits) -> None:
    """Gradio tells of both as of a failed event."""
    names = ["language", "translate", "words", "run_number", "status", "cancel"]
    names += ["player", "rows", "text", "said", "downloads"]
    page: Any = SimpleNamespace(**{name: name for name in names}, files={})
    request: Any = SimpleNamespace(session_hash="anna", headers={"accept-language": "en"})
    presses = _Presses(page, visits)
    visits.begin("anna")
    assert ENGLISH["busy"] in presses.refuse(request)["status"]
    visits.stop("anna")
    assert presses.refuse(request) == gr.skip()
    visits.begin("anna")  # pressed again
    assert ENGLISH["busy"] in presses.refuse(request)["status"]
