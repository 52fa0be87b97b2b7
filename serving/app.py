"""The page as a command: its address, its colours, where its files lie.

Decisions: nothing said leaves the machine or stays on it: no analytics, no run history, no fonts from elsewhere, and
uploads live in a folder of this process that goes with it. Only `--share` sends what is said elsewhere, through
Gradio's tunnel.

    python -m serving.app --model FOLDER --port 7860
"""

import os
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
import tyro

from serving import youtube
from serving.errors import UserError, command
from serving.media import SAMPLE_RATE
from serving.model import quiet_transformers
from serving.page import EXAMPLE, build_page
from serving.transcribe import Transcriber
from serving.visits import Videos

MAX_FILE_SIZE = "2gb"  # two hours of uncompressed stereo
# System fonts: Gradio's own theme asks fonts.googleapis.com for its own, which tells a third party who is reading.
THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class PortError(UserError):
    """The address cannot be listened on."""


class ShareError(UserError):
    """Gradio's tunnel cannot be had."""


@contextmanager
def serve(page: gr.Blocks, host: str, port: int, share: bool = False) -> Iterator[str]:
    """Serves the page until the block ends, and gives its address: with `share` Gradio's tunnel's.

    Raises `PortError` where the port is taken, `ShareError` where there is no tunnel.
    """
    try:
        _, url, public_url = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=share,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            max_file_size=MAX_FILE_SIZE,
            footer_links=["api"],
            allowed_paths=[str(EXAMPLE)],
            theme=THEME,
            css=CSS,
        )
    except OSError as error:
        raise PortError(f"{host}:{port}: cannot be listened on ({error}); choose another --port") from error
    try:
        if share and not public_url:
            raise ShareError("no public link from gradio.live (its reason stands above): leave out --share")
        yield public_url or url
    finally:
        page.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Raises `PortError` where `port` is not one, or is taken: asked before a model is loaded for nothing."""
    if not 0 < port < 65536:
        raise PortError(f"port {port}: is not a port; choose one from 1024 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PortError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); stop what runs there or choose another --port"
        ) from error


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


def warm_up(transcriber: Transcriber) -> None:
    """The first pass allocates and is slow: nobody's recording should be it."""
    transcriber.transcribe_audio(np.zeros(SAMPLE_RATE, np.float32))


def run(transcriber: Transcriber, host: str, port: int, share: bool = False, videos: Videos = youtube) -> None:
    """Serves the page until the process is told to end; says where, and the most memory it has taken so far."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted then, too
    with tempfile.TemporaryDirectory(prefix="sussurro-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        with serve(build_page(transcriber, videos), host, port, share) as url:
            gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
            print(f"ready: {url} ({transcriber.name}, {gigabytes:.1f} GB of memory)", flush=True)
            threading.Event().wait()


@command
def main() -> None:
    config = tyro.cli(Config)
    check_port(config.host, config.port)
    quiet_transformers()
    transcriber = Transcriber(config.model)
    warm_up(transcriber)
    run(transcriber, config.host, config.port, config.share)


if __name__ == "__main__":
    main()
