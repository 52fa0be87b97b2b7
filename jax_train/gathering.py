"""Split parameters that a layer gathers where it reads them, and matrices again for their gradients (ZeRO stage 3).

So a device holds few whole matrices at a time, in the type that is computed in, which is also what goes between
devices. Their gradients come back split, added up in float32. A layer's vectors are kept once gathered; embeddings,
convolutions and the last norms are gathered for all of a step. Source: arXiv 1910.02054.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jax_train.layers import Matrix
from jax_train.lora import ADAPTERS
from jax_train.model import DecoderLayer, EncoderLayer, Params, Whisper
from jax_train.sharding import EVERYWHERE, gathered

FLOAT32 = 4  # bytes
FEED_FORWARD = (("fc1",), ("fc2",))


def layer_of(name: str) -> str:
    """The layer that reads a parameter, `encoder.layers.3`; empty: it is gathered for all, as adapters are."""
    stack, layers, rest = name.partition(".layers.")
    return f"{stack}{layers}{rest.split('.')[0]}" if layers and not name.endswith(ADAPTERS) else ""


def gathered_bytes(params: Params, itemsize: int) -> int:
    """Bytes of whole parameters on a device: those of no layer, and two layers', one of them on its way.

    Layers compute in a type of `itemsize` bytes.
    """
    layers: Counter[str] = Counter()
    for name, array in params.items():
        layers[layer_of(name)] += math.prod(array.shape)
    return layers.pop("", 0) * FLOAT32 + 2 * max(layers.values(), default=0) * itemsize


def whole_but_layers(params: Params, lies: Mapping[str, PartitionSpec]) -> Params:
    """The parameters from this device's parts; a layer's own are left as they are, for `gathering_layers`."""
    return {name: x if layer_of(name) else gathered(x, lies[name]) for name, x in params.items()}


def gathering_layers(model: Whisper, lies: Mapping[str, PartitionSpec]) -> None:
    """Makes a model of `whole_but_layers` parameters one that can be called; one that is whole it leaves alone."""
    for stack in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, stack).layers):
            _split(layer, f"{stack}.layers.{number}", lies)


def _split(layer: EncoderLayer | DecoderLayer, name: str, lies: Mapping[str, PartitionSpec]) -> None:
    for path, module in nnx.iter_modules(layer):
        for attribute, variable in list(vars(module).items()):
            place = lies.get(".".join(map(str, (name, *path, attribute))), EVERYWHERE)
            if place != EVERYWHERE:
                again = layer.remat == "layers" or (layer.remat == "feed_forward" and path in FEED_FORWARD)
                dtype = module.dtype if isinstance(variable, Matrix) else None
                split = Split(variable.get_value(), lies=place, compute_dtype=dtype, again=again)
                setattr(module, attribute, split)


class Split(Matrix):
    """A device's part of a parameter, which whoever reads it gets whole, a matrix in the type that is computed in."""

    def get_value(self, *, index: Any = ...) -> Array:
        """The parameter from all its parts."""
        assert index is ..., "a layer reads the whole of a parameter"
        return self._whole(self.get_raw_value())

    def into(self, part: Callable[..., Array], *inputs: Array) -> Array:
        """What `part` makes of the whole matrix and the inputs; for the gradient it is gathered again."""
        if self.get_metadata("again"):  # by what is around it
            return super().into(part, *inputs)
        made: Array = jax.checkpoint(lambda own, *inputs: part(self._whole(own), *inputs))(
            self.get_raw_value(), *inputs
        )
        return made

    def _whole(self, own: Array) -> Array:
        return gathered(own, self.get_metadata("lies"), self.get_metadata("compute_dtype"))
