"""The data-parallel train step: `jax.pmap`'s program in its successor's API, `jit(shard_map)`.

Each device computes the summed loss and gradients of its own windows; both are summed over the `data` axis and divided
by the number of label tokens, so that the result does not depend on how the windows are split. Parameters and
optimizer state are replicated and their buffers donated.

B windows of one device, F mel frames, M mel bins, L tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jax_train.model import Params, Whisper
from jax_train.windows import IGNORE, Window

ZERO_FLOOR = -1.5  # log-mel of silence: log10(1e-10) in Whisper's units
STEPS_PER_UNIT = 127.5  # of the 8-bit log-mel, see data.log_mel.quantize


class TrainState(NamedTuple):
    """What a step changes and a checkpoint holds."""

    params: Params
    buffers: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


class Metrics(NamedTuple):
    """Scalars of one step, over all devices."""

    loss: Float[Array, ""]
    """Nats per label token."""
    tokens: Int[Array, ""]
    """Label tokens."""
    grad_norm: Float[Array, ""]
    """Global norm before clipping."""


def restore(log_mel_q_BFM: Array, log_mel_max_BF: Array) -> Float[Array, "B F M"]:
    """Whisper's float32 log-mel of windows from 8 bits: the concatenated audio's own, and its padding."""
    max_BF1 = log_mel_max_BF[..., None]
    floor_B11 = jnp.maximum(log_mel_max_BF.max(-1) - 2.0, ZERO_FLOOR)[:, None, None]
    return jnp.maximum(log_mel_q_BFM.astype(jnp.float32) / STEPS_PER_UNIT + (max_BF1 - 2.0), floor_B11)


def token_loss(logits_BLV: Float[Array, "B L V"], labels_BL: Int[Array, "B L"]) -> tuple[Array, Array]:
    """Summed cross-entropy in nats, and the number of label tokens it covers."""
    keep_BL = labels_BL != IGNORE
    nats_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, jnp.where(keep_BL, labels_BL, 0))
    return jnp.where(keep_BL, nats_BL, 0.0).sum(), keep_BL.sum(dtype=jnp.int32)


def apply(optimizer: optax.GradientTransformation, grads: Params, state: TrainState) -> tuple[Params, optax.OptState]:
    """Parameters and optimizer state after one update. Optax itself mixes types that strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return optax.apply_updates(state.params, updates), opt_state


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or those given, along one axis named `data`."""
    return Mesh(np.asarray(devices or jax.devices()), ("data",))


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """A copy of the state on every device of the mesh, which a step may consume."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()), may_alias=False)


def make_train_step(
    build: Callable[[Params, Params], Whisper], optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Window], tuple[TrainState, Metrics]]:
    """The compiled step over `mesh`; it consumes the state it is given."""

    def summed_loss(params: Params, buffers: Params, batch: Window) -> tuple[Array, Array]:
        log_mel_BFM = restore(batch.log_mel_q_FM, batch.log_mel_max_F)
        return token_loss(build(params, buffers)(log_mel_BFM, batch.tokens_L), batch.labels_L)

    def step(state: TrainState, batch: Window) -> tuple[TrainState, Metrics]:
        own = jax.lax.pcast(state.params, "data", to="varying")
        (nats, tokens), grads = jax.value_and_grad(summed_loss, has_aux=True)(own, state.buffers, batch)
        nats, tokens, grads = jax.lax.psum((nats, tokens, grads), "data")
        count = jnp.maximum(tokens, 1).astype(jnp.float32)
        grads = jax.tree.map(lambda grad: grad / count, grads)
        params, opt_state = apply(optimizer, grads, state)
        metrics = Metrics(nats / count, tokens, optax.tree.norm(grads))
        return TrainState(params, state.buffers, opt_state, state.step + 1), metrics

    whole, split = PartitionSpec(), PartitionSpec("data")
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(whole, split), out_specs=(whole, whole))
    return jax.jit(sharded, donate_argnums=0)
