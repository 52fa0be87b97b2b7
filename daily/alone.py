"""A command of the loop that a person runs by itself: under the loop's lock, and known to the loop when it is done.

Decision: what the loop starts has the lock from it and takes none. A stage that mends what a run could not do is noted
in that day's progress, so that the monitor no longer tells of it, also of a day that the loop no longer tries.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daily.day_progress import read_progress, write_progress
from daily.leftovers import sweep
from daily.lock import is_inherited, locked
from daily.store import open_store, parse_day


@contextmanager
def alone(store: Path, stage: str = "", day: str = "") -> Iterator[None]:
    """The store's lock for the block, if the loop has not given it; what is done then is noted for `stage` of `day`.

    Raises:
        LockedError: a run, or another command, is at work on the store.
        UserError: `day` is no day, or `store` no store; nothing was written there then.
    """
    day = parse_day(day)
    if is_inherited(store):
        yield
        return
    open_store(store)
    with locked(store):
        sweep(store)
        yield
        if stage:
            _note(store, stage, day)


def _note(store: Path, stage: str, day: str) -> None:
    """Note the stage as done, if a run came to that day and did not do it."""
    progress = read_progress(store, day)
    if stage in progress.stages and not progress.done(stage):
        os.sync()
        write_progress(store, progress.note(stage, "done"))
