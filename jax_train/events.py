"""Files that grow while a run goes on, in whole pieces or not at all; TensorBoard's events among them.

Decision: events are written at once, by the thread that has them, in `data.tfrecord`'s framing. tensorboardX's writer
hands them over a queue of ten to a thread, which a full disk ends, and then the eleventh waits for ever.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.tfrecord import frame

VERSION = "brain.Event:2"  # what TensorBoard wants in a file's first event


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """A module that is not imported yet cannot be meanwhile, as if it were not installed."""
    absent = sys.modules.setdefault(module, None) is None  # type: ignore[arg-type]
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]


class Appended:
    """A file that grows piece by piece. Its methods raise `OSError`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, piece: bytes) -> None:
        """Append the piece; where the disk does not take all of it, the file is as before."""
        size = os.fstat(self._file.fileno()).st_size
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(size)
            raise

    def sync(self) -> None:
        """Force it through to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is written after this."""
        self._file.close()


class Events:
    """TensorBoard's events of a run from step `first` on, in a new file in `folder`. Its methods raise `OSError`.

    What earlier files hold of later steps, which were not saved, TensorBoard then leaves out.
    """

    def __init__(self, folder: Path, first: int) -> None:
        with hidden("torch"):  # which tensorboardX would import for what is not used here: seconds
            from tensorboardX import summary
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        self._event, self._summary = Event, summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = Appended(folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}")
        self._add(Event(file_version=VERSION))
        self._add(Event(step=first + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by tag."""
        found = self._summary.Summary()
        for tag, value in values.items():
            found.value.add(tag=tag, simple_value=value)
        self._add(self._event(step=step, summary=found))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Words under a tag."""
        self._add(self._event(step=step, summary=self._summary.text(tag, markdown)))

    def close(self) -> None:
        """Nothing is written after this."""
        self._file.close()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write(frame(event.SerializeToString()))
