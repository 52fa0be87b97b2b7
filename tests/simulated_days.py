"""Sixty days of the loop with crashes: `python -m tests.simulated_days STORE`, by tests/test_daily_simulation.py.

The first run of a day is a fork that ends by SIGKILL before its N-th change to the store or start of a process: N
from 1 on, a day each, until there is no N-th; from then on a drawn one. The second run loses a stage to SIGKILL, or is
killed by a stage that then lives on: before each change that a stage makes. Then the day is finished; in the later
weeks some are left as they are to the next, and on some the machine is off. Prints what struck.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from daily.day_progress import read_progress
from daily.lock import LockedError, locked
from daily.loop import Stage, StageOptions, daily_stages, run_loop, snapshot_stage

DAYS = 60
FIRST = date(2026, 11, 23)
SCRIPT = Path(__file__).with_name("scripted_stage.py")
CHANGES = ("os.mkdir", "os.rename", "fcntl.flock", "subprocess.Popen")
REFUSED, FAILED = 3, 4  # exit codes: another run is going on, stages failed
STAGE_CHANGES = {"features": 3, "inference": 3, "confidence": 3, "training": 6, "snapshot": 3}
"""How often each scripted stage changes the store."""
CASES = [
    f"{name}:{who}:{number}"
    for name, count in STAGE_CHANGES.items()
    for number in range(1, count + 1)
    for who in ("self", "loop")
]


def scripted(stage: Stage) -> Stage:
    """The real stage, with the scripted one's command."""
    return replace(stage, command=(sys.executable, "-I", "-S", str(SCRIPT), stage.name))


STAGES = tuple(scripted(stage) for stage in daily_stages(StageOptions()))
LAST = scripted(snapshot_stage(StageOptions()))


def main() -> None:
    store = Path(sys.argv[1])
    days = [(FIRST + timedelta(number)).isoformat() for number in range(DAYS)]
    moments = random.Random(7)
    struck: dict[str, Any] = {"loop": [], "stages": [], "refused": 0}
    changes = 0  # that a run of a day makes; 0: not known yet
    written: dict[Path, bytes] = {}
    for number, day in enumerate(days):
        if changes and number % 9 == 8:
            continue  # the machine was off
        strike = moments.randint(1, changes) if changes else len(struck["loop"]) + 1
        if start(store, day, strike) == -signal.SIGKILL:
            struck["loop"].append(strike)
        else:
            changes = changes or strike - 1
        progress = read_progress(store, day)
        open_cases = [case for case in CASES if not progress.done(case.split(":")[0])]
        case = next((case for case in open_cases if case not in struck["stages"]), "")
        strike_stage(store, day, case, struck)
        if not (changes and number % 4 == 3) or day == days[-1]:
            finish(store, day)
        check_unchanged(store, written)
    print(json.dumps({**struck, "changes": changes}))


def strike_stage(store: Path, day: str, case: str, struck: dict[str, Any]) -> None:
    """A run that meets `case`: the stage is killed, and noted as failed; or it lives on without its loop."""
    for name in ("go", "struck"):
        (store / name).unlink(missing_ok=True)
    code = start(store, day, STRIKE=case)
    if not (store / "struck").exists():
        return  # it makes no such change on this day
    struck["stages"].append(case)
    if code == -signal.SIGKILL:
        struck["refused"] += start(store, day) == REFUSED
        (store / "go").touch()
        wait_for_lock(store)
    elif code != FAILED:
        sys.exit(f"{day}: a run that lost a stage to {case} ended with {code}")


def check_unchanged(store: Path, written: dict[Path, bytes]) -> None:
    """End the program if a day's file is not what it was when it appeared; take note of new ones."""
    for table in ("features", "predictions"):
        for path in (store / table).glob("[!.]*"):
            if written.setdefault(path, path.read_bytes()) != path.read_bytes():
                sys.exit(f"{path} was written again")


def finish(store: Path, day: str) -> None:
    if code := start(store, day):
        sys.exit(f"{day}: a run that nothing struck ended with {code}")


def wait_for_lock(store: Path) -> None:
    """Return once the stage that was left behind has ended."""
    while True:
        with contextlib.suppress(LockedError), locked(store):
            return
        time.sleep(0.005)


def start(store: Path, day: str, strike: int = 0, **environment: str) -> int:
    """The exit code of a run of the loop in a fork, −9 if it was killed before its change number `strike`."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.environ.update(environment)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        if strike:
            strike_at(strike)
        code = FAILED if run_loop(store, day, 7, STAGES, LAST) else 0
    except LockedError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def strike_at(number: int) -> None:
    """End this process before its change `number` to the store."""
    changes = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)


if __name__ == "__main__":
    main()
