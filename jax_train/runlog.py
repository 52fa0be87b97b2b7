"""What a run says of itself: metrics.jsonl, TensorBoard events, the progress bar and summary.json.

Rows are of steps (loss and speed) or of evaluations (WER), in their order. Rates leave out the first step, which
compiles, and evaluations; their times are given on their own.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from data.errors import UserError

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
WER = "wer_normalised"
SKIPPED = "skipped_clips"


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line cut short by a kill is left out."""
    path = run / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wer_by_step(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Normalised WER by the step of its evaluation."""
    return {row["step"]: row[WER] for row in rows if WER in row}


def evaluations_since_best(wer: Mapping[int, float]) -> int:
    """How many evaluations came after that of the lowest WER."""
    lowest = min(wer, key=lambda step: (wer[step], step), default=0)
    return sum(step > lowest for step in wer)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n")
    partial.replace(path)


class RunLog:
    """The log of steps `first` to `total`; a context manager, so that events and bar are closed.

    Of several processes one `writes`; the others only count.
    """

    def __init__(self, run: Path, first: int, total: int, writes: bool = True) -> None:
        self._run, self._writes = run, writes
        kept = [row for row in read_rows(run) if row["step"] <= first]
        if writes:
            partial = run / (METRICS + ".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(run / METRICS)
        self._rows = (run / METRICS if writes else Path(os.devnull)).open("a", buffering=1)
        from tensorboardX import SummaryWriter  # here because it imports torch where there is one: seconds

        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=first + 1, write_to_disk=writes)
        self._bar = tqdm(initial=first, total=total, unit="step", desc="train", disable=not writes)
        self.wer = wer_by_step(kept)
        """Normalised WER by the step of its evaluation."""
        self.skipped = sum(SKIPPED in row for row in kept)
        """Steps left out because their loss was no number."""
        self._last: dict[str, Any] = next((row for row in reversed(kept) if "loss" in row), {})
        self._evaluation: dict[str, Any] = next((row for row in reversed(kept) if WER in row), {})
        self._start = time.perf_counter()
        self._first_step_seconds: float | None = None
        self._waited = self._speech = self._evaluated = 0.0

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
        self._count_time(speech_seconds, waited)
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
        self._count_time(0.0, 0.0)
        self.skipped += 1
        self._bar.update()
        self.say(f"step {step}: loss {values['loss']}, left out ({self.skipped} so far), clips {', '.join(clip_ids)}")
        self._write({"step": step, "learning_rate": values["learning_rate"], SKIPPED: list(clip_ids)}, "train")

    def evaluation(self, step: int, values: dict[str, float], transcripts: str, seconds: float) -> None:
        """Count an evaluation of the state after `step`: its scalars, transcripts as Markdown, its duration."""
        self._evaluated += seconds
        self._evaluation = {"step": step, **values}
        self.wer[step] = values[WER]
        self._write(self._evaluation | {"seconds": seconds, "eval_share": self._rates()["eval_share"]}, "eval")
        self._events.add_text("eval/transcripts", transcripts, step)

    def eval_share_after(self, seconds: float) -> float:
        """The share of the time that evaluations will have taken once one more takes so many seconds."""
        return (self._evaluated + seconds) / (time.perf_counter() - self._start + seconds)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._writes:
            tqdm.write(line)

    def to_disk(self) -> None:
        """Force the rows through to the disk, as a checkpoint relies on them."""
        if self._writes:
            os.fsync(self._rows.fileno())

    def summary(self) -> dict[str, Any]:
        """The last step's metrics and evaluation with the run's speed, written to summary.json."""
        evaluation = {name: value for name, value in self._evaluation.items() if name != "step"}
        found = {**evaluation, **self._last, **self._rates(), "first_step_seconds": self._first_step_seconds}
        if self._writes:
            write_json(self._run / SUMMARY, found)
        return found

    def _count_time(self, speech_seconds: float, waited: float) -> None:
        if self._first_step_seconds is None:
            self._first_step_seconds = time.perf_counter() - self._start - self._evaluated
            self._start, self._evaluated = time.perf_counter(), 0.0
        else:
            self._speech += speech_seconds
            self._waited += waited

    def _write(self, row: dict[str, Any], group: str) -> None:
        try:
            self._rows.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"{self._run / METRICS}: {error.strerror}; make room and run again to continue") from error
        for name, value in row.items():
            if isinstance(value, float | int) and name != "step":
                self._events.add_scalar(f"{group}/{name}", value, row["step"])

    def _rates(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        training = seconds - self._evaluated
        shares = {
            "speech_seconds_per_second": self._speech / training if training > 0 else 0.0,
            "data_wait": self._waited / training if training > 0 else 0.0,
        }
        return shares | ({"eval_share": self._evaluated / seconds if seconds else 0.0} if self.wer else {})
