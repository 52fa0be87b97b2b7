"""Too small a device: XLA's RESOURCE_EXHAUSTED as one line that says which batch would fit.

What a step keeps for its backward pass grows with the windows that a device takes at once; parameters, optimizer state
and gradients do not. Both come from the compiled step's own plan where there is one, and the room from the device.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import jax
import jax.numpy as jnp

from data.errors import UserError
from jax_train.config import TrainConfig, WhisperConfig
from jax_train.gathering import gathered_bytes
from jax_train.layers import Remat
from jax_train.memory_plan import MemoryPlan, memory_plan
from jax_train.optimizer import make_optimizer, trained
from jax_train.precision import fuses_attention
from jax_train.processes import of_all_processes

EXHAUSTED = "RESOURCE_EXHAUSTED"
GIGABYTE = 1e9


@contextmanager
def memory_advice(config: TrainConfig, train_step: Any, state: Any, batch: Any) -> Iterator[None]:
    """Around a step: raises `UserError` with a batch size that fits where the device has no room for this one."""
    with _exhausted(lambda: too_small(config, train_step, *jax.tree.map(_shape, (state, batch)))):
        yield


@contextmanager
def state_advice(config: TrainConfig) -> Iterator[None]:
    """Around the first placing of a run's state: raises `UserError` with what to lower where it has no room."""
    with _exhausted(lambda: no_room_for_state(config)):
        yield


@contextmanager
def evaluation_advice(config: TrainConfig) -> Iterator[None]:
    """Around an evaluation while training: raises `UserError` with a smaller batch where there is no room for it."""
    with _exhausted(lambda: no_room_for_evaluation(config)):
        yield


