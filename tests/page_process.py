"""The page as people start it, `python -m serving.app`, or with a scripted engine (tests/scripted_page.py), in its own
process: Gradio leaves event loops unclosed, which here would fail whichever test the garbage collector met them in."""

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 240  # importing and loading takes some ten; a busy machine more


@dataclass(frozen=True)
class Page:
    """A running page: its address, its process id, and where its uploads lie."""

    url: str
    process: subprocess.Popen[str]
    uploads: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def running_page(model: Path, tmp: Path) -> AbstractContextManager[Page]:
    """The page of a model."""
    return running(["serving.app", "--model", str(model), "--port", str(free_port())], tmp)


def scripted_page(log: Path, tmp: Path) -> AbstractContextManager[Page]:
    """The page with a scripted engine, which writes what it does into `log`."""
    return running(["tests.scripted_page", str(free_port()), str(log)], tmp)


@contextmanager
def running(module: list[str], tmp: Path) -> Iterator[Page]:
    """A page that said `ready`; ended when the block ends, and its output must then be that line alone."""
    environment = os.environ | {"TMPDIR": str(tmp)}
    with subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True)
        reader.start()
        try:
            first = lines.get(timeout=START_SECONDS)
            assert first.startswith("ready: http://"), first
            (uploads,) = tmp.glob("sussurro-*")
            yield Page(first.split()[1], process, uploads)
        finally:
            process.terminate()
            process.wait(timeout=60)
            reader.join()
    assert lines.empty(), [lines.get() for _ in range(lines.qsize())]
    assert process.returncode == 0
    assert not uploads.exists()
