"""The scripted page, which also writes down whoever its process looks up or connects to.

    python -m tests.watched_page REACHED PORT LOG

It has a longer line than the scripted page alone, and little room for uploads.
"""

import sys
from pathlib import Path

import serving.uploads
from tests import scripted_page

QUEUE_SIZE = 3
ROOM = 30_000_000  # bytes of all uploads together
NEARBY = ("127.0.0.1", "localhost", "0.0.0.0", "::1")


def watch(reached: Path) -> None:
    """Has Python tell of every name that is looked up and every address that is connected to, by whichever library."""

    def told(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("socket.getaddrinfo", "socket.connect"):
            return
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        if host not in (None, *NEARBY):
            with reached.open("a", encoding="utf-8") as file:
                file.write(f"{host}\n")

    sys.addaudithook(told)


def main() -> None:
    watch(Path(sys.argv.pop(1)))
    scripted_page.QUEUE_SIZE = QUEUE_SIZE
    serving.uploads.LARGEST_FOLDER = ROOM
    scripted_page.main()


if __name__ == "__main__":
    main()
