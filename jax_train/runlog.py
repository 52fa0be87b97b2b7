"""What a run says of itself: metrics.jsonl, TensorBoard events, the progress bar and summary.json.

Rows are of steps (loss and speed) or of evaluations (WER), in their order. Rates leave out the first step, which
compiles, and evaluations; their times are given on their own. A number that is none, as the gradient's norm of a step
that overflowed in float16, is written as null: JSON has no infinity. The share of the time that evaluations take is the
whole run's: rows hold its seconds so far, so that the count goes on where a stopped run left off.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from upath import UPath

from data.errors import NO_ROOM, UserError
from data.storage import write_text
from jax_train.events import Appended, Events

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
EVENTS = "tensorboard"  # folder
WER = "wer_normalised"
SKIPPED = "skipped_clips"
RUN_SECONDS = "run_seconds"


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; what a kill or a power cut left of a line is left out.

    Raises:
        UserError: a line that is no row.
    """
    path = run / METRICS
    try:
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text ({error.reason} at byte {error.start}); was it overwritten?") from error
    return [_row(line, path) for line in lines if line.endswith("\n") and line.strip("\0\n")]


def _row(line: str, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line.strip("\0"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: {line.strip()[:60]!r} is not JSON; remove that line") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise UserError(f"{path}: {json.dumps(row)[:60]} has no step; remove that line")
    return row


def wer_by_step(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Normalised WER by the step of its evaluation."""
    return {row["step"]: row[WER] for row in rows if WER in row}


def evaluations_since_best(wer: Mapping[int, float]) -> int:
    """How many evaluations came after that of the lowest WER."""
    lowest = min(wer, key=lambda step: (wer[step], step), default=0)
    return sum(step > lowest for step in wer)


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for each number that is none."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}


def row_line(row: Mapping[str, Any]) -> str:
    """The row as a line of metrics.jsonl."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


def process_seconds() -> float:
    """Seconds since this process was started, before it imported anything (proc(5): field 22 of stat, from boot)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON, in one step and down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(UPath(path), json.dumps(value, indent=2, default=str) + "\n")


class RunLog:
    """The log of steps `first` to `total`; a context manager, so that events and bar are closed.

    Of several processes one `writes`; the others only count. A row that the disk does not take ends the run, unless it
    `may_lose_rows`; TensorBoard's events, which metrics.jsonl has too, never do. What is lost is said once.
    """

    def __init__(self, run: Path, first: int, total: int, writes: bool = True, may_lose_rows: bool = False) -> None:
        self._run, self._writes, self._may_lose_rows = run, writes, may_lose_rows
        self._said: set[Path] = set()
        kept = [row for row in read_rows(run) if row["step"] <= first]
        self._rows: Appended | None = None
        self._events: Events | None = None
        if writes:
            with self._writing(METRICS, may_fail=False):
                partial = run / (METRICS + ".partial")
                partial.write_text("".join(map(row_line, kept)))
                partial.replace(run / METRICS)
                self._rows = Appended(run / METRICS)
            with self._writing(EVENTS, may_fail=True):
                self._events = Events(run / EVENTS, first)
        self._bar = tqdm(initial=first, total=total, unit="step", desc="train", disable=not writes)
        self.wer = wer_by_step(kept)
        """Normalised WER by the step of its evaluation."""
        self.skipped = sum(SKIPPED in row for row in kept)
        """Steps left out because their loss was no number."""
        self._last: dict[str, Any] = next((row for row in reversed(kept) if "loss" in row), {})
        self._loss: float | None = next((row["loss"] for row in reversed(kept) if row.get("loss") is not None), None)
        self._evaluation: dict[str, Any] = next((row for row in reversed(kept) if WER in row), {})
        evaluations = [row["seconds"] for row in kept if WER in row and "seconds" in row]
        self.last_evaluation_seconds = evaluations[-1] if evaluations else 0.0
        """What the newest evaluation took; 0 before the run's first."""
        self._all_evaluations = sum(evaluations)
        self._earlier = max((row.get(RUN_SECONDS, 0.0) for row in kept), default=0.0)
        self._start = time.perf_counter()
        self._first_step_seconds: float | None = None
        self._seconds_to_first_step: float | None = None
        self._news: dict[str, float] = {}  # for the next row of a step
        self._waited = self._speech = self._evaluated = 0.0

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        for name, file in ((EVENTS, self._events), (METRICS, self._rows)):
            with self._writing(name, may_fail=True):  # what ended the run comes first
                if file:
                    file.close()

    def step(self, step: int, values: dict[str, float], speech_seconds: float, waited: float, write: bool) -> None:
        """Count a finished step: its scalars, the speech in it, the seconds it waited for data."""
        self._count_time(step, speech_seconds, waited)
        if math.isfinite(values["loss"]):
            self._loss = values["loss"]
        self._last = {"step": step, **values, **self._rates()}
        self._bar.update()
        wer = f"WER {self._evaluation[WER]:.1f} %, " if self._evaluation else ""
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {wer}{self._last['speech_seconds_per_second']:.1f} speech-s/s, "
            f"data wait {self._last['data_wait']:.0%}"
        )
        if write:
            self._write(self._last, "train")

    def skip(self, step: int, values: dict[str, float], clip_ids: Sequence[str]) -> None:
        """Count a step that was left out: written always, without the values that are no numbers."""
        self._count_time(step, 0.0, 0.0)
        self.skipped += 1
        self._bar.update()
        self.say(f"step {step}: loss {values['loss']}, left out ({self.skipped} so far), clips {', '.join(clip_ids)}")
        self._write({"step": step, "learning_rate": values["learning_rate"], SKIPPED: list(clip_ids)}, "train")

    def evaluation(self, step: int, values: dict[str, float], transcripts: str, seconds: float) -> None:
        """Count an evaluation of the state after `step`: its scalars, transcripts as Markdown, its duration."""
        self._evaluated += seconds
        self._all_evaluations += seconds
        self.last_evaluation_seconds = seconds
        self._evaluation = {"step": step, **values}
        self.wer[step] = values[WER]
        self._write(self._evaluation | {"seconds": seconds, "eval_share": self.eval_share_after(0.0)}, "eval")
        with self._writing(EVENTS, may_fail=True):
            if self._events:
                self._events.text(step, "eval/transcripts", transcripts)

    def eval_share_after(self, seconds: float) -> float:
        """The share of the run's time that evaluations will have taken once one more takes so many seconds."""
        return (self._all_evaluations + seconds) / max(self._run_seconds() + seconds, 1e-9)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._writes:
            tqdm.write(line)

    def to_disk(self) -> None:
        """Force the rows through to the disk, as a checkpoint relies on them. Raises `OSError`."""
        if self._rows:
            self._rows.sync()

    def summary(self) -> dict[str, Any]:
        """The last step's metrics and evaluation with the run's speed, written to summary.json.

        The loss is the last one that is a number.
        """
        evaluation = {name: value for name, value in self._evaluation.items() if name != "step"}
        times = {
            "first_step_seconds": self._first_step_seconds,
            "seconds_to_first_step": self._seconds_to_first_step,
        }
        found = finite({**evaluation, **self._last, "loss": self._loss, **self._rates(), **times})
        if self._writes:
            with self._writing(SUMMARY, self._may_lose_rows):
                write_json(self._run / SUMMARY, found)
        return found

    def _count_time(self, step: int, speech_seconds: float, waited: float) -> None:
        if self._first_step_seconds is None:
            self._seconds_to_first_step = process_seconds()
            self._news = {"seconds_to_first_step": self._seconds_to_first_step}
            self.say(f"step {step} is done, {self._seconds_to_first_step:.1f} s after the start of the command")
            self._first_step_seconds = time.perf_counter() - self._start - self._evaluated
            self._earlier += self._evaluated
            self._start, self._evaluated = time.perf_counter(), 0.0
        else:
            self._speech += speech_seconds
            self._waited += waited

    def _run_seconds(self) -> float:
        """Seconds of the run in all its processes; what they took to begin and to compile is left out."""
        return self._earlier + time.perf_counter() - self._start

    def _write(self, row: dict[str, Any], group: str) -> None:
        row = row | {RUN_SECONDS: self._run_seconds()}
        if group == "train":
            row, self._news = row | self._news, {}
        with self._writing(METRICS, self._may_lose_rows):
            if self._rows:
                self._rows.write(row_line(row).encode())
        numbers = {name: x for name, x in row.items() if isinstance(x, float | int) and name != "step"}
        with self._writing(EVENTS, may_fail=True):
            if self._events:
                self._events.scalars(row["step"], {f"{group}/{name}": x for name, x in numbers.items()})

    @contextmanager
    def _writing(self, name: str, may_fail: bool) -> Iterator[None]:
        """Around what the disk may not take: then said, the first time, or if it may not fail, a `UserError`."""
        path = self._run / name
        try:
            yield
        except OSError as error:
            if not may_fail:
                mend = "make room" if error.errno in NO_ROOM else "mend that"
                raise UserError(f"{path}: {error.strerror}; {mend} and run again to continue") from error
            if path not in self._said:
                self._said.add(path)
                self.say(f"warning: {path}: {error.strerror}; training goes on, and what it does not take is lost")

    def _rates(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        training = seconds - self._evaluated
        shares = {
            "speech_seconds_per_second": self._speech / training if training > 0 else 0.0,
            "data_wait": self._waited / training if training > 0 else 0.0,
        }
        return shares | ({"eval_share": self.eval_share_after(0.0)} if self.wer else {})
