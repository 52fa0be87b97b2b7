"""The page: speak or drop a file, read the text.

Decisions: one transcription at a time, because a second one on the same cores only slows both, and a short queue, so
that the last in line is told to come back rather than left waiting. Nothing said leaves the machine or stays on it: no
analytics, no run history, no fonts from elsewhere, and uploads live in a folder of this process that goes with it.
Only `--share` sends what is said elsewhere, through Gradio's tunnel.

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

from serving.errors import AudioError, UserError, command
from serving.media import SAMPLE_RATE
from serving.model import quiet_transformers
from serving.transcribe import Transcriber
from serving.words import explain, in_language_of

QUEUE_SIZE = 16  # people waiting; at two seconds a clip the last one waits half a minute
MAX_FILE_SIZE = "2gb"  # two hours of uncompressed stereo
DELETE_EVERY, DELETE_AFTER = (
    10 * 60,
    60 * 60,
)  # seconds: uploads older than an hour are deleted, others when the page stops

# System fonts: Gradio's own theme asks fonts.googleapis.com for its own, which tells a third party who is reading.
THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.gradio-container { max-width: 46rem !important; margin: 0 auto !important; }
#text textarea { font-size: 1.125rem; line-height: 1.6; }
#credits { text-align: center; opacity: 0.75; font-size: 0.85rem; }
"""


class PortError(UserError):
    """The address cannot be listened on."""


class ShareError(UserError):
    """Gradio's tunnel cannot be had."""


def build_page(transcriber: Transcriber) -> gr.Blocks:
    """The page for a loaded model; its one endpoint is `/transcribe`, a file in and its text out."""

    def labels(request: gr.Request) -> tuple[object, ...]:
        words = in_language_of(request.headers.get("accept-language", ""))
        return (
            words["intro"],
            gr.Audio(label=words["audio"]),
            gr.Button(words["transcribe"]),
            gr.Textbox(label=words["text"], placeholder=words["placeholder"]),
            words["credits"],
        )

    def transcribe(path: str | None, request: gr.Request, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        words = in_language_of(request.headers.get("accept-language", ""))
        if path is None:
            raise _notice(words["nothing"])
        try:
            return transcriber.transcribe(path, lambda share: progress(share, desc=words["working"])).text
        except AudioError as error:
            raise _notice(explain(error, words)) from error

    with gr.Blocks(
        title=f"Sussurro · {transcriber.name}", analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)
    ) as page:
        gr.Markdown(f"# Sussurro · {transcriber.name}")
        intro = gr.Markdown()
        audio = gr.Audio(sources=["microphone", "upload"], type="filepath", buttons=[])
        button = gr.Button("", variant="primary", size="lg")
        text = gr.Textbox(lines=6, max_lines=24, buttons=["copy"], elem_id="text")
        credit = gr.Markdown(elem_id="credits")
        page.load(labels, None, [intro, audio, button, text, credit], api_visibility="private", queue=False)
        gr.on(
            [button.click, audio.stop_recording, audio.upload],
            transcribe,
            audio,
            text,
            api_name="transcribe",
            concurrency_limit=1,
            trigger_mode="once",
            show_progress_on=text,
        )
        audio.clear(lambda: "", None, text, api_visibility="private", queue=False)
    page.queue(max_size=QUEUE_SIZE)
    return page


def _notice(message: str) -> gr.Error:
    """What a visitor is shown; the server's log says nothing, not even the file's name."""
    return gr.Error(message, print_exception=False)


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
            footer_links=[],
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


def run(transcriber: Transcriber, host: str, port: int, share: bool = False) -> None:
    """Serves the page until the process is told to end; says where, and the most memory it has taken so far."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted then, too
    with tempfile.TemporaryDirectory(prefix="sussurro-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        with serve(build_page(transcriber), host, port, share) as url:
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
