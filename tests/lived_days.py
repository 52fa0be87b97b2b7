"""Days of the living system with its real stages and a small model: `python -m tests.lived_days STORE MODEL DAYS`.

A fake clock: day after day follows at once. The first two are undisturbed and count how often each stage changes the
store. On every later one SIGKILL strikes before a drawn change of a drawn stage: the process that is about to make it,
the loop above it (the stage then lives on without its loop), or all of them at once, as when the power goes. Then the
day is finished by running the loop again; one in four is left as it is to the next, and on one in nine the machine is
off. What the model hears is always wrong, so the confidence stage has nothing to learn from, and changes nothing.
Prints what struck. Commands are forks (tests/forked_stage.py): sixty days of new processes would import for an hour.
"""

import contextlib
import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.forked_stage import Forked, warm

FIRST = date(2026, 11, 23)
REFUSED, FAILED = 3, 4  # exit codes: another run is going on, stages failed
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "sqlite3.connect")
STAGES = ("features", "inference", "confidence", "training", "snapshot")
WHO = ("process", "loop", "all")
OPTIONS = {
    "features": "--clips 6 --test-clips 3 --guard-split test[:3] --recipes none standard --workers 1 --model {model}",
    # The step of test_export.py, whose program is compiled once for both.
    "training": "--steps 2 --batch-size 8 --learning-rate 1e-2 --score-windows whole --score-batch-size 1",
}


class Striker:
    """Counts a stage's changes to the store across its processes, and kills at the one that was drawn."""

    def __init__(self, store: Path, record: Path) -> None:
        self.store, self.record = str(store), record
        self.shared = memoryview(mmap.mmap(-1, 8 * len(STAGES) + 8)).cast("q")
        """Of each stage how many changes it has made on this day; last the loop's process."""
        self.drawn: tuple[int, int, str] | None = None
        self.stage = -1
        self.command = ""

    def counts(self) -> list[int]:
        return self.shared.tolist()[:-1]

    def listen(self) -> None:
        """From now on in this process, which is the loop's, and in those it starts."""
        self.shared[:] = memoryview(bytes(8 * len(self.shared))).cast("q")
        self.shared[-1] = os.getpid()
        Forked.begins = staticmethod(self.begins)
        sys.addaudithook(self.note)

    def begins(self, name: str) -> None:
        self.command = name
        package, _, stage = name.partition(".")
        if package == "daily":
            self.stage = STAGES.index(stage)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.stage < 0 or not (event in CHANGES or (event == "open" and _writes(arguments))):
            return
        if isinstance(arguments[0], int) or self.store not in os.fsdecode(arguments[0]):
            return
        self.shared[self.stage] += 1
        if self.drawn and self.drawn[:2] == (self.stage, self.shared[self.stage]):
            self.strike(self.drawn[2], f"{event} {os.fsdecode(arguments[0])}")

    def strike(self, who: str, at: str) -> None:
        line = {"stage": STAGES[self.stage], "command": self.command, "who": who, "at": at.replace(self.store, "")}
        file = os.open(self.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, json.dumps(line).encode() + b"\n")
        os.close(file)
        if who == "loop":
            os.kill(self.shared[-1], signal.SIGKILL)
        elif who == "process":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.killpg(0, signal.SIGKILL)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))


def main() -> None:
    store, model, days = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])
    warm()
    record = store.with_name("struck.jsonl")
    record.touch()
    striker = Striker(store, record)
    moments = random.Random(7)
    changes: list[int] = []  # of each stage on an undisturbed day
    cases: list[tuple[int, str]] = []  # what is struck in turn
    struck, calm = 0, 2  # the first day makes the fixed splits, too: the second one's changes are usual
    began = time.monotonic()
    for number in range(days):
        day = (FIRST + timedelta(number)).isoformat()
        last = number == days - 1
        if number % 9 == 8 and not last:
            continue  # the machine was off
        if number >= calm:
            stage, who = cases[struck % len(cases)]
            struck += 1
            striker.drawn = (stage, moments.randint(1, changes[stage]), who)
            start(store, model, day, striker)
            wait_for_lock(store)
        if last or number % 4 != 3:
            striker.drawn = None
            if code := start(store, model, day, striker):
                sys.exit(f"{day}: a run that nothing struck ended with {code}")
            if number < calm:
                changes = striker.counts()
                cases = [(stage, who) for stage, count in enumerate(changes) if count for who in WHO]
                moments.shuffle(cases)
        print(f"{day}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    print(json.dumps({"changes": dict(zip(STAGES, changes, strict=True)), "tried": struck, "struck": lines}))


def wait_for_lock(store: Path) -> None:
    """Return once the stage that was left behind has ended."""
    from daily.lock import LockedError, locked

    while store.is_dir():
        with contextlib.suppress(LockedError), locked(store):
            return
        time.sleep(0.02)


def start(store: Path, model: str, day: str, striker: Striker) -> int:
    """The exit code of a run of the loop in a fork, −9 if it was killed."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        code = _live(store, model, day, striker)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _live(store: Path, model: str, day: str, striker: Striker) -> int:
    from daily import commands
    from daily.lock import LockedError
    from daily.loop import StageOptions, daily_stages, run_loop, snapshot_stage

    commands.subprocess = SimpleNamespace(Popen=Forked, PIPE=-1)  # type: ignore[assignment]
    striker.listen()
    options = StageOptions(**{stage: said.format(model=model) for stage, said in OPTIONS.items()})
    try:
        return FAILED if run_loop(store, day, 7, daily_stages(options), snapshot_stage(options)) else 0
    except LockedError:
        return REFUSED


if __name__ == "__main__":
    main()
