"""Commands of the other packages, run as processes: shown as they run, and known by their last line of error.

Decision: a process inherits what its parent holds open for it (`close_fds=False`; Python opens every other file closed
to children). So the loop's lock stays held as long as any process of the day lives, whoever was killed above it; and
a command that takes too long is ended with all that it started, or they would hold the lock for ever.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from subprocess import TimeoutExpired
from typing import BinaryIO, TextIO

from data.errors import UserError

TAIL = 8192  # bytes of standard error that are kept for its last line
LONGEST = 400  # characters of that line in an error's message; all of it was shown
USER_ERROR = 2  # exit code of data.errors.command
GRACE = 30.0  # seconds between being asked to end and being killed
DRAIN = 5  # seconds for the last of it, once the process has ended; a worker left behind may hold it open for longer
WORD = re.compile(r"\w")


class CommandError(UserError):
    """A command ended with an error: the message says which, how, and its last line of error."""


def module(name: str, *arguments: str) -> list[str]:
    """The command `python -m name arguments…`, with the Python that runs this."""
    return [sys.executable, "-m", name, *arguments]


def run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    longest: float | None = None,
    errors: TextIO | None = None,
) -> None:
    """Run `command` to its end, its output and errors shown as they come; `env` replaces the environment.

    Its standard error is shown on `errors`, by default this process's.

    Raises:
        CommandError: it cannot be started, its exit code is not 0, or it had not ended after `longest` seconds.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, close_fds=False, env=env)
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}") from error
    tail = bytearray()
    assert process.stderr is not None  # a pipe was asked for
    reader = threading.Thread(target=_show, args=(process.stderr, errors or sys.stderr, tail), daemon=True)
    reader.start()
    try:
        code = process.wait() if longest is None else process.wait(longest)
    except TimeoutExpired:
        end_all(process.pid)
        process.wait()
        raise CommandError(f"{_name(command)}: had not ended after {longest:,.0f} seconds, and was ended") from None
    except BaseException:
        process.terminate()  # the trainer saves and ends
        process.wait()
        raise
    reader.join(DRAIN)
    if code != 0:
        said = last_line(bytes(tail).decode(errors="replace")) or "said nothing"
        short = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
        raise CommandError(f"{_name(command)}: {short}{_how(code)}")


def end_all(pid: int) -> None:
    """End a process and all below it: those that have not ended `GRACE` seconds after SIGTERM are killed."""
    below = _tree(pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and any(_is_alive(one) for one in below):
            time.sleep(0.05)


def _tree(pid: int) -> list[int]:
    """`pid` and the processes below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(path.name)):
            parents[int(path.name)] = int(stat[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _is_alive(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def _stat(pid: int) -> list[str]:
    """What the system says of a process: its state, its parent and more; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def last_line(text: str) -> str:
    """The last line of `text` with a word, as a terminal would show it: what a progress bar overwrote is gone.

    Of a frame, which tyro draws around what it refuses, the first paragraph.
    """
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    if lines and lines[-1].startswith("╰"):
        above = list(takewhile(lambda line: not line.startswith("╭"), reversed(lines)))[::-1]
        inside = (line.strip("│ ") for line in above)
        return " ".join(takewhile(WORD.search, inside))
    return next((line.removeprefix("error: ") for line in reversed(lines) if WORD.search(line)), "")


def _how(code: int) -> str:
    """How a process ended that did not end well; its own word for it is enough where it is a user's error."""
    if code < 0:
        return f" (ended by {signal.Signals(-code).name})"
    return "" if code == USER_ERROR else f" (exit code {code})"


def _name(command: Sequence[str]) -> str:
    """What a person calls `command`: its module, or its program."""
    return command[2] if len(command) > 2 and command[1] == "-m" else command[0]


def _show(stream: BinaryIO, errors: TextIO, tail: bytearray) -> None:
    """Copy `stream` to `errors`, byte for byte whatever that one's encoding, and its end to `tail`."""
    with stream:
        while content := stream.read1(2**16):  # type: ignore[attr-defined]
            errors.flush()  # what was printed before comes before
            errors.buffer.write(content)
            errors.buffer.flush()
            tail += content
            del tail[:-TAIL]
