"""What a run says of itself: metrics.jsonl, TensorBoard events, the progress bar and summary.json.

Rates leave out the first step, which compiles; its time is given on its own.
"""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line cut short by a kill is left out."""
    path = run / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON by rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n")
    partial.replace(path)


class RunLog:
    """The log of steps `first` to `total`; a context manager, so that events and bar are closed."""

    def __init__(self, run: Path, first: int, total: int) -> None:
        self._run = run
        kept = [row for row in read_rows(run) if row["step"] <= first]
        partial = run / (METRICS + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(run / METRICS)
        self._rows = (run / METRICS).open("a", buffering=1)
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=first + 1)
        self._bar = tqdm(initial=first, total=total, unit="step", desc="train")
        self._last: dict[str, Any] = kept[-1] if kept else {}
        self._start = time.perf_counter()
        self._first_step_seconds: float | None = None
        self._waited = self._speech = 0.0

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._events.close()
        self._rows.close()

    def step(self, step: int, values: dict[str, float], speech_seconds: float, waited: float, write: bool) -> None:
        """Count a finished step: its scalars, the speech in it, the seconds it waited for data."""
        if self._first_step_seconds is None:
            self._first_step_seconds = time.perf_counter() - self._start
            self._start = time.perf_counter()
        else:
            self._speech += speech_seconds
            self._waited += waited
        self._last = {"step": step, **values, **self._rates()}
        self._bar.update()
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {self._last['speech_seconds_per_second']:.1f} speech-s/s, "
            f"data wait {self._last['data_wait']:.0%}"
        )
        if write:
            self._rows.write(json.dumps(self._last) + "\n")
            for name, value in self._last.items():
                if name != "step":
                    self._events.add_scalar(f"train/{name}", value, step)

    def summary(self) -> dict[str, Any]:
        """The last step's metrics with the run's speed, written to summary.json."""
        found = {**self._last, **self._rates(), "first_step_seconds": self._first_step_seconds}
        write_json(self._run / SUMMARY, found)
        return found

    def _rates(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        return {
            "speech_seconds_per_second": self._speech / seconds if seconds else 0.0,
            "data_wait": self._waited / seconds if seconds else 0.0,
        }
