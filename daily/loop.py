"""The command `python -m daily.loop`: a day of the living system, stage by stage.

Decision: a run owes every day of the last week a whole result. Oldest first, it does what is not done: stages that
failed or were killed, days when the machine was off, and today. What is older than that stays as it is. A failed stage
takes along only the stages of its day that need it. Stages are commands in processes of their own, as a user would
run them, so one that fails, or eats all memory, takes nothing with it.

Away from a terminal only complaints go to standard error, which cron mails; what the stages say there, libraries'
warnings and all, goes to standard output.

The champion hears a day before anything is trained on that day, so training needs inference; and since a later day's
training replays earlier ones, it waits for those that could not be heard, too.
"""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from daily.commands import CommandError, module, run
from daily.day_progress import DayProgress, days_begun, read_progress, window, write_progress
from daily.leftovers import sweep
from daily.lock import locked
from daily.store import parse_day
from data.errors import UserError, command
from data.storage import writing_to


@dataclass(frozen=True)
class Stage:
    """A command of the loop."""

    name: str
    command: tuple[str, ...]
    """What is run; `--store STORE --day DAY` is added."""
    needs: tuple[str, ...] = ()
    """Stages of the same day that must be done before it."""
    needs_of_earlier: str = ""
    """A stage that must not have failed on an earlier day of the same run."""


@dataclass(frozen=True)
class StageOptions:
    """Options for the stages' own commands, each as one text: --training="--steps 20"."""

    features: str = ""
    """For daily.features."""
    inference: str = ""
    """For daily.inference."""
    confidence: str = ""
    """For daily.confidence."""
    training: str = ""
    """For daily.training."""
    snapshot: str = ""
    """For daily.snapshot."""


@dataclass(frozen=True)
class LoopConfig:
    """Does what is not done yet of a day and of the days before it; what failed or was killed is continued."""

    store: Path = Path("store")
    """The store's folder."""
    day: str = ""
    """The day, as 2026-11-23; default: today, UTC."""
    catch_up: Annotated[int, tyro.conf.arg(metavar="DAYS")] = 7
    """Days before it whose missing or failed stages are made up for."""
    stage_timeout: Annotated[float, tyro.conf.arg(metavar="HOURS")] = 3.0
    """Hours after which a stage that has not ended is ended, and has failed."""
    options: Annotated[StageOptions, tyro.conf.arg(name="")] = StageOptions()
    """Further options of the stages."""

    def __post_init__(self) -> None:
        if self.catch_up < 0:
            raise UserError(f"--catch-up {self.catch_up}: give a number of days, 0 or more")
        if not self.stage_timeout > 0:
            raise UserError(f"--stage-timeout {self.stage_timeout:g}: give a number of hours above 0")


def daily_stages(options: StageOptions) -> tuple[Stage, ...]:
    """The stages of a day, in order."""
    return (
        _stage("features", options),
        _stage("inference", options, ("features",)),
        _stage("confidence", options, ("inference",)),
        _stage("training", options, ("features", "inference"), "inference"),
    )


def snapshot_stage(options: StageOptions) -> Stage:
    """The stage that ends every run: what the monitor shows, of failures too."""
    return _stage("snapshot", options)


def _stage(name: str, options: StageOptions, needs: tuple[str, ...] = (), needs_of_earlier: str = "") -> Stage:
    text = getattr(options, name)
    try:
        command = module(f"daily.{name}", *shlex.split(text))
    except ValueError as error:
        raise UserError(f"--{name} {text!r}: {str(error).lower()}; write it as in a shell") from None
    return Stage(name, tuple(command), needs, needs_of_earlier)


def run_loop(
    store: Path,
    today: str,
    catch_up: int,
    stages: Sequence[Stage],
    last: Stage,
    longest: float | None = None,
) -> list[str]:
    """Do what is not done up to `today`, and then, if that was anything, `last`; the failures, a line each.

    A stage that takes longer than `longest` seconds is ended, and has failed.

    Raises:
        LockedError: another run is going on.
        UserError: a day's progress cannot be read or written.
    """
    with writing_to(store):
        store.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with locked(store):
        sweep(store)
        days = [read_progress(store, day) for day in window(store, today, catch_up)]
        owed = [day for day in days if not all(day.done(stage.name) for stage in stages)]
        newest = _newest(store, today)
        if not owed and read_progress(store, newest).done(last.name):
            print(f"{today}: everything is done")
            return []
        failed: dict[str, str] = {}  # stage: the first day that it failed on
        for number, day in enumerate(owed, 1):
            open_stages = [stage for stage in stages if not day.done(stage.name)]
            print(f"{day.day} ({number} of {len(owed)} days): {', '.join(stage.name for stage in open_stages)}")
            for stage in open_stages:
                day = _advance(store, day, stage, _missing(day, stage, failed), longest)
            failures += _failures(day, stages)
            failed = {stage.name: day.day for stage in stages if day.failed(stage.name)} | failed
        failures += _failures(_advance(store, read_progress(store, newest), last, longest=longest), [last])
    return failures


def _newest(store: Path, today: str) -> str:
    """The day that the monitor is to show: `today`, or a later one that was begun and is not still to come."""
    return max([today, *(day for day in days_begun(store) if day <= parse_day(""))])


def _missing(day: DayProgress, stage: Stage, failed: Mapping[str, str]) -> list[str]:
    """What `stage` has to wait for; `failed` are stages of earlier days, and the day."""
    missing = [name for name in stage.needs if not day.done(name)]
    if stage.needs_of_earlier in failed:
        missing.append(f"{stage.needs_of_earlier} of {failed[stage.needs_of_earlier]}")
    return missing


def _advance(
    store: Path, day: DayProgress, stage: Stage, missing: Sequence[str] = (), longest: float | None = None
) -> DayProgress:
    """The day after an attempt at `stage`, unless it has to wait."""
    if missing:
        day = day.note(stage.name, "waiting", error=f"waits for {' and '.join(missing)}")
        write_progress(store, day)
        return day
    day = day.note(stage.name, "started")
    write_progress(store, day)
    started = time.monotonic()
    command_line = [*stage.command, "--store", str(store), "--day", day.day]
    try:
        run(command_line, longest=longest, errors=None if sys.stderr.isatty() else sys.stdout)
    except CommandError as error:
        day = day.note(stage.name, "failed", time.monotonic() - started, str(error))
    else:
        os.sync()  # a power failure must not leave a stage done whose files never reached the disk
        day = day.note(stage.name, "done", time.monotonic() - started)
    write_progress(store, day)
    print(
        f"{day.day} {stage.name}: {day.stages[stage.name].state} in {day.stages[stage.name].seconds:.0f} s", flush=True
    )
    return day


def _failures(day: DayProgress, stages: Sequence[Stage]) -> list[str]:
    """A line for each stage that is not done: why."""
    return [f"{day.day} {stage.name}: {day.stages[stage.name].error}" for stage in stages if not day.done(stage.name)]


@command
def main() -> None:
    config = tyro.cli(LoopConfig, prog="python -m daily.loop")
    stages, last = daily_stages(config.options), snapshot_stage(config.options)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # nobody looks at progress bars
    longest = 3600 * config.stage_timeout
    failures = run_loop(config.store, parse_day(config.day), config.catch_up, stages, last, longest)
    if failures:
        raise UserError("\n".join(["not everything is done; the next run tries these again:", *failures]))


if __name__ == "__main__":
    main()