@contextmanager
def _exhausted(advice: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        raise UserError(advice()) from error


def _shape(array: jax.Array) -> jax.ShapeDtypeStruct:
    """What is known of an array also when a step has consumed it."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def no_room_for_state(config: TrainConfig) -> str:
    """What to do when parameters and optimizer state alone do not fit."""
    saving = [
        ("--ema-decay 0", config.ema_decay > 0),
        ("--optimizer adafactor", config.optimizer == "adamw" and not config.lora.rank),
        ("--lora.rank 32", not config.lora.rank),
        ("--lora.frozen-dtype bfloat16 (float16 on a T4)", config.lora.rank and config.lora.frozen_dtype == "float32"),
        (f"--fsdp {jax.device_count()}", config.fsdp < jax.device_count()),
    ]
    options = ", ".join(option for option, saves in saving if saves)
    return (
        f"{config.model}: parameters and optimizer state do not fit, before any step: each device has {_room_said()}; "
        + (f"{options} take less, or " if options else "")
        + "take a smaller model or larger devices"
    )


def no_room_for_evaluation(config: TrainConfig) -> str:
    """What to do when an evaluation does not fit beside what training keeps."""
    size = config.eval_batch_size
    head = f"--eval-batch-size {size} does not fit beside the run's state: each device has {_room_said()}"
    if size == 1:
        return f"{head}; take larger devices, or another RUN without --eval-split and `make evaluate` after it"
    return f"{head}; give --eval-batch-size {size // 2}: the same command continues from the newest checkpoint"


def remat_that_fits(config: TrainConfig, model: WhisperConfig, tokens: int) -> Remat:
    """What `--remat` says; for auto the least with which a device's windows of `tokens` labels fit it on paper."""
    if config.remat != "auto":
        return config.remat
    room = of_all_processes(_room() or 0).min()  # all of them run the same program
    if not room:
        return "none"
    for remat in get_args(Remat):
        if plan_of_step(config, model, tokens, remat, jax.local_devices()[0], jax.device_count()).total <= room:
            break
    if remat != "none" and not jax.process_index():
        print(f"--remat {remat}: with less the step would not fit {room / GIGABYTE:.1f} GB, on paper")
    return remat


def plan_of_step(
    config: TrainConfig, model: WhisperConfig, tokens: int, remat: Remat, device: Any, devices: int
) -> MemoryPlan:
    """What a run's step of windows of `tokens` labels takes of each of so many devices like `device`, on paper."""
    lora = config.lora if config.lora.rank else None
    assert config.compute_dtype != "auto", "decided before"
    head_size = model.d_model // model.encoder_attention_heads
    return memory_plan(
        model,
        lora=lora,
        batch_size=config.batch_size // devices // config.gradient_accumulation_steps,
        tokens=tokens,
        weights_dtype=lora.frozen_dtype if lora else "float32",
        compute_dtype=config.compute_dtype,
        remat=remat,
        fused_attention=fuses_attention(device, config.compute_dtype, head_size) and not config.attention_dropout,
        fsdp=config.fsdp,
        freeze=config.freeze,
        optimizer=make_optimizer(config, lambda _: jnp.float32(0)),
        averages=config.ema_decay > 0,
    )


def _room() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _room_said() -> str:
    room = _room()
    return f"{room / GIGABYTE:.1f} GB" if room else "too little memory"


def too_small(config: TrainConfig, train_step: Any, state: Any, batch: Any) -> str:
    """What to do when a step does not fit."""
    devices = jax.device_count()
    windows = config.batch_size // devices // config.gradient_accumulation_steps  # at once, on a device
    constant = constant_bytes(state, config.freeze, config.compute_dtype)
    fitting, needed = fitting_windows(train_step, state, batch, windows, _room(), constant)
    needs = f", the step needs {needed / GIGABYTE:.1f} GB" if needed else ""
    head = f"--batch-size {config.batch_size} does not fit: each device has {_room_said()}{needs}"
    tail = "--ema-decay 0, --optimizer adafactor and --remat layers save memory too"
    if windows == 1 or fitting == 0:
        return f"{head}; even one window at a time is too much: take a smaller model or larger devices; {tail}"
    fitting = fitting or windows // 2
    parts = -(-config.batch_size // devices // fitting)
    while (config.batch_size // devices) % parts:
        parts += 1
    return f"{head}; --batch-size {fitting * devices} should fit, or --gradient-accumulation-steps {parts}; {tail}"


def constant_bytes(state: Any, freeze: tuple[str, ...], compute_dtype: str) -> int:
    """Bytes on a device, beside its arguments, that a step takes for any number of windows.

    They are the device's own part of the gradients, and where parameters are split (`--fsdp`) those gathered.
    """
    gradients = sum(map(_on_device, trained(state.params, freeze).values()))
    split = {n: x for n, x in (state.params | state.buffers).items() if _on_device(x) < _whole(x)}
    return gradients + gathered_bytes(split, jnp.dtype(compute_dtype).itemsize)


def _whole(array: Any) -> int:
    return int(math.prod(array.shape)) * int(array.dtype.itemsize)


def _on_device(array: Any) -> int:
    if array.sharding is None:
        return _whole(array)
    return int(math.prod(array.sharding.shard_shape(array.shape))) * int(array.dtype.itemsize)


def fitting_windows(
    train_step: Any, state: Any, batch: Any, windows: int, room: int | None, constant: int
) -> tuple[int | None, int | None]:
    """Windows at once that fit into `room` bytes, and the bytes that `windows` take; `None`: not known.

    `constant` of the step's temporary bytes do not grow with the windows. All are those of one device.
    """
    try:
        plan = train_step.lower(state, batch).compile().memory_analysis()
    except jax.errors.JaxRuntimeError:  # it may not even compile
        plan = None
    if plan is None:
        return None, None
    fixed = plan.argument_size_in_bytes
    growing = max(plan.temp_size_in_bytes - constant, 1) / windows
    needed = fixed + plan.temp_size_in_bytes
    if room is None or needed <= room:  # it knows better than its plan
        return None, needed
    return max(0, int((room - fixed - constant) / growing)), needed
