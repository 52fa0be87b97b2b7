"""The scripted page, which also writes down whoever its process looks up or connects to.

    python -m tests.watched_page REACHED PORT LOG

It has a longer line than the scripted page alone, little room for uploads, and a proxy in its environment that is not
there.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvicorn

import serving.uploads
from tests import scripted_page

QUEUE_SIZE = 3
ROOM = 30_000_000  # bytes of all uploads together
NEARBY = ("127.0.0.1", "localhost", "0.0.0.0", "::1")
PROXY, NOBODY = "proxy.invalid", "nobody.invalid"  # names that no server has


def watch(reached: Path) -> None:
    """Has Python tell of every name that is looked up and every address that is connected to, by whichever library.

    uvloop does both without Python, so the page's server runs on asyncio's own loop.
    """
    sys.modules["uvloop"] = None  # type: ignore[assignment]

    def told(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("socket.getaddrinfo", "socket.connect"):
            return
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        if host not in (None, *NEARBY):
            with reached.open("a", encoding="utf-8") as file:
                file.write(f"{host}\n")

    sys.addaudithook(told)


def check(reached: Path) -> None:
    """Raises if the watch does not see whom the page's server looks up: an empty `reached` would then say nothing."""

    async def look_up() -> None:
        await asyncio.get_running_loop().getaddrinfo(NOBODY, 443)

    try:
        with asyncio.Runner(loop_factory=uvicorn.Config(None).get_loop_factory()) as runner:
            runner.run(look_up())
    except OSError:  # there is no such name
        pass
    if reached.read_text(encoding="utf-8") != f"{NOBODY}\n":
        raise RuntimeError(f"{reached}: does not name {NOBODY}, which was looked up")
    reached.write_text("", encoding="utf-8")


def main() -> None:
    reached = Path(sys.argv.pop(1))
    watch(reached)
    check(reached)
    os.environ |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), f"http://{PROXY}:9")
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "")
    scripted_page.QUEUE_SIZE = QUEUE_SIZE
    serving.uploads.LARGEST_FOLDER = ROOM
    scripted_page.main()


if __name__ == "__main__":
    main()
