"""When a run saves: by steps, by minutes, and when it evaluates or stops; and what a failure to write means.

Rows of metrics.jsonl up to a step are on the disk before its checkpoint, so that a resumed run's curve has no hole.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import absl.logging
import jax

from data.errors import UserError
from jax_train.checkpoints import Checkpoints, SaveError
from jax_train.config import TrainConfig
from jax_train.runlog import METRICS, RunLog
from jax_train.step import TrainState

NOBODY_WAITS = "Event loop is closed"


def failures_in_a_line() -> None:
    """Have a failed write said by us alone.

    Orbax logs its traceback three times, and leaves tasks whose failures asyncio prints at the end, and TensorStore by
    the hundred: nobody waits for them any more.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == NOBODY_WAITS else shown(found)


class Saving:
    """Which steps are saved, and what happens when the disk does not take one."""

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints, log: RunLog, first: int) -> None:
        self._config, self._checkpoints, self._log = config, checkpoints, log
        self._saved, self._time = first, time.monotonic()

    def wish(self) -> int:
        """0; or, once `--save-minutes` have passed since a checkpoint, its step + 1: heard late, it asks for none."""
        minutes = self._config.save_minutes
        return self._saved + 1 if minutes and time.monotonic() - self._time >= 60 * minutes else 0

    def save_if_due(
        self,
        state: TrainState,
        data: Any,
        step: int,
        always: bool,
        wished: int = 0,
        first_of_all: Callable[[], None] = lambda: None,
    ) -> None:
        """Save the state after `step` and the data's place if steps or a process's `wish` ask for it, or `always`.

        `first_of_all` is called before that, and may raise: what is saved has been looked at.

        Raises:
            UserError: a checkpoint could not be written, and the run is to stop then.
        """
        with self._failing():
            self._checkpoints.wait(only_if_done=True)
        if step == self._saved:
            return
        if always or wished > self._saved or step % self._config.save_steps == 0:
            first_of_all()
            self._saved, self._time = step, time.monotonic()
            with self._failing():
                self._rows_to_disk()
            self.wait()
            with self._failing():
                self._checkpoints.save(state, data.get_state(), self._log.wer)

    @contextmanager
    def in_any_case(self, state: TrainState, data: Any, step: int) -> Iterator[None]:
        """Save the state also where what is done before raises `UserError`; alone, as other processes may not know."""
        try:
            yield
        except UserError:
            if jax.process_count() == 1:
                self.save_if_due(state, data, step, always=True)
                self.wait()
            raise

    def wait(self) -> None:
        """Wait for the last checkpoint. Raises `UserError` as `save_if_due`."""
        with self._failing():
            self._checkpoints.wait()

    def _rows_to_disk(self) -> None:
        try:
            self._log.to_disk()
        except OSError as error:
            raise SaveError(f"{METRICS} could not be forced to the disk: {error.strerror}") from error

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except SaveError as failed:
            if self._config.on_save_failure == "stop":
                raise UserError(f"{failed}; make room, then run the same command again to continue") from failed
            self._log.say(f"warning: {failed}; training goes on (--on-save-failure continue)")
