"""What a TPU's own compiler makes of our training step, on any machine: memory, traffic, its attention's cycles.

`libtpu`, which `make bench-tpu` fetches from PyPI, compiles for TPUs that are not there; what that says and does not
say, and the arms: `absent.py`. With `--schedule` the kernels of an encoder layer's attention alone: instructions that
are issued, one a cycle, and the share of the chip's matrix units in use meanwhile. With `--num-beams` the decoder of
`make evaluate`.

    make bench-tpu [ARGS="--model base --batch-size 32 --topology v5e:2x4 --chips 8"]
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import NamedSharding

from benchmarks.absent import Absent, Chip, as_if_here, report
from benchmarks.program import schedule
from benchmarks.result import result_line
from data.errors import UserError, command
from jax_train.sharding import WINDOWS, data_mesh

WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""So that libtpu asks no machine of Google's about itself, and several may compile at once."""
CHIPS = {"v5 lite": Chip(16, 819), "v6 lite": Chip(32, 1640), "TPU v4": Chip(32, 1228), "TPU v5": Chip(95, 2765)}
"""By what a device calls itself; v5e and v6e are lite, v5p is v5."""


@dataclasses.dataclass(frozen=True)
class TpuBenchmark(Absent):
    """Memory, traffic and bounds of a training step on a TPU."""

    topology: str = "v5e:2x2"
    """Of the slice: v5e:2x4, v4:2x2x1, v5p:2x2x1, v6e:2x2, …; Colab has one chip of such a one."""
    schedule: bool = False
    """The attention's kernels alone."""
    queries: int = 0
    """At most so many queries to a block of theirs; 0: as the trainer has it."""


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
    chip = next(chip for name, chip in CHIPS.items() if name in devices[0].device_kind)
    report("tpu", config, config.settings("bfloat16"), devices, chip)


if __name__ == "__main__":
    main()
