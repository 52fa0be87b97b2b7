"""Too small a device: XLA's RESOURCE_EXHAUSTED as one line that says which batch would fit.

What a step keeps for its backward pass grows with the windows that a device takes at once; parameters, optimizer state
and gradients do not. Both come from the compiled step's own plan where there is one, and the room from the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from data.errors import UserError
from jax_train.config import TrainConfig

EXHAUSTED = "RESOURCE_EXHAUSTED"
GIGABYTE = 1e9


@contextmanager
def memory_advice(config: TrainConfig, train_step: Any, state: Any, batch: Any) -> Iterator[None]:
    """Around a step: raises `UserError` with a batch size that fits where the device has no room for this one."""
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), (state, batch)
    )
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        raise UserError(too_small(config, train_step, *shapes)) from error


def too_small(config: TrainConfig, train_step: Any, state: Any, batch: Any) -> str:
    """What to do when a step does not fit."""
    devices = jax.device_count()
    windows = config.batch_size // devices // config.gradient_accumulation_steps  # at once, on a device
    room = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    fitting, needed = fitting_windows(train_step, state, batch, windows, room)
    has = f"{room / GIGABYTE:.1f} GB" if room else "too little memory"
    needs = f", the step needs {needed / GIGABYTE:.1f} GB" if needed else ""
    head = f"--batch-size {config.batch_size} does not fit: each device has {has}{needs}"
    tail = "--ema-decay 0 and --optimizer adafactor save memory too"
    if windows == 1 or fitting == 0:
        return f"{head}; even one window at a time is too much: take a smaller model or larger devices; {tail}"
    fitting = fitting or windows // 2
    parts = -(-config.batch_size // devices // fitting)
    while (config.batch_size // devices) % parts:
        parts += 1
    return f"{head}; --batch-size {fitting * devices} should fit, or --gradient-accumulation-steps {parts}; {tail}"


def fitting_windows(
    train_step: Any, state: Any, batch: Any, windows: int, room: int | None
) -> tuple[int | None, int | None]:
    """Windows at once that fit into `room` bytes, and the bytes that `windows` take; `None`: not known."""
    try:
        plan = train_step.lower(state, batch).compile().memory_analysis()
    except jax.errors.JaxRuntimeError:  # it may not even compile
        plan = None
    if plan is None:
        return None, None
    fixed = plan.argument_size_in_bytes
    gradients = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(state.params))
    growing = max(plan.temp_size_in_bytes - gradients, 1) / windows
    needed = fixed + plan.temp_size_in_bytes
    if room is None or needed <= room:  # it knows better than its plan
        return None, needed
    return max(0, int((room - fixed - gradients) / growing)), needed
