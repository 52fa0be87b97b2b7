"""A run's settings as its folder has them, and the folder as one process's alone."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import UserError

SETTINGS = "config.json"
LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)


def read_settings(run: Path) -> dict[str, Any]:
    """RUN's settings; none where there is no run yet. Raises `UserError` for a config.json that is no run's."""
    path = run / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:  # no JSON, or no text
        raise UserError(f"{path}: cannot be read ({error}); put the run's own back, or give another RUN") from error
    if not isinstance(found, dict) or "shards" not in found:
        raise UserError(f"{path}: not a run's settings; give another RUN")
    return found


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """RUN's folder, made if need be, as this process's alone, where its file system knows locks.

    Decision: a POSIX record lock, as it ends with the process and is not handed on to those that it starts.

    Raises:
        UserError: another process trains in it, or nothing can be written there.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{run}: cannot be written to ({error.strerror}); give another RUN") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            os.close(file)
            raise UserError(f"{run}: is being trained already; wait for its end, or give another RUN") from error
    try:
        yield
    finally:
        with suppress(OSError):
            if [path.name for path in run.iterdir()] == [LOCK]:  # nothing came of it
                (run / LOCK).unlink()
                run.rmdir()
        os.close(file)
