"""A training step and a decoder compiled for devices that are not there, by those devices' own compilers.

What `benchmarks/tpu.py` and `benchmarks/gpu.py` share. A compiler says whether a program compiles and fits, and the
program what it moves between chip and main memory (`program.py`); nothing is run. So these are no measurements: a step
takes at least its operations over the chip's peak and its bytes over the memory's bandwidth, whichever is more, and its
MFU is at most what follows from that.

Arms: ours, and the same step without the kernels of our own and cuDNN's attention, in XLA's plain operations.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.program import gigabytes_moved, operations
from benchmarks.result import result_line
from benchmarks.train import GB, PEAK, forward_flops
from data.errors import UserError
from data.log_mel import N_FRAMES
from jax_train import attention, precision
from jax_train.beam_search import beam_search
from jax_train.config import PUBLISHED, Lora, TrainConfig, WhisperConfig
from jax_train.decode import on_rows
from jax_train.decoding_rules import DecodingRules
from jax_train.device_memory import plan_of_step
from jax_train.greedy import greedy
from jax_train.layers import Remat
from jax_train.model import Whisper
from jax_train.optimizer import make_optimizer
from jax_train.precision import Type
from jax_train.sharding import WINDOWS, data_mesh
from jax_train.step import TrainState, make_train_step
from jax_train.train import initial_state
from jax_train.windows import Window

Arm = Literal["ours", "plain"]
LABELS_A_POSITION = 0.6  # of a packed window's label positions, those that have one
RULES = DecodingRules((50258, 50274, 50359, 50363), 50257, (220, 50257), (220, 50257), 444, 50362)
"""Of a multilingual Whisper, Italian; which tokens are suppressed makes no difference to a program."""


class Chip(NamedTuple):
    """Of the maker's data sheets; its peak is in `benchmarks.train`."""

    memory_gb: float
    gigabytes_per_second: float


@dataclasses.dataclass(frozen=True)
class Absent:
    """What is compiled."""

    model: str = "tiny"
    """Published size."""
    layers: int = 0
    """Layers of encoder and decoder each; 0: the model's own. A step of few compiles sooner."""
    batch_size: int = 16
    """Windows a step on each chip."""
    labels: int = 256
    """Label positions of a window; packed windows of Common Voice have about so many."""
    remat: Remat = "none"
    fsdp: int = 1
    chips: int = 1
    """That train together."""
    arms: tuple[Arm, ...] = ("ours", "plain")
    num_beams: int = 0
    """Not a step but decoding, with so many beams; 1: greedy."""

    def __post_init__(self) -> None:
        if self.model not in PUBLISHED:
            raise UserError(f"--model {self.model}: there are {', '.join(PUBLISHED)}")
        if min(self.batch_size, self.labels, self.chips) < 1:
            raise UserError("--batch-size, --labels, --chips: at least 1 each")

    @property
    def size(self) -> WhisperConfig:
        """The model's architecture."""
        published = PUBLISHED[self.model]
        both = {"encoder_layers": self.layers, "decoder_layers": self.layers} if self.layers else {}
        return dataclasses.replace(published, **both)

    def settings(self, dtype: Type, lora: Lora | None = None) -> TrainConfig:
        """The run's, that would train so."""
        windows, lora = self.batch_size * self.chips, lora or Lora(rank=0)
        return TrainConfig(Path(), Path(), batch_size=windows, compute_dtype=dtype, fsdp=self.fsdp, lora=lora)


@contextlib.contextmanager
def as_if_here(devices: list[Any]) -> Iterator[None]:
    """The devices are those of this process, for whatever asks."""
    backend = devices[0].platform
    with mock.patch.multiple(jax, default_backend=lambda: backend, devices=lambda *_: devices):
        yield


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """No kernels but XLA's, on GPUs as on TPUs."""
    with (
        mock.patch.object(attention, "has_tpu_attention", return_value=False),
        mock.patch.object(precision, "compute_capability", return_value=0.0),
    ):
        yield


