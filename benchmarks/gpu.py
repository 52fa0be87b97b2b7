"""What XLA's compiler for NVIDIA's GPUs makes of our training step and decoder, on any machine: memory and traffic.

JAX's CUDA plugin, which `make bench-gpu` fetches from PyPI, compiles for a card that is described to it; what that says
and does not say, and the arms: `absent.py`. Pallas' kernels are compiled to machine code. Not in these figures: what
cuDNN and cuBLAS take for themselves, and which of their kernels, and of Triton's tilings, would be chosen by trying
them on the card. With `--num-beams` the decoder of `make evaluate`.

    make bench-gpu [ARGS="--card t4 --model large-v3 --lora-rank 32 --batch-size 8 --remat layers"]
"""

import dataclasses
from typing import Any, NamedTuple
from unittest import mock

import tyro
from jax._src.cudnn import fused_attention_stablehlo  # asks the library for its version; nothing public tells it
from jax.experimental import topologies

from benchmarks.absent import Absent, Chip, report
from data.errors import UserError, command
from jax_train.config import Lora
from jax_train.precision import Type, suited

CUDNN = 91900  # the version that is compiled for, 9.19
KB = 1024


class Card(NamedTuple):
    """Of NVIDIA's data sheets and CUDA's table of compute capabilities; what a card has, all its processors alike."""

    name: str
    capability: str
    memory_gb: float
    """That programs see."""
    gigabytes_per_second: float
    processors: int
    threads: int
    """Of a processor at once."""
    float32_units: int
    """Of a processor."""
    shared_kb: int
    """Memory shared within a processor; a block may have 1 less, but on Turing all."""
    l2_mb: int
    gigahertz: float

    def description(self) -> str:
        """As XLA takes it, a `GpuTargetConfigProto` in text."""
        major, minor = self.capability.split(".")
        of_a_block = self.shared_kb - (major != "7")
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.name}"
            dnn_version_info {{ major: {CUDNN // 10000} minor: {CUDNN // 100 % 100} }}
            runtime_version {{ major: 12 minor: 9 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              device_memory_size: {int(self.memory_gb * 1e9)}
              memory_bandwidth: {int(self.gigabytes_per_second * 1e9)}
              core_count: {self.processors}
              threads_per_core_limit: {self.threads}
              fpus_per_core: {self.float32_units}
              shared_memory_per_core: {self.shared_kb * KB}
              shared_memory_per_block: {48 * KB}
              shared_memory_per_block_optin: {of_a_block * KB}
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              l2_cache_size: {self.l2_mb * KB * KB}
              clock_rate_ghz: {self.gigahertz}
              threads_per_warp: 32
              threads_per_block_limit: 1024
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
            }}"""


CARDS = {
    "h100": Card("NVIDIA H100 80GB HBM3", "9.0", 85, 3350, 132, 2048, 128, 228, 50, 1.98),
    "h200": Card("NVIDIA H200", "9.0", 150, 4800, 132, 2048, 128, 228, 50, 1.98),
    "a100": Card("NVIDIA A100-SXM4-40GB", "8.0", 42, 1555, 108, 2048, 64, 164, 40, 1.41),
    "l4": Card("NVIDIA L4", "8.9", 23.5, 300, 58, 1536, 128, 100, 48, 2.04),
    "t4": Card("Tesla T4", "7.5", 15.6, 320, 40, 1024, 64, 64, 4, 1.59),
}


@dataclasses.dataclass(frozen=True)
class GpuBenchmark(Absent):
    """Memory, traffic and bounds of a training step on a GPU."""

    card: str = "h100"
    """h100, h200, a100 (40 GB), l4 or t4."""
    compute_dtype: Type | None = None
    """By default what suits the card, as the trainer has it."""
    lora_rank: int = 0
    """Adapters of such a rank alone are trained, the model's own matrices kept in the compute type; 0: the whole
    model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.card not in CARDS:
            raise UserError(f"--card {self.card}: there are {', '.join(CARDS)}")


def cards(config: GpuBenchmark) -> list[Any]:
    """The devices to compile for. Raises `UserError` where JAX's plugin is not."""
    described = {"target_config": CARDS[config.card].description(), "topology": f"1x1x{config.chips}"}
    try:
        return list(topologies.get_topology_desc(platform="cuda", **described).devices)
    except NotImplementedError as error:  # what JAX says of a platform for which it has no plugin
        raise UserError(
            f"--card {config.card}: {error}; JAX's CUDA plugin, which compiles for it, is what `make bench-gpu` fetches"
        ) from error


@command
def main() -> None:
    config = tyro.cli(GpuBenchmark, description=__doc__)
    devices, card = cards(config), CARDS[config.card]
    dtype = config.compute_dtype or suited(devices[0])
    lora = Lora(config.lora_rank, frozen_dtype=dtype if config.lora_rank else "float32")
    chip = Chip(card.memory_gb, card.gigabytes_per_second)
    with mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", return_value=CUDNN):  # without the library
        report("gpu", config, config.settings(dtype, lora), devices, chip)


if __name__ == "__main__":
    main()
