"""The page as a command: a model loaded and warmed up, and what the page says when it is ready.

python -m serving.app --model FOLDER --port 7860
"""

import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from serving import youtube
from serving.errors import command
from serving.media import SAMPLE_RATE
from serving.model import quiet_transformers
from serving.monitor_folder import read_snapshot
from serving.page import EXAMPLE, build_page
from serving.server import check_port, serve_to_the_end
from serving.transcribe import Transcriber
from serving.visits import Videos


@dataclass(frozen=True)
class Config:
    """Serves a page that transcribes what people record or upload."""

    model: Path
    """A Hugging Face Whisper folder, such as `make export` writes."""
    port: int = 7860
    """The port to listen on."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 opens the page to the network (browsers then want https for the microphone)."""
    share: bool = False
    """Also give a public https link for a week, through gradio.live: what people say then passes through there."""
    monitor: Path | None = None
    """Also show the daily loop's monitor, a folder that `daily.snapshot` writes, in a tab of the page."""


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


@command
def main() -> None:
    config = tyro.cli(Config)
    check_port(config.host, config.port)
    if config.monitor is not None:
        read_snapshot(config.monitor)
    quiet_transformers()
    transcriber = Transcriber(config.model)
    warm_up(transcriber)
    run(transcriber, config.host, config.port, config.share, monitor=config.monitor)


if __name__ == "__main__":
    main()
