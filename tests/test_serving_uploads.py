"""Uploads take bounded room; those that were given up are swept, what a killed page left goes when another starts."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import psutil
import pytest
from gradio.data_classes import PredictBodyInternal
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import gate, server, uploads
from serving.gate import Gate
from serving.uploads import LOCK, PREFIX, SWEEP_AFTER, own_folder, room, sweep
from serving.words import ENGLISH, ITALIAN
from tests.page_process import REPOSITORY, Page, free_port, running
from tests.watched_page import ROOM

HELD = """
import sys, time
from serving.uploads import own_folder
with own_folder() as folder:
    (folder / "voice.wav").write_text("somebody's")
    print(folder, flush=True)
    time.sleep(600)
"""


def written(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("somebody's")
    return path


def in_two_hours(monkeypatch: pytest.MonkeyPatch) -> float:
    """Has the sweep take what was written by now for two hours old; when it then is, in seconds since 1970."""
    later = time.time() + 2 * SWEEP_AFTER
    monkeypatch.setattr(uploads.time, "time", lambda: later)
    return later


def test_the_folder_of_a_page_that_was_killed_goes_when_another_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of one which still runs stays, and so does a folder that only has such a name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{PREFIX}data").mkdir()
    (tmp_path / f"{PREFIX}data" / "mine").touch()
    command = [sys.executable, "-c", HELD]
    processes = [
        subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, text=True, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        killed, alive = (Path(process.stdout.readline().strip()) for process in processes)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert (killed / "voice.wav").exists()
        with own_folder() as folder:
            assert sorted(tmp_path.iterdir()) == sorted([folder, alive, tmp_path / f"{PREFIX}data"])
            assert (alive / "voice.wav").exists()
            assert Path(tempfile.gettempdir()) == folder  # whatever else is temporary goes with it
        assert not folder.exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_folder_is_never_to_be_seen_with_a_lock_that_nobody_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_folder() as folder, (folder / LOCK).open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        uploads.remove_abandoned()
        assert folder.exists()


def test_whatever_was_said_is_swept_after_an_hour_but_what_is_new_waits_or_goes_with_its_visitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ("tmpaborted", "hash/talk.mp3", "kept-1/talk.txt", "kept-1/talk.srt", "copied/talk.json")
    left = ("waits/long.mp3", "youtube-1/video.webm", "tmpbegun", "hash/young.mp3")
    for name in (*gone, *left):
        written(tmp_path / name)
    os.utime(tmp_path / "copied" / "talk.json", (0, 0))  # as a copy of an old file has it: it came just now
    sweep(tmp_path)
    assert all((tmp_path / name).exists() for name in (*gone, *left))
    later = in_two_hours(monkeypatch)
    for name in left[2:]:
        os.utime(tmp_path / name, (later, later))
    sweep(tmp_path, awaited=[tmp_path / left[0]])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(left)
    sweep(tmp_path, awaited=[tmp_path / left[0]])
    assert {path.name for path in tmp_path.iterdir()} == {"hash", "tmpbegun", "waits", "youtube-1"}
    assert tmp_path.exists()


def test_a_recording_is_awaited_while_it_is_in_line_and_while_it_is_transcribed() -> None:
    served, waits = Path("/uploads/served.mp3"), Path("/uploads/waits.mp3")

    async def check() -> None:  # in a loop of its own: Gradio makes one that it never closes
        with gr.Blocks(analytics_enabled=False) as page:
            gr.Button().click(lambda path: path, gr.File(), concurrency_id="engine", concurrency_limit=1)
        ((number, event),) = page.fns.items()
        page._queue.create_event_queue_for_fn(event)
        for path in (served, waits):
            data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, "", False]
            await page._queue.push(PredictBodyInternal(data=data, fn_index=number), None, None)
        assert server.awaited(page) == {served, waits}
        page._queue.active_jobs = [None, page._queue.get_events()[0]]
        assert len(page._queue) == 1
        assert server.awaited(page) == {served, waits}
        page._queue.active_jobs = [None, None]
        assert server.awaited(page) == {waits}

    asyncio.run(check())


def test_room_is_what_the_folder_may_still_take_and_the_disk_has_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hash").mkdir()
    (tmp_path / "hash" / "talk.mp3").write_bytes(bytes(1000))
    monkeypatch.setattr(uploads, "LARGEST_FOLDER", 1500)
    assert room(tmp_path) == 500
    monkeypatch.setattr(uploads, "KEPT_FREE", 10**18)
    assert room(tmp_path) < 0


async def takes(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def behind_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """An app that says how long the body was, with room for 1000 bytes of uploads."""
    monkeypatch.setattr(uploads, "LARGEST_FOLDER", 1000)
    monkeypatch.setattr(gate, "LARGEST_UPLOAD", 800)
    monkeypatch.setattr(gate, "LONGEST_REQUEST", 100)
    guard = Middleware(
        Gate, folder=tmp_path, full=lambda language: f"full: {language}", awaited=lambda: [tmp_path / "waits"]
    )
    return TestClient(Starlette(routes=[Route("/{any:path}", takes, methods=["POST"])], middleware=[guard]))


def without_length(size: int) -> Iterator[bytes]:
    for _ in range(size // 10):
        yield bytes(10)


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("upload", 1000, 200),
        ("upload", 1010, 507),
        ("queue/join", 100, 200),
        ("queue/join", 110, 413),
        ("upload", -800, 200),
        ("upload", -810, 507),  # whoever says no length may send as much as a single file
        ("upload_progress", 110, 413),
        ("queue/join", -100, 200),
        ("queue/join", -110, 413),
    ],
)
def test_no_body_is_longer_than_there_is_room_for(behind_gate: TestClient, path: str, size: int, status: int) -> None:
    """A negative size: sent in pieces, without saying how many."""
    content = bytes(size) if size > 0 else without_length(-size)
    answer = behind_gate.post(f"/gradio_api/{path}", content=content, headers={"Accept-Language": "it"})
    assert answer.status_code == status
    assert answer.text == (str(abs(size)) if status == 200 else answer.text)
    assert status != 507 or answer.text == "full: it"


def test_an_upload_has_its_room_from_its_beginning_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LARGEST_FOLDER", 1000)
    scope = {"type": "http", "path": "/gradio_api/upload", "headers": [(b"content-length", b"600")]}
    sent: list[int | None] = []

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    async def check() -> None:
        begun, ends = asyncio.Event(), asyncio.Event()

        async def app(*_: Any) -> None:
            if not begun.is_set():
                begun.set()
                await ends.wait()

        guard: Any = Gate(app, tmp_path, lambda _: "full")
        first = asyncio.create_task(guard(scope, None, send))
        await begun.wait()
        await guard(scope, None, send)
        assert sent[:1] == [507]
        ends.set()
        await first
        sent.clear()
        await guard(scope, None, send)
        assert sent == []

    asyncio.run(check())


def test_before_an_upload_is_taken_what_is_old_makes_room(
    behind_gate: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, waits = written(tmp_path / "old"), written(tmp_path / "waits")
    in_two_hours(monkeypatch)
    assert behind_gate.post("/gradio_api/upload", content=bytes(10)).status_code == 200
    assert (old.exists(), waits.exists()) == (False, True)


def test_a_page_that_takes_no_uploads_says_so(tmp_path: Path) -> None:
    guard = Middleware(Gate, folder=tmp_path, full=None)
    client = TestClient(Starlette(routes=[Route("/{any:path}", takes, methods=["POST"])], middleware=[guard]))
    assert client.post("/gradio_api/upload", content=b"x").status_code == 403
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    place = tmp_path_factory.mktemp("watch")
    module = ["tests.watched_page", str(place / "reached"), str(free_port()), str(place / "log")]
    with running(module, tmp_path_factory.mktemp("page")) as page:
        yield page


def upload(page: Page, size: int) -> httpx.Response:
    files = {"files": ("talk.wav", bytes(size))}
    return httpx.post(f"{page.url}gradio_api/upload", files=files, headers={"Accept-Language": "it"}, timeout=60)


def aborted(page: Page) -> Path:
    """What an upload leaves whose sender went away in the middle."""
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="talk.wav"\r\n\r\n'
    )
    before = set(page.uploads.rglob("tmp*"))
    with socket.create_connection(("127.0.0.1", int(page.url.rstrip("/").rsplit(":")[-1]))) as line:
        line.sendall(head.encode() + bytes(100_000))
        until = time.monotonic() + 30
        while not (made := set(page.uploads.rglob("tmp*")) - before):
            assert time.monotonic() < until
            time.sleep(0.05)
    left = made.pop()
    while str(left) in [file.path for file in psutil.Process(page.process.pid).open_files()]:
        assert time.monotonic() < until
        time.sleep(0.05)
    return left


def test_there_is_room_for_so_many_recordings_and_then_the_page_says_that_it_is_full(page: Page) -> None:
    half = ROOM // 2
    assert upload(page, half).status_code == 200
    answer = upload(page, half + 1_000_000)
    assert (answer.status_code, answer.text) == (507, ITALIAN["NoRoomError"])
    assert "later" in ENGLISH["NoRoomError"]
    (small,) = upload(page, 1000).json()  # still fits
    assert Path(small).parent.parent == page.uploads / "uploads"  # as the sweep compares it with who waits


def test_an_upload_whose_sender_went_away_is_swept(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    left = aborted(page)
    in_two_hours(monkeypatch)
    sweep(page.uploads / "uploads")
    assert not left.exists()