def abstract_step(config: Absent, mesh: Mesh, settings: TrainConfig) -> tuple[Any, TrainState, Window]:
    """The training step, and what it takes: shapes that lie on the mesh."""
    optimizer = make_optimizer(settings, lambda _: jnp.float32(1e-5))
    model = nnx.eval_shape(lambda: Whisper(config.size, jnp.dtype(settings.compute_dtype), remat=config.remat))
    state, build = initial_state(model, optimizer, mesh, settings)
    like = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, WINDOWS))
    frames, tokens = (settings.batch_size, N_FRAMES), (settings.batch_size, config.labels)
    log_mel = like((*frames, config.size.num_mel_bins), jnp.uint8)
    batch = Window(log_mel, like(frames, jnp.float32), like(tokens, jnp.int32), like(tokens, jnp.int32))
    return make_train_step(build, optimizer, mesh, settings), state, batch


def compiled(config: Absent, settings: TrainConfig, devices: list[Any], chip: Chip, arm: Arm) -> dict[str, float]:
    """What the compiler says of a step, for each chip."""
    with as_if_here(devices), without_kernels() if arm == "plain" else contextlib.nullcontext():
        step, state, batch = abstract_step(config, data_mesh(devices, config.fsdp), settings)
        on_paper = plan_of_step(settings, config.size, config.labels, config.remat, devices[0], config.chips).total / GB
        started = time.perf_counter()
        program = step.lower(state, batch).compile()
        seconds = time.perf_counter() - started
    plan, text = program.memory_analysis(), program.as_text()
    moved = gigabytes_moved(text)
    flops = 3 * config.batch_size * forward_flops(config.size, config.labels * LABELS_A_POSITION)
    by_memory = moved / chip.gigabytes_per_second
    by_products = flops / next(peak for name, peak in PEAK.items() if name in devices[0].device_kind)
    return {
        "compile_seconds": seconds,
        "memory_gb": (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / GB,
        "memory_on_paper_gb": on_paper,
        "memory_of_chip_gb": chip.memory_gb,
        "gigabytes_moved": moved,
        "operations": operations(text),
        "seconds_by_memory": by_memory,
        "seconds_by_products": by_products,
        "mfu_at_most": by_products / max(by_memory, by_products),
    }


def decoder(config: Absent, devices: list[Any], dtype: str) -> dict[str, float]:
    """What the compiler says of decoding windows of 30 s, of each chip."""
    mesh = Mesh(np.asarray(devices), ("data",))
    search = functools.partial(beam_search, num_beams=config.num_beams) if config.num_beams > 1 else greedy
    with as_if_here(devices):
        graph, state = nnx.split(nnx.eval_shape(lambda: Whisper(config.size, jnp.dtype(dtype))))
        lies = NamedSharding(mesh, PartitionSpec())
        state = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, dtype, sharding=lies), state)
        shape = (config.batch_size * len(devices), N_FRAMES, config.size.num_mel_bins)
        windows = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
        started = time.perf_counter()
        program = on_rows(functools.partial(search, rules=RULES), graph, mesh)
        plan = program.lower(state, windows).compile().memory_analysis()
    assert plan, "these compilers always have one"
    memory = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / GB
    return {"compile_seconds": time.perf_counter() - started, "memory_gb": memory}


def report(name: str, config: Absent, settings: TrainConfig, devices: list[Any], chip: Chip) -> None:
    """Print what is asked for, of devices of one kind."""
    kind, dtype = f"{config.chips} × {devices[0].device_kind}", settings.compute_dtype
    if config.num_beams:
        figures = decoder(config, devices, dtype)
        print(f"decoding, {config.model}, {config.batch_size} windows a chip, compiled for {kind}: {figures}")
        print(result_line(f"{name}: decoding", "GB", figures["memory_gb"], None, more={"device": kind, **figures}))
        return
    arms = {arm: compiled(config, settings, devices, chip, arm) for arm in config.arms}
    print(f"{config.model}, {config.batch_size} windows a chip, {dtype}, compiled for {kind}; nothing was run")
    for row in next(iter(arms.values())):
        print(f"  {row:20}" + "".join(f"  {arm} {figures[row]:9.4g}" for arm, figures in arms.items()))
    ours, plain = (arms[arm]["gigabytes_moved"] if arm in arms else None for arm in ("ours", "plain"))
    more = {"device": kind, "arms": arms}
    print(result_line(name, "GB moved a step", ours or 0.0, plain, less_is_better=True, more=more))
