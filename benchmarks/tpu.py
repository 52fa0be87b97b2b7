"""What a TPU's own compiler makes of our training step, on any machine: memory, traffic, its attention's cycles.

`libtpu`, which `make bench-tpu` fetches from PyPI, compiles for TPUs that are not there. It says whether the step
compiles and fits, what it moves between chip and main memory (`tpu_program.py`), and a kernel's schedule; it runs
nothing. So these are no measurements of a TPU: a step takes at least its operations over the chip's peak and its bytes
over the memory's bandwidth, whichever is more, and its MFU is at most what follows from that.

Arms: ours, and the same step with attention in XLA's plain operations, as it is where `tpu_attention` is not. With
`--schedule` the kernels of an encoder layer's attention alone: instructions that are issued, one a cycle, and the share
of the chip's matrix units in use meanwhile. With `--num-beams` the decoder of `make evaluate`.

    make bench-tpu [ARGS="--model base --batch-size 32 --topology v5e:2x4 --chips 8"]
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.result import result_line
from benchmarks.tpu_program import gigabytes_moved, schedule
from benchmarks.train import GB, PEAK, forward_flops
from data.errors import UserError, command
from data.log_mel import N_FRAMES
from jax_train import attention
from jax_train.beam_search import beam_search
from jax_train.config import PUBLISHED, TrainConfig, WhisperConfig
from jax_train.decode import on_rows
from jax_train.decoding_rules import DecodingRules
from jax_train.greedy import greedy
from jax_train.layers import Remat
from jax_train.model import Whisper, functional
from jax_train.optimizer import make_optimizer, trained
from jax_train.sharding import WINDOWS, data_mesh, shardings
from jax_train.step import TrainState, make_train_step
from jax_train.windows import Window

Arm = Literal["ours", "plain"]
LABELS_A_POSITION = 0.6  # of a packed window's label positions, those that have one
WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""So that libtpu asks no machine of Google's about itself, and several may compile at once."""
RULES = DecodingRules((50258, 50274, 50359, 50363), 50257, (220, 50257), (220, 50257), 444, 50362)
"""Of a multilingual Whisper, Italian; which tokens are suppressed makes no difference to a program."""


class Chip(NamedTuple):
    """Of the maker's data sheets; its peak is in `benchmarks.train`."""

    memory_gb: float
    gigabytes_per_second: float


CHIPS = {"v5 lite": Chip(16, 819), "v6 lite": Chip(32, 1640), "TPU v4": Chip(32, 1228), "TPU v5": Chip(95, 2765)}
"""By what a device calls itself; v5e and v6e are lite, v5p is v5."""


@dataclasses.dataclass(frozen=True)
class TpuBenchmark:
    """Memory, traffic and bounds of a training step on a TPU."""

    model: str = "tiny"
    """Published size."""
    layers: int = 0
    """Layers of encoder and decoder each; 0: the model's own. A step of few compiles sooner."""
    batch_size: int = 16
    """Windows a step on each chip."""
    labels: int = 256
    """Label positions of a window; packed windows of Common Voice have about so many."""
    remat: Remat = "none"
    topology: str = "v5e:2x2"
    """Of the slice: v5e:2x4, v4:2x2x1, v5p:2x2x1, v6e:2x2, …"""
    chips: int = 1
    """Of the slice, that train; Colab has one."""
    fsdp: int = 1
    arms: tuple[Arm, ...] = ("ours", "plain")
    num_beams: int = 0
    """Not a step but decoding, with so many beams; 1: greedy."""
    schedule: bool = False
    """The attention's kernels alone."""
    queries: int = 0
    """At most so many queries to a block of theirs; 0: as the trainer has it."""

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


def slice_of(config: TpuBenchmark) -> list[Any]:
    """The devices to compile for. Raises `UserError` where libtpu is not, or the slice has too few."""
    os.environ |= WITHOUT_A_TPU
    try:
        found = topologies.get_topology_desc(config.topology, platform="tpu").devices
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology {config.topology}: {error}; libtpu, which knows them, is what `make bench-tpu` fetches"
        ) from error
    if config.chips > len(found):
        raise UserError(f"--chips {config.chips}: {config.topology} has {len(found)}")
    return list(found)[: config.chips]


@contextlib.contextmanager
def as_if_here(devices: list[Any]) -> Iterator[None]:
    """The devices are those of this process, for whatever asks."""
    with mock.patch.multiple(jax, default_backend=lambda: "tpu", devices=lambda *_: devices):
        yield


def abstract_step(config: TpuBenchmark, mesh: Mesh) -> tuple[Any, TrainState, Window]:
    """The training step, and what it takes: shapes that lie on the mesh."""
    windows = config.batch_size * mesh.size
    settings = TrainConfig(Path(), Path(), batch_size=windows, compute_dtype="bfloat16", fsdp=config.fsdp)
    optimizer = make_optimizer(settings, lambda _: jnp.float32(1e-5))
    model = nnx.eval_shape(lambda: Whisper(config.size, jnp.dtype("bfloat16"), remat=config.remat))
    params, buffers, build = functional(model)

    def first(params: Any, buffers: Any) -> TrainState:
        return TrainState(params, buffers, optimizer.init(trained(params, ())), jnp.zeros((), jnp.int32))

    state = jax.eval_shape(first, params, buffers)
    state = jax.tree.map(
        lambda array, lies: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=lies), state, shardings(state, mesh)
    )
    like = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, WINDOWS))
    frames, tokens = (windows, N_FRAMES), (windows, config.labels)
    log_mel = like((*frames, config.size.num_mel_bins), jnp.uint8)
    batch = Window(log_mel, like(frames, jnp.float32), like(tokens, jnp.int32), like(tokens, jnp.int32))
    return make_train_step(build, optimizer, mesh, settings), state, batch


