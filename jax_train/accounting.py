"""What a finished step comes to: it is counted, or left out because its loss is no number, or the run ends there.

In float16 a step whose gradients overflow is left out by itself, as the scale of the loss was too large for it; not so
one whose loss is no number, nor one overflow after another, which no scale can mend.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax

from data.errors import UserError
from jax_train.batches import RunPlan
from jax_train.config import TrainConfig
from jax_train.runlog import RunLog
from jax_train.step import Metrics, TrainState

MOST_OVERFLOWS = 40  # in a row: by then the scale has been 1 for many


class Given(NamedTuple):
    """A step that the devices were given."""

    step: int
    """Steps before it."""
    metrics: Metrics
    """On their way: reading them waits."""
    waited: float
    """Seconds that the step waited for data."""


class Accounting:
    """Looks at a run's steps in their order.

    The schedule of `rates` does not count steps that are left out; `left_out` were before the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        plan: RunPlan,
        index: Mapping[str, np.ndarray],
        rates: np.ndarray,
        log: RunLog,
        left_out: int,
    ) -> None:
        self._config, self._plan, self._index, self._rates, self._log = config, plan, index, rates, log
        self._left_out, self._overflows = left_out, 0

    def count(self, given: Given) -> None:
        """Wait for a step, look at it and log it. Raises `UserError` where the run has to stop."""
        metrics = jax.device_get(given.metrics)
        values = {name: float(value) for name, value in metrics._asdict().items()}
        values["learning_rate"] = float(self._rates[given.step - self._left_out])
        self._left_out += int(metrics.skipped)
        rows = self._plan.rows_of_step(given.step)
        clip_ids = [str(clip) for clip in self._index["id"][rows]]
        done = given.step + 1
        if not self._overflowed(values):
            if not is_finite(values) and self._log.skipped < self._config.skip_non_finite:
                self._log.skip(done, values, clip_ids)
                return
            check_finite(done, values, clip_ids)
        written = done == self._plan.steps or done % self._config.log_steps == 0
        self._log.step(done, values, float(self._index["seconds"][rows].sum()), given.waited, write=written)

    def _overflowed(self, values: Mapping[str, float]) -> bool:
        """Whether the step was left out for its loss's scale alone, which is no fault of the clips."""
        half = self._config.compute_dtype == "float16"
        over = half and bool(values["skipped"]) and math.isfinite(values["loss"])
        self._overflows = self._overflows + 1 if over else 0
        return over and self._overflows <= MOST_OVERFLOWS


def steps_left_out(state: TrainState) -> int:
    """Of a state's steps those that moved nothing: what its optimizer did not count."""
    counts = optax.tree.get_all_with_path(state.opt_state, "count")
    return int(state.step) - max((int(count) for _, count in counts), default=int(state.step))


def is_finite(values: Mapping[str, float]) -> bool:
    """Whether a step's loss and gradient are numbers."""
    return math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])


def check_finite(step: int, values: Mapping[str, float], clip_ids: list[str]) -> None:
    """Stop at a loss or gradient that is no number: raises `UserError` with step, learning rate and clips."""
    if not is_finite(values):
        raise UserError(
            f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']} at learning rate "
            f"{values['learning_rate']:.3g}, clips {', '.join(clip_ids)}; lower --learning-rate, leave these clips "
            "out, or allow --skip-non-finite steps; the run continues from its newest checkpoint"
        )
