"""The page with a model: warmed up, served, and what it says when it is ready."""

import resource
from pathlib import Path

import numpy as np

from serving import youtube
from serving.media import SAMPLE_RATE
from serving.page import EXAMPLE, build_page
from serving.server import serve_to_the_end
from serving.transcribe import Transcriber
from serving.visits import Videos


def warm_up(transcriber: Transcriber) -> None:
    """The first pass allocates and is slow: nobody's recording should be it."""
    transcriber.transcribe_audio(np.zeros(SAMPLE_RATE, np.float32))


def run(
    transcriber: Transcriber,
    host: str,
    port: int,
    share: bool = False,
    videos: Videos = youtube,
    monitor: Path | None = None,
) -> None:
    """Serves the page until the process is told to end; says where, and the most memory it has taken so far."""

    def says() -> str:
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
        return f"{transcriber.name}, {gigabytes:.1f} GB of memory"

    files = [EXAMPLE] if monitor is None else [EXAMPLE, monitor]
    serve_to_the_end(lambda: build_page(transcriber, videos, monitor), says, host, port, share, files)
