"""How a run computes: the number type that suits its devices and, where it is asked for, a GPU's same bits every time.

Decision: `--compute-dtype auto` is decided before anything else and stands decided in config.json; a run that is there
keeps its own, so that another machine continues it.
"""

import dataclasses
import os
from typing import Any, Literal

import jax
from jax._src.xla_bridge import backends_are_initialized  # no public function says so

from data.errors import UserError
from jax_train.checkpoint_files import has_checkpoint
from jax_train.config import TrainConfig
from jax_train.run_settings import read_settings

Type = Literal["float32", "bfloat16", "float16"]

BFLOAT16_COMPUTE_CAPABILITY = 8.0  # Ampere; cuDNN's fused attention begins there too
CUDNN_HEAD_SIZES = range(8, 129, 8)  # what its attention kernels are made for
TPU_HEAD_SIZES = (64, 128)  # Whisper's, and the other whose scores leave room on the chip
TPUS_WITHOUT = ("TPU v2", "TPU v3")  # for which Pallas' products cannot be compiled
SAME_BITS = "--xla_gpu_exclude_nondeterministic_ops=true"


def suited(device: Any) -> Type:
    """The type in which a device computes fastest and well enough to train."""
    if device.platform == "tpu":
        return "bfloat16"
    if device.platform != "gpu":
        return "float32"
    return "bfloat16" if compute_capability(device) >= BFLOAT16_COMPUTE_CAPABILITY else "float16"


def has_kernels(device: Any, dtype: str) -> bool:
    """Whether a device has kernels of its own in a type: cuDNN's attention, which never makes a layer's scores, and
    those of `kernels.py`."""
    return dtype != "float32" and compute_capability(device) >= BFLOAT16_COMPUTE_CAPABILITY


def has_cudnn_attention(device: Any, dtype: str, head_size: int) -> bool:
    """Whether cuDNN's fused attention takes heads of a size in a type."""
    return head_size in CUDNN_HEAD_SIZES and has_kernels(device, dtype)


def has_tpu_attention(device: Any, dtype: str, head_size: int) -> bool:
    """Whether a device takes `tpu_attention` of heads of a size in a type."""
    suits = device.platform == "tpu" and dtype == "bfloat16" and device.device_kind not in TPUS_WITHOUT
    return suits and head_size in TPU_HEAD_SIZES


def fuses_attention(device: Any, dtype: str, head_size: int = 64) -> bool:
    """Whether a device's attention by heads of a size never makes a layer's scores in memory."""
    return has_cudnn_attention(device, dtype, head_size) or has_tpu_attention(device, dtype, head_size)


def compute_capability(device: Any) -> float:
    """An NVIDIA GPU's; 0 of anything else."""
    try:
        return float(getattr(device, "compute_capability", 0))
    except ValueError:  # AMD's are names
        return 0.0


def decided(config: TrainConfig) -> TrainConfig:
    """The settings with `--compute-dtype auto` decided: as the run in RUN has it, or as suits the devices."""
    if config.compute_dtype != "auto":
        return config
    there = read_settings(config.run) if has_checkpoint(config.run) else {}
    kept = there.get("compute_dtype", "float32") if there else None
    return dataclasses.replace(config, compute_dtype=kept or suited(jax.devices()[0]))


def same_bits(config: TrainConfig) -> None:
    """With `--deterministic`, have XLA compile no operation for a GPU that adds up in whatever order comes.

    Raises:
        UserError: JAX has started, and with other flags.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not config.deterministic or SAME_BITS in flags.split():
        return
    if backends_are_initialized():
        raise UserError(
            f"--deterministic: JAX has started in this process already; start it with XLA_FLAGS={SAME_BITS}"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {SAME_BITS}".strip()
