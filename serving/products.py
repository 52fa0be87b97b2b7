"""Products with the model's weights, in as few bits as cost no words on the processor that there is.

Decisions; `benchmarks/serve_rounding.py` counts what they cost, `benchmarks/serve.py` the time:

- In the decoder 8 bits (FBGEMM's; sums stay float32), but for each layer's last product, whose input, which GELU leaves
  with a few large values, does not bear one scale for all: PyTorch's float32 product of a few rows is no faster than
  row by row, so that there would be nothing in writing several windows together. PyTorch means to remove 8-bit tensors
  some day: where it has, all is float32.
- Where the processor has a matrix unit for bfloat16 (Intel's AMX), in the encoder and in the decoder's last products
  that type: half the time of an encoder that is float32, and half the bytes of the keys and values that every token
  looks at. Sums, layer norms and what goes from layer to layer stay float32. bfloat16 by vector instructions is slower
  than float32.

N, M sizes of a product.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]


def product(weight_NM: Tensor, bias_N: Tensor | None, eight_bits: bool) -> Product:
    """x (…, M) → x·weightᵀ + bias; with `eight_bits` the weight is rounded, each row on a scale of its own."""
    if not eight_bits:
        return lambda x: linear(x, weight_NM, bias_N)
    scale_N = weight_NM.abs().amax(dim=1).double().clamp(min=1e-12) / 127
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        rounded = torch.quantize_per_channel(weight_NM, scale_N, torch.zeros_like(scale_N).long(), 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rounded, bias_N)
    # Inputs have 7 bits where sums of two 8-bit products overflow.
    seven = not _processor_has("avx512_vnni")
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, reduce_range=seven)


def to_bfloat16(encoder: Any, decoder: Any) -> None:
    """Turns to bfloat16 the weights of the products that are to be in it; they no longer take float32."""
    for layer in encoder.layers:
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.to(torch.bfloat16)
    for layer in decoder.layers:
        for part in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj, layer.fc2):
            part.to(torch.bfloat16)


def has_eight_bits(device: torch.device) -> bool:
    """Whether PyTorch multiplies 8-bit weights fast there."""
    there = hasattr(torch, "quantize_per_channel") and "fbgemm" in torch.backends.quantized.supported_engines
    return there and device.type == "cpu"


def has_bfloat16(device: torch.device) -> bool:
    """Whether it is a processor that multiplies matrices of bfloat16 much faster than those of float32."""
    return device.type == "cpu" and _processor_has("amx_bf16")


def _processor_has(instructions: str) -> bool:
    """Whether PyTorch says so; older ones say nothing."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(instructions, False))
