"""Which stages of a day are done: `STORE/loop/DAY.json`, written anew before and after each stage.

Decision: this file decides only what a run need not try again; what a day's results are, the stages know themselves,
and a stage that finds its result does nothing. So a crash between a stage's end and this file's writing costs a look,
and a lost file costs a look a stage.

    {"format": 1, "day": "2026-11-23", "stages": {"features": {"state": "done", "attempts": 1, "seconds": 41.3,
     "at": "2026-11-23T03:17:42+00:00", "error": ""}, …}}
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args

from upath import UPath

from data.errors import UserError
from data.storage import write_text, writing_to

FORMAT = 1
State = Literal["started", "done", "failed", "waiting"]


@dataclass(frozen=True)
class StageState:
    """How a stage of a day stands."""

    state: State
    """`started` by a run that is at it or was killed; `waiting` for a stage that it needs and that is not done."""
    attempts: int = 0
    """Times it was started."""
    seconds: float = 0.0
    """The last attempt took."""
    at: str = ""
    """When this state began, UTC."""
    error: str = ""
    """The last line of error of a failed one; of a waiting one what it waits for."""


@dataclass(frozen=True)
class DayProgress:
    """A day and how its stages stand; a stage that no run came to is not in it."""

    day: str
    """ISO."""
    stages: Mapping[str, StageState] = field(default_factory=dict)

    def done(self, stage: str) -> bool:
        """Whether the stage need not run again."""
        return stage in self.stages and self.stages[stage].state == "done"

    def failed(self, stage: str) -> bool:
        """Whether its last attempt ended with an error."""
        return stage in self.stages and self.stages[stage].state == "failed"

    def attempts(self, stage: str) -> int:
        return self.stages[stage].attempts if stage in self.stages else 0

    def note(self, stage: str, state: State, seconds: float = 0.0, error: str = "") -> "DayProgress":
        """The day with `stage` in another state, from now on."""
        attempts = self.attempts(stage) + (state == "started")
        at = datetime.now(UTC).isoformat(timespec="seconds")
        found = StageState(state, attempts, round(seconds, 1), at, error)
        return replace(self, stages={**self.stages, stage: found})


def progress_file(store: Path, day: str) -> Path:
    return store / "loop" / f"{day}.json"


def days_begun(store: Path) -> list[str]:
    """The days that a run came to, oldest first."""
    return sorted(path.stem for path in (store / "loop").glob("????-??-??.json"))


def read_progress(store: Path, day: str) -> DayProgress:
    """How `day` stands; nothing is done on a day without a file."""
    path = progress_file(store, day)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stages = {name: StageState(**values) for name, values in content["stages"].items()}
        known = content["format"] == FORMAT and all(stage.state in get_args(State) for stage in stages.values())
    except FileNotFoundError:
        return DayProgress(day)
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{path} is not what a run writes: delete it; the day's stages find their results themselves")
    return DayProgress(day, stages)


def write_progress(store: Path, progress: DayProgress) -> None:
    """Write how a day stands, in one step, and down to the disk."""
    path = progress_file(store, progress.day)
    stages = {name: asdict(stage) for name, stage in progress.stages.items()}
    content = {"format": FORMAT, "day": progress.day, "stages": stages}
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(UPath(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def window(store: Path, today: str, catch_up: int) -> list[str]:
    """Today and the `catch_up` days before it, oldest first, but none before the first day that a run came to."""
    first, last = min([*days_begun(store), today]), date.fromisoformat(today)
    most = min(catch_up, last.toordinal() - 1)  # the calendar begins with the year 1
    days = ((last - timedelta(back)).isoformat() for back in range(most + 1))
    return list(takewhile(lambda day: day >= first, days))[::-1]
