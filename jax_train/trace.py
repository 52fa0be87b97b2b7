"""`--profile N`: a trace of N warm steps for XProf and Perfetto (ui.perfetto.dev), and its slowest operations in words.

Time is each operation's own: a loop's does not count what runs in it. Operations are told apart by XLA's names, which
the trace links to the lines of the program.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

WARM_STEPS = 2  # before the trace: the first compiles
SLOWEST = 10
CLOSE = 0.01  # microseconds between the ends of operations that end together
OPERATIONS = "XLA Ops"  # the thread of a TPU or GPU trace that has them all


class Trace:
    """The trace of steps `first + WARM_STEPS` and on, `steps` of them; none of none."""

    def __init__(self, folder: Path, steps: int, first: int) -> None:
        self._folder, self._steps = folder, steps
        self._begin = first + WARM_STEPS
        self._running = False

    def too_late(self, total: int) -> str:
        """What to say of a run of `total` steps that leaves none to trace."""
        none = self._steps and self._begin >= total
        return f"--profile {self._steps}: no step is left to trace, the first {WARM_STEPS} compile" if none else ""

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._steps and step == self._begin:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, last: bool) -> str:
        """To be called when a step is done; what the trace shows, once it is whole."""
        if not self._running or not (last or step + 1 == self._begin + self._steps):
            return ""
        jax.profiler.stop_trace()
        self._running = False
        path, events = newest(self._folder)
        return f"{table(events, step + 1 - self._begin)}\ntrace: {path} (ui.perfetto.dev, or XProf on {self._folder})"


def newest(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The newest Perfetto trace in a folder, and its events."""
    path = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(path) as file:
        return path, json.load(file)["traceEvents"]


def table(events: Sequence[dict[str, Any]], steps: int) -> str:
    """The slowest operations of `steps` steps, one line each."""
    times = self_times(events)
    total = sum(seconds for seconds, _ in times.values())
    lines = [f"{'ms a step':>10}{'share':>8}{'calls':>8}  operation, summed over devices"]
    for name, (seconds, calls) in sorted(times.items(), key=lambda item: -item[1][0])[:SLOWEST]:
        lines.append(f"{1e3 * seconds / steps:10.2f}{seconds / total:8.1%}{calls / steps:8.0f}  {name}")
    return "\n".join(lines)


def self_times(events: Sequence[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """Seconds that each operation took itself, without those inside it, and its calls; by its name."""
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["args"]["name"] == OPERATIONS
    }
    by_thread: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and "dur" in event:
            thread = event["pid"], event["tid"]
            if thread in threads if threads else "hlo_op" in event.get("args", {}):
                by_thread[thread].append(event)
    found: dict[str, tuple[float, int]] = {}
    for operations in by_thread.values():
        ordered = sorted(operations, key=lambda event: (event["ts"], -event["dur"]))
        own = [event["dur"] for event in ordered]
        open_ones: list[int] = []
        for number, event in enumerate(ordered):
            while open_ones and _end(event) > _end(ordered[open_ones[-1]]) + CLOSE:
                open_ones.pop()  # it ended before, or, as a GPU's kernels may, shortly after this one began
            if open_ones:
                own[open_ones[-1]] -= event["dur"]
            open_ones.append(number)
        for event, microseconds in zip(ordered, own, strict=True):
            seconds, calls = found.get(event["name"], (0.0, 0))
            found[event["name"]] = seconds + microseconds / 1e6, calls + 1
    return found


def _end(event: dict[str, Any]) -> float:
    end: float = event["ts"] + event["dur"]
    return end
