"""What every page here is served by: its colours, where its files lie, how it ends.

Decisions: nothing said leaves the machine or stays on it: no analytics, no run history, no fonts from elsewhere, and
uploads live in a folder of this process that goes with it (`uploads`). Who asks for more than a page has is refused
before Gradio hears of it (`gate`). Only `share` sends what is said elsewhere, through Gradio's tunnel. Nothing here
loads PyTorch: the monitor has no model.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
from starlette.middleware import Middleware

from serving.errors import UserError
from serving.gate import Gate, Says
from serving.port import PortError
from serving.uploads import own_folder, paths, sweep

MAX_FILE_SIZE = "2gb"  # two hours of uncompressed stereo
SWEEP_EVERY = 10 * 60  # seconds
# System fonts: Gradio's own theme asks fonts.googleapis.com for its own, which tells a third party who is reading.
THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
HERE = Path(__file__).resolve().parent
CSS = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "monitor.css"))


class ShareError(UserError):
    """Gradio's tunnel cannot be had."""


@contextmanager
def serve(
    page: gr.Blocks,
    host: str,
    port: int,
    share: bool = False,
    files: Sequence[Path] = (),
    uploads: Path = Path(),
    full: Says | None = None,
) -> Iterator[str]:
    """Serves the page until the block ends, and gives its address: with `share` Gradio's tunnel's.

    Of this machine's files it gives out `files` and what lies in them. It takes uploads into `uploads` as long as there
    is room, and then says `full`; without that it takes none. Raises `PortError` where the port is taken or this
    machine does not reach its own page there, `ShareError` where there is no tunnel.
    """
    _ask_directly(host)
    try:
        _, url, public_url = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=share,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            max_file_size=MAX_FILE_SIZE,
            footer_links=["api"],
            allowed_paths=[str(path) for path in files],
            theme=THEME,
            css=CSS,
            app_kwargs={
                "middleware": [Middleware(Gate, folder=uploads, full=full, awaited=lambda: awaited(page))],
            },
        )
    except OSError as error:
        raise PortError(f"{host}:{port}: cannot be listened on ({error}); choose another --port") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PortError(f"{host}:{port}: the page does not answer there ({error}); choose another --host") from error
    try:
        if share and not public_url:
            raise ShareError("no public link from gradio.live (its reason stands above): leave out --share")
        yield public_url or url
    finally:
        page.close(verbose=False)


def _ask_directly(host: str) -> None:
    """Has this process reach the host itself, whatever proxy the environment names: Gradio asks its own page whether it
    is up."""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    hosts = ",".join(filter(None, [before, host, "localhost"]))  # by which Gradio means 0.0.0.0
    os.environ |= {"no_proxy": hosts, "NO_PROXY": hosts}


def awaited(page: gr.Blocks) -> Collection[Path]:
    """The recordings that wait in the page's line, or are being transcribed."""
    lines = [event for line in page._queue.event_queue_per_concurrency_id.values() for event in list(line.queue)]
    working = [event for events in page._queue.active_jobs for event in events or ()]
    return {Path(path) for event in [*lines, *working] if event.data for path in paths(event.data.data)}


def serve_to_the_end(
    build: Callable[[], gr.Blocks],
    says: Callable[[], str],
    host: str,
    port: int,
    share: bool = False,
    files: Sequence[Path] = (),
    full: Says | None = None,
) -> None:
    """Serves the page that `build` makes until the process is told to end; its first line says where, and `says()`.

    For `full` see `serve`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted then, too
    with own_folder() as folder:
        uploads = folder / "uploads"
        uploads.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        page = build()
        with serve(page, host, port, share, files, uploads, full) as url:
            print(f"ready: {url} ({says()})", flush=True)
            while True:
                time.sleep(SWEEP_EVERY)
                sweep(uploads, awaited(page))
                page.upload_file_set.clear()  # Gradio notes every upload there, for a deletion of its own
