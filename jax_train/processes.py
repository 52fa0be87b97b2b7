"""Several processes as one run, each with its own devices: each takes its columns of the same global batches.

Checkpoints are written by all of them; logs, settings and messages by the first.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data.errors import UserError
from jax_train.config import TrainConfig
from jax_train.sharding import EVERYWHERE, WINDOWS, data_mesh


def join_processes(config: TrainConfig) -> None:
    """Join the run's other processes, before JAX looks for devices. Raises `UserError` if they cannot be reached."""
    if not config.coordinator:
        return
    try:
        if config.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(config.coordinator, config.processes, config.process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--coordinator {config.coordinator}: cannot join ({reason}); start all processes with the same "
            "coordinator, HOST:PORT of the first, and --process 0, 1, …"
        ) from error


def of_all_processes(*numbers: float) -> np.ndarray:
    """What each process of the run gives, bit for bit: a float64 row each. Waits for all that the devices are doing.

    For each device of this process: what waits for the first alone can end the process while another still connects
    (`multihost_utils.process_allgather` on a CPU; the process that connects then waits for ever).
    """
    own = np.asarray(numbers, np.float64)
    if jax.process_count() == 1:
        return own[None]
    mesh = data_mesh()
    of_all = _gathering(NamedSharding(mesh, EVERYWHERE))(_row_of_each_device(own.view(np.uint8), mesh))
    bytes_DN = np.asarray(jax.block_until_ready(of_all).addressable_data(0))
    process_D = [device.process_index for device in mesh.devices.flat]
    return bytes_DN[[process_D.index(process) for process in range(jax.process_count())]].view(np.float64)


def in_any_process(flag: bool) -> bool:
    """Whether `flag` is true in one process of the run."""
    return bool(of_all_processes(flag).any())


class Wishes:
    """What any process of the run wishes, by numbers of which the largest counts.

    Where steps overlap an answer is that of a step ago, for which nobody waits: it is computed before the step in
    flight, in its turn. A single process is answered at once, and so are all where each step is waited for.
    """

    def __init__(self, mesh: Mesh, overlapping: bool) -> None:
        self._mesh, self._overlapping = mesh, overlapping
        self._largest = jax.jit(lambda wished: wished.max(0), out_shardings=NamedSharding(mesh, EVERYWHERE))
        self._before: jax.Array | None = None

    def heard(self, *wished: int) -> list[int]:
        """The largest of each number wished, after this process's own wishes; every process has to call it."""
        if jax.process_count() == 1:
            return list(wished)
        new = self._largest(_row_of_each_device(np.asarray(wished, np.int32), self._mesh))
        answer, self._before = self._before if self._overlapping else new, new
        return [0] * len(wished) if answer is None else np.asarray(answer.addressable_data(0)).tolist()


def _row_of_each_device(own: np.ndarray, mesh: Mesh) -> jax.Array:
    """What this process gives, on each of its devices, as one array of all devices' rows in the mesh's order."""
    rows = np.tile(own, (jax.local_device_count(), 1))
    return jax.make_array_from_process_local_data(NamedSharding(mesh, WINDOWS), rows)


def whole(array: jax.Array) -> jax.Array:
    """An array that lies on the devices of all processes, as one that lies whole on each device of this process."""
    if not (array.is_fully_addressable or array.is_fully_replicated):
        assert isinstance(array.sharding, NamedSharding), "a run's arrays lie on its mesh"
        array = _gathering(NamedSharding(array.sharding.mesh, EVERYWHERE))(array)
    own = NamedSharding(Mesh(np.asarray(jax.local_devices()), "data"), EVERYWHERE)
    if array.is_fully_addressable:
        return jax.device_put(array, own)
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, own, parts)


@functools.cache
def _gathering(everywhere: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=everywhere)
