"""The monitor: what the daily loop did and how well the model hears, as a page of its own or a tab of the other page.

Decision: it shows one folder, which `daily.snapshot` writes, and nothing else: no database, no model, no PyTorch. So
the same code shows a store on this machine and a Space that somebody else's browser opens. The folder is read anew
each time the page is loaded. Whatever it says is escaped by the template, and figures have to be figures; of files it
may name sounds and pictures that lie beside it.

    python -m serving.monitor --folder store/monitor --port 7860
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from serving.errors import command
from serving.monitor_chart import wer_chart
from serving.monitor_folder import MONITOR, SHOWN_FILES, MonitorError, Snapshot, read_snapshot
from serving.monitor_words import in_language_of
from serving.port import check_port
from serving.server import serve_to_the_end

HERE = Path(__file__).resolve().parent
STALE_DAYS = 2  # of age from which a snapshot is said to be old; the loop writes one a day
QUIET: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}

Words = dict[str, str]


def render(folder: Path, snapshot: Snapshot, words: Words) -> str:
    """The snapshot as HTML in the language of `words`."""

    def number(value: float, digits: int = 1) -> str:
        return f"{value:.{digits}f}".replace(".", words["decimal"])

    def link(name: str) -> str:
        """The address of a file of the folder; the browser is given no other."""
        path = folder.resolve() / name
        if Path(name).name != name or path.suffix not in SHOWN_FILES:
            raise MonitorError(f"{folder / MONITOR}: names the file {name!r}; only {', '.join(SHOWN_FILES)} beside it")
        return "gradio_api/file=" + quote(str(path))

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "link": link}
    today = datetime.now(UTC).date()  # days are UTC, wherever this runs
    warnings = [_says(warning, words, number) for warning in [*stale(snapshot, today), *snapshot["warnings"]]]
    chart = wer_chart(snapshot["days"])
    page = environment.get_template("monitor.html.jinja")
    return page.render(snapshot | {"warnings": warnings, "chart": chart, "say": words})


def stale(snapshot: Snapshot, today: date) -> list[dict[str, Any]]:
    """A warning, if the snapshot is no longer of these days, and does not say so itself: no loop writes a new one."""
    is_said = any(warning["kind"] == "stale" for warning in snapshot["warnings"])
    is_old = (today - date.fromisoformat(snapshot["day"])).days >= STALE_DAYS
    return [{"kind": "stale", "day": snapshot["day"]}] if is_old and not is_said else []


def _says(warning: dict[str, Any], words: Words, number: Any) -> str:
    """A warning in words: its figures as figures, names of features as they are called."""
    said = {name: number(value) if isinstance(value, float) else value for name, value in warning.items()}
    if "features" in said:
        said["features"] = ", ".join(words.get(f"feature_{name}", name) for name in said["features"])
    return words[warning["kind"]].format_map(said)


def shown(folder: Path, words: Words) -> str:
    """The folder as it is now, as HTML; where it cannot be shown, a line that says so."""
    try:
        return render(folder, read_snapshot(folder), words)
    except MonitorError as error:
        print(f"error: {error}", file=sys.stderr)
        return f'<p class="note error" role="alert">{words["unreadable"]}</p>'


def words_of(request: gr.Request) -> Words:
    """What the monitor says, in the language of whoever looks."""
    return in_language_of(request.headers.get("accept-language", ""))


def add_monitor(page: gr.Blocks, folder: Path) -> None:
    """Adds the monitor to the page being built, where it is being built."""
    board = gr.HTML(elem_id="monitor", apply_default_css=False)

    def load(request: gr.Request) -> str:
        return shown(folder, words_of(request))

    page.load(load, None, board, **QUIET)


@contextmanager
def beside_monitor(page: gr.Blocks, folder: Path | None) -> Iterator[None]:
    """What is built in the block is the page's first tab, and the monitor its second; without a folder it is all."""
    if folder is None:
        yield
        return
    with gr.Tabs(elem_id="pages"):
        with gr.Tab(render_children=True) as first:
            yield
        with gr.Tab(render_children=True) as second:
            add_monitor(page, folder)

    def name(request: gr.Request) -> list[Any]:
        words = words_of(request)
        return [gr.update(label=words["transcribe"]), gr.update(label=words["monitor"])]

    page.load(name, None, [first, second], **QUIET)


def build_monitor(folder: Path) -> gr.Blocks:
    """The monitor as a page of its own."""
    with gr.Blocks(title="Sussurro · monitor", analytics_enabled=False) as page:
        title = gr.Markdown(elem_id="title")
        add_monitor(page, folder)

        def name(request: gr.Request) -> str:
            return f"# Sussurro · monitor\n{words_of(request)['intro']}"

        page.load(name, None, title, **QUIET)
    return page


@dataclass(frozen=True)
class MonitorConfig:
    """Serves a page that shows what the daily loop did and how well the model hears."""

    folder: Path
    """The folder that `daily.snapshot` writes: STORE/monitor."""
    port: int = 7860
    """The port to listen on."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 opens the page to the network."""


def run(folder: Path, host: str, port: int) -> None:
    """Serves the monitor until the process is told to end."""
    check_port(host, port)
    day = read_snapshot(folder)["day"]
    serve_to_the_end(lambda: build_monitor(folder), lambda: f"monitor, {day}", host, port, files=[folder.resolve()])


@command
def main() -> None:
    config = tyro.cli(MonitorConfig)
    run(config.folder, config.host, config.port)


if __name__ == "__main__":
    main()
