"""Devices as a mesh, and which part of a run's state each one holds.

Decision: one axis of devices for the data, `data`, and one for the parameters, `fsdp`. Windows are split over both.
`--fsdp N` groups the devices by N; a group holds one copy of parameters, average and optimizer state between them, each
array split along its longest axis that N divides. What reads a parameter gathers it (`gathering`), and the gradient of
a gathered parameter comes back split (ZeRO stage 3, arXiv 1910.02054). With N = 1 every device holds everything.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from data.errors import UserError

AXES = ("data", "fsdp")
WINDOWS = PartitionSpec(AXES)
EVERYWHERE = PartitionSpec()


def data_mesh(devices: list[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """All devices of all processes, or those given: groups along `data`, the `fsdp` members of one along `fsdp`."""
    found = np.asarray(devices or jax.devices())
    if len(found) % fsdp:
        raise UserError(f"--fsdp {fsdp} does not divide {len(found)} devices")
    return Mesh(found.reshape(-1, fsdp), AXES)


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The axis along which an array is split: the longest that `parts` divides; None: not split."""
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0 and size >= parts > 1]
    return max(fitting, key=lambda axis: shape[axis], default=None)


def spec(array: Any, mesh: Mesh) -> PartitionSpec:
    """How a parameter lies on the mesh."""
    axis = split_axis(array.shape, mesh.shape["fsdp"])
    return EVERYWHERE if axis is None else PartitionSpec(*[None] * axis, "fsdp")


def specs(params: Mapping[str, Any], mesh: Mesh) -> dict[str, PartitionSpec]:
    """How parameters lie on the mesh, by name."""
    return {name: spec(value, mesh) for name, value in params.items()}


def shardings(state: Any, mesh: Mesh) -> Any:
    """The same for a whole state; optimizer state that is no parameter's shape lies everywhere."""
    names = {name: value.shape for part in (state.params, state.buffers) for name, value in part.items()}

    def sharding(path: tuple[Any, ...], array: Any) -> NamedSharding:
        name = getattr(path[-1], "key", None)
        is_parameters = names.get(name) == array.shape if isinstance(name, str) else False
        return NamedSharding(mesh, spec(array, mesh) if is_parameters else EVERYWHERE)

    return jax.tree_util.tree_map_with_path(sharding, state)


def placed(array: np.ndarray | Array, mesh: Mesh) -> Array:
    """A parameter as it lies on the mesh: a device is given its own part alone. Every process has the whole `array`."""
    lies = NamedSharding(mesh, spec(array, mesh))
    if isinstance(array, jax.Array) and array.sharding == lies:
        return array
    return jax.make_array_from_callback(array.shape, lies, np.asarray(array).__getitem__)


def varying(array: Array, lies: PartitionSpec) -> Array:
    """The array as each device's own, so that its gradient is the device's own too and the step adds them up."""
    own: Array = jax.lax.pcast(array, AXES if lies == EVERYWHERE else ("data",), to="varying")
    return own


def gathered(array: Array, lies: PartitionSpec, dtype: DTypeLike | None = None) -> Array:
    """A parameter whole, from this device's part of it, which is cast to `dtype` first; gradients add up in float32."""
    return array if lies == EVERYWHERE else _gathered(array, len(lies) - 1, dtype or array.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(array: Array, axis: int, dtype: DTypeLike) -> Array:
    whole: Array = jax.lax.all_gather(array.astype(dtype), "fsdp", axis=axis, tiled=True)
    return whole


def _gathered_backward(axis: int, _dtype: DTypeLike, array: Array, grad: Array) -> tuple[Array]:
    own = jax.lax.psum_scatter(grad.astype(jnp.float32), "fsdp", scatter_dimension=axis, tiled=True)
    return (own.astype(array.dtype),)


_gathered.defvjp(lambda array, axis, dtype: (_gathered(array, axis, dtype), array), _gathered_backward)


def own_part(whole: Array, shape: tuple[int, ...]) -> Array:
    """This device's part of an array, where a parameter lies split; `shape` is the part's, or else that of all."""
    for axis, (size, own) in enumerate(zip(whole.shape, shape, strict=True)):
        if own < size:
            return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index("fsdp") * own, own, axis)
    return whole


def summed(gradient: Array, lies: PartitionSpec) -> Array:
    """A parameter's gradient over all devices; a split one has been added up over its group on the way back."""
    total: Array = jax.lax.psum(gradient, AXES if lies == EVERYWHERE else "data")
    return total
