"""The lock that keeps two runs of the loop apart.

Decision: an advisory lock of the operating system on a file that stays (`flock`). It ends with the processes that hold
it, so no crash leaves one behind; and it is handed on to the stages (daily/commands.py), so a stage that outlives its
killed loop keeps the next run out until it too has ended. Which of its open files the lock is, a stage reads in its
environment. It holds on one machine; on schedulers with machines of their own one run at a time is the scheduler's
business (docs/operations.md).
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from data.errors import UserError
from data.storage import writing_to

LOCK = "loop.lock"
INHERITED = "SUSSURRO_LOOP_LOCK"  # in the environment: the number of the open file that is the lock


class LockedError(UserError):
    """Another run holds the lock: the message says which, and since when."""


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """The lock of the folder `store`, which must exist, for the block and for every process that it starts.

    Raises:
        LockedError: it is held, by another run or by a stage that one left behind.
        UserError: its file cannot be written, as in another user's store.
    """
    path = store / LOCK
    with writing_to(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{path} is held by {_holder(file)}: wait for its end, and run this again") from None
        os.set_inheritable(file, True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"process": os.getpid(), "since": now}).encode(), 0)
        os.environ[INHERITED] = str(file)
        try:
            yield
        finally:
            os.environ.pop(INHERITED, None)
    finally:
        os.close(file)


def is_inherited(store: Path) -> bool:
    """Whether this process was given the open lock of the folder `store` by the one that started it."""
    try:
        return os.path.samestat(os.fstat(int(os.environ.get(INHERITED, ""))), (store / LOCK).stat())
    except (ValueError, OSError):
        return False


def _holder(file: int) -> str:
    """Who wrote the open lock `file`; nobody has yet if it was taken just now."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return f"the run of process {found['process']}, or a stage of it, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another run"
