"""Clients of the page, many at once: what they send, what they see, and what the page takes meanwhile.

They know HTTP and nothing else. What the page says to each is compared with what it said to a client alone.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from data.errors import UserError

PATIENCE_SECONDS = 600  # for an answer, which may wait for all others
TRY_AGAIN_SECONDS = (1.0, 3.0)  # after "busy", and between two nuisances; drawn between these
SAMPLE_EVERY = 1.0  # seconds between two looks at memory
BROKEN = {
    "letter.mp3": b"Cara Anna, " * 1000,
    "empty.wav": b"",
    "list.m3u8": b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "cut.mp4": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(64),
}


@dataclass
class Report:
    """What clients saw, and what the page took."""

    answers: Counter[str] = field(default_factory=Counter)
    """How many requests ended how: right, busy, wrong, lost; of the two nuisances those refused, and those left."""
    seconds: list[float] = field(default_factory=list)
    """Of the right answers: from sending the clip to its text, waiting in line included."""
    memory: list[int] = field(default_factory=list)
    """Bytes of the page's process, regularly."""
    wrong: list[str] = field(default_factory=list)
    """What was wrong with what was wrong or lost."""

    def thirds(self) -> tuple[float, float]:
        """Median bytes of the first and of the last third."""
        third = max(1, len(self.memory) // 3)
        return statistics.median(self.memory[:third]), statistics.median(self.memory[-third:])


class Client:
    """A program that uses the page over HTTP."""

    def __init__(self, url: str) -> None:
        # As Gradio's client: a connection for each request.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=f"{url.rstrip('/')}/gradio_api", timeout=PATIENCE_SECONDS, limits=limits)

    async def upload(self, name: str, content: bytes) -> str:
        """The page's own path of the file."""
        answer = await self.http.post("/upload", files={"files": (name, content)})
        path: str = answer.raise_for_status().json()[0]
        return path

    async def join(self, path: str, arguments: list[object]) -> str:
        """The event's id; empty where the page says that it is busy."""
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        answer = await self.http.post("/call/transcribe", json={"data": [file, *arguments]})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return ""
        event: str = answer.raise_for_status().json()["event_id"]
        return event

    async def result(self, event: str) -> tuple[str, str]:
        """`complete` and the text, or `error` and why."""
        kind = ""
        async with self.http.stream("GET", f"/call/transcribe/{event}") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind in ("complete", "error"):
                    found = json.loads(line.removeprefix("data: "))
                    return kind, found[0] if kind == "complete" else str(found)
        return "lost", "the answer ended early"


async def transcribe(client: Client, name: str, content: bytes, arguments: list[object]) -> tuple[str, str]:
    """What the page answers to a file: `complete`, `error`, `busy` or `lost`, and the text or the reason."""
    try:
        event = await client.join(await client.upload(name, content), arguments)
        return await client.result(event) if event else ("busy", "")
    except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
        return "lost", f"{type(error).__name__}: {error}"


async def good_client(client: Client, load: "Load", rng: random.Random) -> bool:
    """Sends a clip and compares what comes back; whether the page was not too busy for it."""
    clip = rng.choice(load.clips)
    began = time.monotonic()
    kind, said = await transcribe(client, clip.name, clip.read_bytes(), load.arguments)
    if kind == "complete" and said == load.expected[clip.name]:
        load.report.answers["right"] += 1
        load.report.seconds.append(time.monotonic() - began)
    elif kind == "busy":
        load.report.answers["busy"] += 1
    else:
        load.report.answers["lost" if kind == "lost" else "wrong"] += 1
        load.report.wrong.append(f"{clip.name}: {kind}: {said}")
    return kind != "busy"


async def broken_client(client: Client, load: "Load", rng: random.Random) -> bool:
    """Sends what is no recording, which has to be refused in words."""
    name, content = rng.choice(list(BROKEN.items()))
    kind, said = await transcribe(client, name, content, load.arguments)
    if kind == "error":
        load.report.answers["refused"] += 1
    elif kind != "busy":
        load.report.answers["lost" if kind == "lost" else "wrong"] += 1
        load.report.wrong.append(f"{name}: {kind}: {said}")
    return kind != "busy"


async def leaving_client(client: Client, load: "Load", rng: random.Random) -> bool:
    """Stands in line and goes before its answer comes."""
    clip = rng.choice(load.clips)
    event = await client.join(await client.upload(clip.name, clip.read_bytes()), load.arguments)
    if event:
        with suppress(TimeoutError, httpx.HTTPError):
            await asyncio.wait_for(client.result(event), timeout=0.5)
        load.report.answers["left"] += 1
    return bool(event)


@dataclass
class Load:
    """What is sent to a page, and what comes back."""

    url: str
    clips: list[Path]
    arguments: list[object]
    """Of the endpoint, after the file."""
    expected: dict[str, str] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    async def alone(self) -> None:
        """What a client alone is told, which is what all others have to be told."""
        client = Client(self.url)
        for clip in self.clips:
            kind, said = await transcribe(client, clip.name, clip.read_bytes(), self.arguments)
            if kind != "complete":
                raise UserError(f"{clip}: the page answers a lone client with {kind}: {said}")
            self.expected[clip.name] = said
        await client.http.aclose()

    async def all_at_once(self, clients: int, seconds: float, page: psutil.Process) -> None:
        """`clients` good ones, a broken and a leaving one go on for `seconds`, each at least once; those two until the
        page was not too busy for them."""
        until = time.monotonic() + seconds

        async def repeat(act: Callable[[Client, "Load", random.Random], Awaitable[bool]], seed: int) -> None:
            client, rng = Client(self.url), random.Random(seed)
            while True:
                served = await act(client, self, rng)
                if time.monotonic() >= until and (served or act is good_client):
                    break
                if not served or act is not good_client:
                    await asyncio.sleep(rng.uniform(*TRY_AGAIN_SECONDS))
            await client.http.aclose()

        async def watch() -> None:
            while True:
                self.report.memory.append(page.memory_info().rss)
                await asyncio.sleep(SAMPLE_EVERY)

        watching = asyncio.create_task(watch())
        acts = [good_client] * clients + [broken_client, leaving_client]
        await asyncio.gather(*(repeat(act, seed) for seed, act in enumerate(acts)))
        watching.cancel()