def compiled(config: TpuBenchmark, devices: list[Any], arm: Arm) -> dict[str, float]:
    """What the compiler says of a step, for each chip."""
    with as_if_here(devices), contextlib.ExitStack() as stack:
        if arm == "plain":
            stack.enter_context(mock.patch.object(attention, "has_tpu_attention", return_value=False))
        step, state, batch = abstract_step(config, data_mesh(devices, config.fsdp))
        started = time.perf_counter()
        program = step.lower(state, batch).compile()
        seconds = time.perf_counter() - started
    plan, kind = program.memory_analysis(), devices[0].device_kind
    chip = next(chip for name, chip in CHIPS.items() if name in kind)
    moved = gigabytes_moved(program.as_text())
    flops = 3 * config.batch_size * forward_flops(config.size, config.labels * LABELS_A_POSITION)
    by_memory = moved / chip.gigabytes_per_second
    by_products = flops / next(peak for name, peak in PEAK.items() if name in kind)
    return {
        "compile_seconds": seconds,
        "memory_gb": (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / GB,
        "memory_of_chip_gb": chip.memory_gb,
        "gigabytes_moved": moved,
        "seconds_by_memory": by_memory,
        "seconds_by_products": by_products,
        "mfu_at_most": by_products / max(by_memory, by_products),
    }


def decoder(config: TpuBenchmark, devices: list[Any]) -> dict[str, float]:
    """What the compiler says of decoding windows of 30 s, of each chip."""
    mesh = Mesh(np.asarray(devices), ("data",))
    search = functools.partial(beam_search, num_beams=config.num_beams) if config.num_beams > 1 else greedy
    with as_if_here(devices):
        graph, state = nnx.split(nnx.eval_shape(lambda: Whisper(config.size, jnp.dtype("bfloat16"))))
        lies = NamedSharding(mesh, PartitionSpec())
        state = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, jnp.bfloat16, sharding=lies), state)
        shape = (config.batch_size * len(devices), N_FRAMES, config.size.num_mel_bins)
        windows = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
        started = time.perf_counter()
        program = on_rows(functools.partial(search, rules=RULES), graph, mesh)
        plan = program.lower(state, windows).compile().memory_analysis()
    assert plan, "libtpu always has one"
    memory = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / GB
    return {"compile_seconds": time.perf_counter() - started, "memory_gb": memory}


def kernels(config: TpuBenchmark) -> dict[str, dict[str, float]]:
    """Cycles, and share of the matrix units in use, of the kernels of an encoder layer's attention to one window."""
    from jax_train import tpu_attention

    size = config.size
    with tempfile.TemporaryDirectory() as folder:
        options = {"dump_to": folder, "dump_llo_text": "true", "dump_llo_pass_label_regex": "final"}
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(f"--xla_jf_{name}={value}" for name, value in options.items())
        devices = slice_of(config)
        mesh = data_mesh(devices)
        shape = (len(devices), size.max_source_positions, size.d_model)
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, WINDOWS))
        head = size.d_model // size.encoder_attention_heads

        def with_gradients(q: Any, k: Any, v: Any, grad: Any) -> Any:
            out, backward = jax.vjp(lambda *qkv: tpu_attention.attention(*qkv, head, False), q, k, v)
            return out, backward(grad)

        tpu_attention.QUERIES = config.queries or tpu_attention.QUERIES
        with as_if_here(devices):
            on_each = jax.shard_map(with_gradients, mesh=mesh, in_specs=WINDOWS, out_specs=WINDOWS)
            jax.jit(on_each).lower(x, x, x, x).compile()
        times = tpu_attention.programs(size.max_source_positions, size.d_model)
        return {
            name: {"cycles": times * cycles, "matrix_units_busy": busy}
            for name, (cycles, busy) in schedule(Path(folder), "attention").items()
        }


@command
def main() -> None:
    config = tyro.cli(TpuBenchmark, description=__doc__)
    if config.schedule:
        found = kernels(config)
        for name, figures in found.items():
            print(f"{name:20} {figures['cycles']:10.0f} cycles, matrix units {figures['matrix_units_busy']:.0%} in use")
        total = sum(figures["cycles"] for figures in found.values())
        print(result_line("tpu: attention", "cycles a window and layer", total, None, more={"kernels": found}))
        return
    devices = slice_of(config)
    kind = f"{config.chips} × {devices[0].device_kind}"
    if config.num_beams:
        figures = decoder(config, devices)
        print(f"decoding, {config.model}, {config.batch_size} windows a chip, compiled for {kind}: {figures}")
        print(result_line("tpu: decoding", "GB", figures["memory_gb"], None, more={"device": kind, **figures}))
        return
    arms = {arm: compiled(config, devices, arm) for arm in config.arms}
    print(f"{config.model}, {config.batch_size} windows a chip, bfloat16, compiled for {kind}; nothing was run")
    for name in next(iter(arms.values())):
        print(f"  {name:20}" + "".join(f"  {arm} {row[name]:9.3f}" for arm, row in arms.items()))
    ours, plain = (arms[arm]["gigabytes_moved"] if arm in arms else None for arm in ("ours", "plain"))
    more = {"device": kind, "arms": arms}
    print(result_line("tpu", "GB moved a step", ours or 0.0, plain, less_is_better=True, more=more))


if __name__ == "__main__":
    main()
