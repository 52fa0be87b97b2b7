"""The page fetches nothing that somebody asks it to: not in place of a recording, nor of any other value of any event,
nor by Gradio's own ways to hand on what lies elsewhere."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.gate import Gate
from serving.uploaded import has_address
from serving.words import ENGLISH, ITALIAN
from tests.page_process import Page, free_port, running

ADDRESS = "https://evil.example/x.mp3"
FILE = {"path": ADDRESS, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whoever the page's process has looked up or connected to, a line each."""
    path = tmp_path_factory.mktemp("watch") / "reached"
    path.touch()
    return path


@pytest.fixture(scope="module")
def page(reached: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    module = ["tests.watched_page", str(reached), str(free_port()), str(reached.with_name("log"))]
    with running(module, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def http(page: Page, reached: Path) -> Iterator[httpx.Client]:
    """A program that speaks Italian; whatever it does, nobody is reached."""
    with httpx.Client(base_url=page.url, headers={"Accept-Language": "it"}, timeout=60) as http:
        yield http
    assert reached.read_text() == ""


def said(answer: Iterator[str]) -> str:
    """The last data of a stream of events."""
    return [line.removeprefix("data: ") for line in answer if line.startswith("data: ")][-1]


@pytest.mark.parametrize("endpoint", ["transcribe", "segments"])
def test_an_address_in_place_of_a_recording_is_answered_in_plain_words(http: httpx.Client, endpoint: str) -> None:
    data = {"data": [FILE, "", False, False][: {"transcribe": 3, "segments": 4}[endpoint]]}
    event = http.post(f"gradio_api/call/{endpoint}", json=data).json()["event_id"]
    with http.stream("GET", f"gradio_api/call/{endpoint}/{event}") as answer:
        assert ITALIAN["address"] in json.loads(said(answer.iter_lines()))["error"]


@pytest.mark.usefixtures("http")
def test_gradios_own_client_says_so_too(page: Page) -> None:
    client = Client(page.url, verbose=False, analytics_enabled=False)
    with pytest.raises(AppError, match=ENGLISH["address"]):
        client.predict(handle_file(ADDRESS), api_name="/transcribe")


def events(http: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get("config").json()["dependencies"]
    return [event for event in found if event["inputs"]]


def test_no_event_of_the_page_fetches_what_stands_in_place_of_any_of_its_values(http: httpx.Client) -> None:
    """Those in the queue and those beside it, of which `begin` is one; also a value within another."""
    beside = [event for event in events(http) if not event["queue"]]
    in_line = [event for event in events(http) if event["queue"]]
    assert len(beside) >= 5
    assert len(in_line) >= 5
    for event in beside:
        data = [{"value": [FILE]}] * len(event["inputs"])
        body = {"data": data, "fn_index": event["id"], "session_hash": uuid.uuid4().hex}
        answer = http.post("gradio_api/run/predict", json=body)
        assert ITALIAN["address"] in answer.json()["error"], event
    for event in in_line:
        session = uuid.uuid4().hex
        body = {"data": [FILE] * len(event["inputs"]), "fn_index": event["id"], "session_hash": session}
        http.post("gradio_api/queue/join", json=body).raise_for_status()
        with http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    break
        assert ITALIAN["address"] in message["output"]["error"], event


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"gradio_api/file={ADDRESS}"),
        ("HEAD", f"gradio_api/file={ADDRESS}"),
        ("GET", "gradio_api/file=http://169.254.169.254/latest"),
        ("GET", f"gradio_api/file/{ADDRESS}"),
        ("HEAD", f"gradio_api/file/{ADDRESS}"),
        ("GET", "gradio_api/file%2Fhttps%3A%2F%2Fevil.example%2Fx.mp3"),
        ("GET", f"gradio_api/proxy={ADDRESS}"),
        ("POST", "gradio_api/process_recording"),
        ("POST", "gradio_api/component_server"),
        ("GET", "gradio_api/deep_link?session_hash=x"),
        ("POST", "gradio_api/vibe-edit/"),
    ],
)
def test_what_gradio_offers_beyond_the_page_is_closed(http: httpx.Client, method: str, path: str) -> None:
    assert http.request(method, path).status_code == httpx.codes.FORBIDDEN


def test_no_program_passes_the_queue_by(http: httpx.Client) -> None:
    answer = http.post("gradio_api/run/transcribe", json={"data": [None, "", False]})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "join the queue" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([FILE], True),
        ([{"a": [{"b": {"path": "HTTP://x"}}]}], True),
        ([{"path": "/tmp/x/uploads/talk.mp3", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/x"}], False),
        (["https://youtu.be/abcdefghijk", 3, None], False),
    ],
)
def test_an_address_is_found_wherever_a_file_may_stand(given: list[object], found: bool) -> None:
    assert has_address(given) == found


@pytest.mark.parametrize("path", ["file=HTTPS://evil/x", "file/Ftp:x", "Proxy=https://evil", "Vibe-"])
def test_what_is_closed_is_closed_in_capitals_too(path: str, tmp_path: Path) -> None:
    client = TestClient(Gate(PlainTextResponse("served"), tmp_path, None))
    assert client.get("/gradio_api/file=/tmp/x.mp3").text == "served"
    assert client.get(f"/gradio_api/{path}").status_code == 403
