"""What may be asked of the server at all, before Gradio sees it.

Decision: Gradio's server can do more than a page of ours needs, for whoever asks: fetch any address of the internet and
hand it on (`file=https://…`, `file/https://…`), keep and convert a recording of a screen, write a visitor's state into
files. These requests are refused here, by their path. So is a body that is longer than any that the page sends, and an
upload for which there is no room: Gradio bounds one file, not all of them together.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.uploads import room, sweep

CLOSED = re.compile(
    r"/gradio_api/(proxy=|file[=/][a-z][a-z0-9+.-]*:|process_recording|component_server|deep_link|vibe-)", re.IGNORECASE
)
UPLOAD = re.compile(r"/gradio_api/upload/?$")
LONGEST_REQUEST = 1_000_000  # bytes of anything but an upload: a name, a few options
LARGEST_UPLOAD = 2 * 1024**3 + LONGEST_REQUEST  # what an upload may take that does not say how long it is

Says = Callable[[str], str]
"""A sentence in the language of an `Accept-Language` header."""


class Gate:
    """Gradio's app behind what is refused. `full` says that there is no room for an upload; None: none is taken.

    `awaited` gives the files that no sweep may take.
    """

    def __init__(
        self, app: ASGIApp, folder: Path, full: Says | None, awaited: Callable[[], Collection[Path]] = tuple
    ) -> None:
        self.app, self.folder, self.full, self.awaited = app, folder, full, awaited
        self._promised = 0  # bytes of uploads that are under way, those that have come included

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif CLOSED.search(scope["path"]):
            await PlainTextResponse("This server does not do that.", 403)(scope, receive, send)
        elif not UPLOAD.search(scope["path"]):
            refusal = PlainTextResponse(f"A request has at most {LONGEST_REQUEST} bytes.", 413)
            await self._bounded(LONGEST_REQUEST, refusal, scope, receive, send)
        elif self.full is None:
            await PlainTextResponse("This page takes no uploads.", 403)(scope, receive, send)
        else:
            await self._upload(self.full, scope, receive, send)

    async def _upload(self, full: Says, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        length = int(headers.get("content-length", LARGEST_UPLOAD))
        refusal = PlainTextResponse(full(headers.get("accept-language", "")), 507)
        left = await run_in_threadpool(self._room)
        if length > left - self._promised:
            await refusal(scope, receive, send)
            return
        self._promised += length
        try:
            await self._bounded(length, refusal, scope, receive, send)
        finally:
            self._promised -= length

    def _room(self) -> int:
        sweep(self.folder, self.awaited())
        return room(self.folder)

    async def _bounded(self, most: int, refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer to a request whose body has at most `most` bytes; to another one `refusal`."""
        if int(Headers(scope=scope).get("content-length", 0)) > most:
            await refusal(scope, receive, send)
            return
        come = 0

        async def counted() -> Message:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            return message if come <= most else {"type": "http.disconnect"}

        try:
            await self.app(scope, counted, send)
        except ClientDisconnect:
            if come > most:  # otherwise there is nobody to answer
                await refusal(scope, receive, send)
