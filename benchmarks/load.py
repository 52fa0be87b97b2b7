"""The page under load: many clients at once on this machine, with real clips, for some minutes.

The page runs in a process of its own, as `make serve` starts it, with a folder of its own for temporary files. Each
client is a program that uploads a clip, asks for its text, waits, and starts again; told that the page is busy, it
tries again after a few seconds. Two more clients are a nuisance: one sends files that are no recordings, the other
leaves before its answer comes.

The benchmark fails unless every answer equals the one that a client alone got before, every request was answered, and
memory is flat. What a client sees is also what Gradio's own clients see (docs/serving.md).

    make bench-load [ARGS="--minutes 1 --clients 20"]
"""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from benchmarks.corpus import SAMPLE
from benchmarks.load_clients import Load, Report
from benchmarks.result import result_line
from data.errors import UserError, command
from jax_train.pretrained import fetch_base, model_folder

MOST_GROWTH = 0.10  # of memory, from the first third to the last: allocators settle, a leak goes on


@dataclass(frozen=True)
class LoadBenchmark:
    """Answers, waiting times, memory and temporary files of the page under load."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    clients: int = 50
    """Clients at once."""
    minutes: float = 5.0
    """How long they go on; what is under way then is waited for."""
    clips: int = 8
    """Different clips of the sample corpus's test split that they send."""

    def __post_init__(self) -> None:
        if min(self.clients, self.clips) < 1 or self.minutes <= 0:
            raise UserError("--clients, --clips: at least 1 each; --minutes: above 0")


@contextmanager
def page_process(arguments: list[str], tmp: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address and process of a page, whose temporary files all lie in `tmp`; asked to end when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], env=os.environ | {"TMPDIR": str(tmp)}, text=True, stdout=subprocess.PIPE
    ) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            if not said.startswith("ready: "):
                raise UserError(f"the page does not start: {said}")
            yield said.split()[1], psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def files_in(folder: Path) -> list[Path]:
    """All files below."""
    return [path for path in folder.rglob("*") if path.is_file()]


def print_report(report: Report, seconds: float) -> None:
    """What was measured, for people."""
    answers = report.answers
    print("  " + ", ".join(f"{kind} {answers[kind]}" for kind in ("right", "busy", "refused", "left", "wrong", "lost")))
    if report.seconds:
        ordered = sorted(report.seconds)
        print(
            f"  waited for a text: median {statistics.median(ordered):.1f} s, 95 % within"
            f" {ordered[int(0.95 * (len(ordered) - 1))]:.1f} s; {answers['right'] / seconds:.2f} texts/s"
        )
    first, last = (third / 1e6 for third in report.thirds())
    print(f"  the page's memory: {first:.0f} MB in the first third of the time, {last:.0f} MB in the last")


@command
def main() -> None:
    config = tyro.cli(LoadBenchmark, description=__doc__)
    model = model_folder(config.model) if config.model else fetch_base(Path(".cache/models"))
    clips = sorted((SAMPLE / "clips").glob("*.mp3"))[:: max(1, 80 // config.clips)][: config.clips]
    with tempfile.TemporaryDirectory() as tmp:
        with page_process(["serving.app", "--model", str(model), "--port", str(free_port())], Path(tmp)) as (url, page):
            load = Load(url, clips, ["", False])
            asyncio.run(load.alone())
            began = time.monotonic()
            asyncio.run(load.all_at_once(config.clients, config.minutes * 60, page))
            took, during = time.monotonic() - began, len(files_in(Path(tmp)))
        left = files_in(Path(tmp))
    print(
        f"{model.name}, {config.clients} clients and 2 that misbehave, {took / 60:.1f} minutes, {os.cpu_count()} cores"
    )
    print_report(load.report, took)
    print(f"  temporary files: {during} while it ran, {len(left)} after the page stopped")
    check(load.report, left)
    answers = dict(load.report.answers)
    print(result_line("load", "right answers/s", answers.get("right", 0) / took, None, more={"answers": answers}))


def check(report: Report, left: list[Path]) -> None:
    """Raises `UserError` unless every request was answered rightly, memory is flat and no file was left."""
    if bad := report.answers["wrong"] + report.answers["lost"]:
        raise UserError(f"{bad} requests were answered wrongly or not at all: {'; '.join(report.wrong[:3])}")
    first, last = report.thirds()
    if last > (1 + MOST_GROWTH) * first:
        raise UserError(f"memory grew from {first / 1e6:.0f} to {last / 1e6:.0f} MB")
    if left:
        raise UserError(f"{len(left)} temporary files were left, such as {left[0].name}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
