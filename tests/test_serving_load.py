"""Many clients at once: none lost, none wrong, each answered or told that the page is busy; and the documented client.

The same clients as `make bench-load`, with an engine that needs no time.
"""

import asyncio
import contextvars
import hashlib
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import gradio_client
import httpx
import numpy as np
import psutil
import pytest
import soundfile
from gradio_client.utils import QueueError

from benchmarks.load import files_in, page_process
from benchmarks.load_clients import Client, Load
from serving.endpoints import add_endpoints
from serving.engine_thread import EngineThread
from serving.errors import StoppedError
from serving.media import SAMPLE_RATE, load_audio
from serving.page import QUEUE_SIZE
from serving.transcript import Options, Progress, Segment
from serving.visits import Visits
from serving.words import ITALIAN
from tests.page_process import REPOSITORY, free_port

CLIENTS = 50
ARGUMENTS = ["", False]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Once this file is there, the page is done with a long recording."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def page(gate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """A page whose temporary files are all gone once it has ended."""
    tmp = tmp_path_factory.mktemp("page")
    with page_process(["tests.load_page", str(free_port()), str(gate)], tmp) as page:
        yield page
    assert files_in(tmp) == []


@pytest.fixture(scope="module")
def clips(sample_corpus: Path) -> list[Path]:
    return sorted((sample_corpus / "clips").glob("*.mp3"))[:8]


def digest(clip: Path) -> str:
    return hashlib.sha256(load_audio(clip).tobytes()).hexdigest()


def test_fifty_clients_at_once_get_their_own_text_or_are_told_to_come_back(page, clips: list[Path]) -> None:
    url, process = page
    load = Load(url, clips, ARGUMENTS, expected={clip.name: digest(clip) for clip in clips})
    asyncio.run(load.all_at_once(CLIENTS, 0, process))
    answers = load.report.answers
    assert load.report.wrong == []
    assert (answers["right"] + answers["busy"], answers["refused"], answers["left"]) == (CLIENTS, 1, 1)
    assert answers["right"] >= QUEUE_SIZE - 2  # the two others had a place in line, at most


def test_all_steps_are_computed_in_one_thread_which_keeps_nothing() -> None:
    compute, asker = EngineThread(), contextvars.ContextVar("asker", default=0)

    def ask(number: int) -> tuple[int, int]:
        asker.set(number)
        return compute(lambda: (threading.get_ident(), asker.get()))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(100)))
    assert [number for _, number in found] == list(range(100))  # each in the context of whoever asked
    assert len({thread for thread, _ in found} - {threading.get_ident()}) == 1
    with pytest.raises(ZeroDivisionError):
        compute(lambda: 1 // 0)
    samples_N = np.zeros(3)
    kept = weakref.ref(samples_N)
    assert compute(lambda given=samples_N: given.size) == 3
    del samples_N
    compute(lambda: None)  # after this the thread has put the last one down
    assert kept() is None


class Meanwhile:
    """A transcriber in whose first transcription something else happens."""

    def __init__(self) -> None:
        self.happens: list[Callable[[], object]] = []

    def stream(self, _audio_N: object, _options: Options, stopped: Callable[[], bool]) -> Iterator[Progress]:
        if self.happens:
            self.happens.pop()()
        if stopped():
            raise StoppedError("talk.mp3: was stopped")
        yield Progress((Segment(0.0, 1.0, "said"),), 1.0, 1.0, "it")


@pytest.fixture
def visits(tmp_path: Path) -> Visits:
    return Visits(Meanwhile(), None, tmp_path, compute=lambda work: work())


@pytest.mark.parametrize("sessions", [(None, None), ("someone", "another")])
def test_two_programs_at_once_leave_each_other_alone(visits: Visits, clips: list[Path], sessions) -> None:
    asked: list[str] = []
    ask = [lambda at=at: asked.append(visits.transcript(clips[0], Options(), sessions[at]).text) for at in (0, 1)]
    visits.transcriber.happens.append(ask[1])
    ask[0]()
    assert asked == ["said", "said"]


def test_a_program_whose_session_ends_meanwhile_is_told_so_and_no_file_is_named(
    visits: Visits, clips: list[Path]
) -> None:
    request = SimpleNamespace(headers={"accept-language": "it"}, session_hash="someone")

    async def endpoint() -> Callable[..., str]:  # in a loop of its own: Gradio makes one that it never closes
        with gr.Blocks(analytics_enabled=False) as blocks:
            add_endpoints(visits, gr.File())
        return next(event.fn for event in blocks.fns.values() if event.api_name == "transcribe")

    transcribe = asyncio.run(endpoint())
    visits.transcriber.happens.append(lambda: visits.leave("someone"))
    with pytest.raises(gr.Error) as caught:
        transcribe(str(clips[0]), "", False, request)
    assert (caught.value.message, caught.value.print_exception) == (ITALIAN["StoppedError"], False)


def test_a_full_queue_is_said_at_once_to_programs(page, gate: Path, clips: list[Path], tmp_path: Path) -> None:
    url, _ = page
    soundfile.write(tmp_path / "long.wav", np.zeros(61 * SAMPLE_RATE, np.float32), SAMPLE_RATE)

    async def fill() -> tuple[list[str], httpx.Response, list[tuple[str, str]]]:
        client = Client(url)
        slow = await client.upload("long.wav", (tmp_path / "long.wav").read_bytes())
        clip = await client.upload(clips[0].name, clips[0].read_bytes())
        running = await client.join(slow, ARGUMENTS)
        while (await client.http.get("/queue/status")).json()["queue_size"]:
            await asyncio.sleep(0.05)  # until it is worked on
        events = [running] + [await client.join(clip, ARGUMENTS) for _ in range(QUEUE_SIZE)]
        data = {"data": [{"path": clip, "meta": {"_type": "gradio.FileData"}}, *ARGUMENTS]}
        refused = await client.http.post("/call/transcribe", json=data)
        with pytest.raises(QueueError, match="Queue is full! Please try again"):
            await asyncio.to_thread(documented, url, clips[0])
        gate.touch()
        results = [await client.result(event) for event in events]
        await client.http.aclose()
        return events, refused, results

    events, refused, results = asyncio.run(fill())
    assert all(events)
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert refused.json()["detail"].startswith("Queue is full.")
    assert [kind for kind, _ in results] == ["complete"] * (QUEUE_SIZE + 1)
    assert {text for _, text in results[1:]} == {digest(clips[0])}


def documented(url: str, recording: Path) -> object:
    """What the client in docs/serving.md prints first."""
    (program,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/serving.md").read_text("utf-8"), re.DOTALL)
    program = program.replace("http://127.0.0.1:7860", url).replace("talk.mp3", str(recording))
    said: list[object] = []
    exec(program, {"print": lambda *words: said.append(words)})
    return said


def test_the_documented_client_works(page, clips: list[Path]) -> None:
    url, _ = page
    text, *passages = documented(url, clips[0])
    assert text == (digest(clips[0]),)
    assert passages == [(0.0, pytest.approx(load_audio(clips[0]).size / SAMPLE_RATE), digest(clips[0]))]
    assert gradio_client.__version__
