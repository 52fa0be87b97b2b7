"""SIGTERM and SIGINT as a wish to stop: the running step is finished and saved, and the program ends with 0.

Spot machines and schedulers send SIGTERM and leave some 30 s. While there is nothing to lose yet (loading, compiling:
one long call into XLA, in which Python handles no signal) the program ends at once. A second SIGINT interrupts.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CONTINUE = "run the same command again to continue"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 - no error
    """The run ended early because it was asked to; it can be continued."""


class BrokenOff(Exception):  # noqa: N818 - no error
    """Raised by the signal itself within `StopRequest.breakable`."""


class StopRequest:
    """Whether the program was asked to stop; a context manager of the main thread, that listens while it is entered."""

    def __init__(self, run: object) -> None:
        self.name = ""
        """The signal that asked; empty: none."""
        self._run = run
        self._nothing_to_lose, self._breakable = True, False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        alarm, self._bell = socket.socketpair()  # Python writes signals to the bell at once, even within C++
        self._bell.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        threading.Thread(target=self._listen, args=(alarm,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._nothing_to_lose = False
        self._bell.close()  # ends the listener

    def there_is_work_to_save(self) -> None:
        """From now on a signal waits for the end of the step."""
        self._nothing_to_lose = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """What runs within is broken off by a signal, as it can be done again."""
        self._breakable = True
        try:
            yield
        except BrokenOff:
            pass
        finally:
            self._breakable = False

    def stopped(self, step: int) -> "Stopped":
        """What to raise when the state after `step` is saved."""
        return Stopped(f"{self._run}: stopped by {self.name or 'another process'} after step {step}; {CONTINUE}")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._breakable:
            raise BrokenOff

    def _listen(self, alarm: socket.socket) -> None:
        with alarm:
            while received := alarm.recv(1):
                if received[0] in SIGNALS and self._nothing_to_lose:
                    print(f"{self._run}: stopped before a step was done; {CONTINUE}", flush=True)
                    os._exit(0)
