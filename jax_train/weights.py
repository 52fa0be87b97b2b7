"""Hugging Face safetensors <-> NNX state, both directions, by one table.

A parameter's path is its PyTorch name but for the last word: Flax keeps a linear layer's matrix as (in, out), a
convolution's as (width, in, out), and names the two and a layer norm's scale after what they are. The check that
nothing is missing and nothing is left over is part of the reading.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array
from safetensors import safe_open

from data.errors import UserError
from jax_train.config import WhisperConfig
from jax_train.layers import Remat
from jax_train.model import Whisper

EMBEDDING = "model.decoder.embed_tokens.weight"
TIED = "proj_out.weight"  # the output matrix is the token embedding; some files hold it twice


def torch_name(path: tuple[str | int, ...]) -> str:
    """The PyTorch name of an NNX parameter path."""
    words = [str(word) for word in path]
    if words[-1] in ("kernel", "scale", "embedding"):
        words[-1] = "weight"
    return "model." + ".".join(words)


def to_torch_layout(path: tuple[str | int, ...], value: np.ndarray) -> np.ndarray:
    """A parameter as PyTorch lays it out: linear (out, in), convolution (out, in, width)."""
    return np.ascontiguousarray(value.T) if path[-1] == "kernel" else value


from_torch_layout = to_torch_layout  # reversing the axes undoes itself


def read_safetensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a Hugging Face folder in its stored type, from one file or from an index's several."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{folder}: no {name}; give a Hugging Face Whisper folder with safetensors weights")
        try:
            with safe_open(path, framework="numpy") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors raises its own bare class for a cut or foreign file
            raise UserError(f"{path}: not readable as safetensors ({error}); fetch it again") from error
    return tensors


def load_model(
    folder: Path,
    dtype: DTypeLike = jnp.float32,
    heads: int = 0,
    remat: Remat = "none",
    place: Callable[[np.ndarray], Array] = jnp.asarray,
) -> Whisper:
    """Whisper with the folder's weights in float32, computing in `dtype`; its attention in `heads`, if not 0.

    `remat` as the model's. `place` puts an array where it is to lie; if not given, on the first device.

    Raises `UserError` for a missing, unexpected or wrongly shaped tensor, or an output matrix of its own.
    """
    config = WhisperConfig.from_folder(folder).with_heads(heads)
    tensors = read_safetensors(folder)
    output = tensors.pop(TIED, None)
    if output is not None and not np.array_equal(output, tensors.get(EMBEDDING, ())):
        raise UserError(f"{folder}: {TIED} is not {EMBEDDING}; Whisper's output matrix is its token embedding")
    graph, state = nnx.split(Whisper(config, dtype, remat=remat))
    flat = dict(nnx.to_flat_state(state))
    wanted = {torch_name(path): path for path in flat}
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unexpected:
        raise UserError(f"{folder}: not Whisper's weights: missing {missing[:3]}, unexpected {unexpected[:3]}")
    for name, path in wanted.items():
        value = from_torch_layout(path, np.asarray(tensors[name], np.float32))
        if value.shape != flat[path].shape:
            raise UserError(f"{folder}: {name} is {value.shape}, config.json asks for {flat[path].shape}")
        flat[path] = flat[path].replace(place(value))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def to_torch_tensors(state: nnx.State) -> dict[str, np.ndarray]:
    """Name to float32 array, in PyTorch's names and layouts, of a model's whole state."""
    return {
        torch_name(path): to_torch_layout(path, np.asarray(jax.device_get(variable[...]), np.float32))
        for path, variable in nnx.to_flat_state(state)
    }
