"""LoRA on the flat parameter dict: the model's weights stay, small factors A·B beside its matrices are trained.

Decision: an adapter is added to its matrix inside the step, W + alpha/rank · A B, so that the model's code knows
nothing of it and every matrix can have one. A and B are named and shaped as `peft` does (`lora_A.weight`,
`lora_B.weight`), kernels transposed as all others here. A is drawn as `peft` draws it, B is 0: a fresh adapter changes
nothing. Source: arXiv 2106.09685.

I inputs of a matrix, O outputs, R rank.
"""

import fnmatch
import math
import zlib
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from data.errors import UserError
from jax_train.config import Lora
from jax_train.model import Params, Whisper
from jax_train.sharding import own_part

KERNEL = ".kernel"
A, B = ADAPTERS = ".lora_A.kernel", ".lora_B.kernel"


def adapted_layers(params: Params, targets: Sequence[str]) -> list[str]:
    """Paths of the linear layers that `targets` name, sorted. Raises `UserError` for a target that names none."""
    linear = sorted(name.removesuffix(KERNEL) for name, x in params.items() if name.endswith(KERNEL) and x.ndim == 2)
    found: set[str] = set()
    for target in targets:
        named = [path for path in linear if fnmatch.fnmatchcase("." + path, "*." + target)]
        if not named:
            words = sorted({path.rsplit(".", 1)[-1] for path in linear})
            raise UserError(f"LoRA target {target!r} matches no linear layer; there are {', '.join(words)}")
        found.update(named)
    return sorted(found)


def init(params: Params, rank: int, targets: Sequence[str], key: Key[Array, ""]) -> Params:
    """Float32 adapters of the layers that `targets` name: A uniform within ±1/√I, B zero.

    A layer's A depends on the key and the layer's path alone. Raises `UserError` for a target that matches nothing, or
    a rank that saves nothing.
    """
    adapters: Params = {}
    for path in adapted_layers(params, targets):
        n_in, n_out = params[path + KERNEL].shape
        if rank > min(n_in, n_out):
            raise UserError(
                f"LoRA rank {rank}: {path} is {n_in} × {n_out}, a rank above {min(n_in, n_out)} adds nothing"
            )
        own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        bound = 1 / math.sqrt(n_in)
        adapters[path + A] = jax.random.uniform(own_key, (n_in, rank), jnp.float32, -bound, bound)
        adapters[path + B] = jnp.zeros((rank, n_out), jnp.float32)
    return adapters


def merged(params: Params, adapters: Params, alpha: float) -> Params:
    """The parameters with each adapter added to its matrix, in float32, then in the matrix's type. For the step."""
    result = dict(params)
    for name, a_IR in adapters.items():
        if name.endswith(A):
            path = name.removesuffix(A)
            kernel_IO, b_RO = params[path + KERNEL], adapters[path + B]
            n_in, n_out = kernel_IO.shape  # of this device's part, where `--fsdp` splits it
            delta_IO = own_part(a_IR, (n_in, rank := a_IR.shape[1])) @ own_part(b_RO, (rank, n_out))
            result[path + KERNEL] = (kernel_IO.astype(jnp.float32) + alpha / rank * delta_IO).astype(kernel_IO.dtype)
    return result


def merge(params: Params, adapters: Params, alpha: float) -> Params:
    """The parameters with the adapters in them for good, products at full precision: what an export writes.

    Raises `UserError` for adapters that are not this model's.
    """
    paths = {name.removesuffix(end) for name in adapters for end in ADAPTERS if name.endswith(end)}
    odd = {name for name in adapters if not name.endswith(ADAPTERS)}
    for path in paths:
        a, b, kernel = adapters.get(path + A), adapters.get(path + B), params.get(path + KERNEL)
        if a is None or b is None or kernel is None or (a.shape[0], b.shape[1]) != kernel.shape:
            odd.add(path)
    if odd:
        raise UserError(f"adapters of another model: {', '.join(sorted(odd)[:3])}; give the model they were trained on")
    with jax.default_matmul_precision("highest"):
        return merged(params, adapters, alpha)


def adapted(params: Params, buffers: Params, lora: Lora, key: Key[Array, ""]) -> tuple[Params, Params]:
    """A model's parameters and buffers with fresh adapters for the former, and all that was the model's for the latter.

    So a train step made for a whole model trains adapters as it is. Its model is built by what `merging` gives.
    """
    dtype = jnp.dtype(lora.frozen_dtype)
    frozen = {name: value.astype(dtype) if value.ndim > 1 else value for name, value in params.items()}
    return init(params, lora.rank, lora.targets, key), frozen | buffers


def merging(
    build: Callable[[Params, Params], Whisper], buffers: Collection[str], alpha: float
) -> Callable[[Params, Params], Whisper]:
    """What builds a model, of the names of its buffers, from the two that `adapted` gave."""

    def build_adapted(adapters: Params, kept: Params) -> Whisper:
        base, own_buffers = apart(kept, buffers)
        return build(merged(base, adapters, alpha), own_buffers)

    return build_adapted


def apart(kept: Params, buffers: Collection[str]) -> tuple[Params, Params]:
    """The model's own parameters and its buffers, which `adapted` gave in one."""
    return {n: x for n, x in kept.items() if n not in buffers}, {n: kept[n] for n in buffers}


def count(params: Params) -> int:
    """Numbers in a parameter dict."""
    return sum(math.prod(value.shape) for value in params.values())


def summary(params: Params, adapters: Params) -> str:
    """One line for the start of a run: how much of the model is trained."""
    trained, whole = count(adapters), count(params)
    layers = sum(name.endswith(A) for name in adapters)
    return f"LoRA: {trained:,} trainable parameters in {layers} layers, {trained / whole:.2%} of {whole:,}"
