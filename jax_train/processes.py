"""Several processes as one run, each with its own devices: each takes its columns of the same global batches.

Checkpoints are written by all of them; logs, settings and messages by the first.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from data.errors import UserError
from jax_train.config import TrainConfig


def join_processes(config: TrainConfig) -> None:
    """Join the run's other processes, before JAX looks for devices. Raises `UserError` if they cannot be reached."""
    if not config.coordinator:
        return
    try:
        if config.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(config.coordinator, config.processes, config.process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--coordinator {config.coordinator}: cannot join ({reason}); start all processes with the same "
            "coordinator, HOST:PORT of the first, and --process 0, 1, …"
        ) from error


def in_any_process(flag: bool) -> bool:
    """Whether `flag` is true in one process of the run: a checkpoint is written by all of them, at the same step."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def whole(array: jax.Array) -> jax.Array:
    """An array that lies on the devices of all processes, as one of this process alone."""
    if array.is_fully_addressable:
        return array
    if array.is_fully_replicated:
        return array.addressable_data(0)
    return jax.numpy.asarray(multihost_utils.process_allgather(array, tiled=True))
