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
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jax_train.config import TrainConfig
from jax_train.dropout import Dropout
from jax_train.model import Params, Whisper
from jax_train.optimizer import trained
from jax_train.windows import IGNORE, Window

ZERO_FLOOR = -1.5  # log-mel of silence: log10(1e-10) in Whisper's units
STEPS_PER_UNIT = 127.5  # of the 8-bit log-mel, see data.log_mel.quantize


class TrainState(NamedTuple):
    """What a step changes and a checkpoint holds."""

    params: Params
    buffers: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    ema: Params | None = None
    """Moving average of the trained parameters, if the run keeps one."""


class Metrics(NamedTuple):
    """Scalars of one step, over all devices."""

    loss: Float[Array, ""]
    """Nats per label token, with label smoothing if the run has it."""
    tokens: Int[Array, ""]
    """Label tokens."""
    grad_norm: Float[Array, ""]
    """Global norm before clipping."""


class Summed(NamedTuple):
    """Sums over windows, which add up over parts and devices as means would not."""

    nats: Float[Array, ""]
    tokens: Int[Array, ""]
    grads: Params


def restore(log_mel_q_BFM: Array, log_mel_max_BF: Array) -> Float[Array, "B F M"]:
    """Whisper's float32 log-mel of windows from 8 bits: the concatenated audio's own, and its padding."""
    max_BF1 = log_mel_max_BF[..., None]
    floor_B11 = jnp.maximum(log_mel_max_BF.max(-1) - 2.0, ZERO_FLOOR)[:, None, None]
    return jnp.maximum(log_mel_q_BFM.astype(jnp.float32) / STEPS_PER_UNIT + (max_BF1 - 2.0), floor_B11)


def token_loss(
    logits_BLV: Float[Array, "B L V"], labels_BL: Int[Array, "B L"], label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Summed cross-entropy in nats, and the number of label tokens it covers.

    With `label_smoothing`, that share of a label's weight is spread evenly over the vocabulary (arXiv 1512.00567).
    """
    keep_BL = labels_BL != IGNORE
    nats_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, jnp.where(keep_BL, labels_BL, 0))
    if label_smoothing:
        spread_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - logits_BLV.mean(-1)
        nats_BL = (1 - label_smoothing) * nats_BL + label_smoothing * spread_BL
    return jnp.where(keep_BL, nats_BL, 0.0).sum(), keep_BL.sum(dtype=jnp.int32)


def apply(optimizer: optax.GradientTransformation, grads: Params, state: TrainState) -> tuple[Params, optax.OptState]:
    """Parameters and optimizer state after one update; a parameter without gradient stays as it is.

    Optax itself mixes types that strict promotion refuses.
    """
    before = {name: state.params[name] for name in grads}
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, before)
    return state.params | optax.apply_updates(before, updates), opt_state


def averaged(ema: Params | None, params: Params, decay: float) -> Params | None:
    """The moving average after one more step."""
    return ema and {name: decay * value + (1 - decay) * params[name] for name, value in ema.items()}


def unless_non_finite(after: TrainState, before: TrainState, metrics: Metrics) -> TrainState:
    """The state after a step, or the one before where loss or gradient is no number; the step counts either way.

    Chosen here, as the step consumes the state it is given: the host could not go back to it.
    """
    finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.grad_norm)
    kept: TrainState = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return kept._replace(step=after.step)


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or those given, along one axis named `data`."""
    return Mesh(np.asarray(devices or jax.devices()), ("data",))


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """A copy of the state on every device of the mesh, which a step may consume."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()), may_alias=False)


def make_train_step(
    build: Callable[[Params, Params], Whisper], optimizer: optax.GradientTransformation, mesh: Mesh, config: TrainConfig
) -> Callable[[TrainState, Window], tuple[TrainState, Metrics]]:
    """The compiled step over `mesh`; it consumes the state it is given."""

    drops = config.dropout or config.activation_dropout or config.attention_dropout

    def gradients(own: Params, state: TrainState, part: tuple[Window, Array]) -> Summed:
        """Of the parameters in `own`; those that are not there are frozen, and cost no backward pass."""

        batch, number = part
        dropout = Dropout(config, part_key(config, state.step, number)) if drops else None

        def summed_loss(own: Params) -> tuple[Array, Array]:
            log_mel_BFM = restore(batch.log_mel_q_FM, batch.log_mel_max_F)
            logits_BLV = build(state.params | own, state.buffers)(log_mel_BFM, batch.tokens_L, dropout)
            return token_loss(logits_BLV, batch.labels_L, config.label_smoothing)

        (nats, tokens), grads = jax.value_and_grad(summed_loss, has_aux=True)(own)
        return Summed(nats, tokens, grads)

    def step(state: TrainState, batch: Window) -> tuple[TrainState, Metrics]:
        own = jax.lax.pcast(trained(state.params, config.freeze), "data", to="varying")
        sums = in_parts(lambda part: gradients(own, state, part), batch, config.gradient_accumulation_steps)
        nats, tokens, grads = jax.lax.psum(sums, "data")
        count = jnp.maximum(tokens, 1).astype(jnp.float32)
        grads = jax.tree.map(lambda grad: grad / count, grads)
        params, opt_state = apply(optimizer, grads, state)
        metrics = Metrics(nats / count, tokens, optax.tree.norm(grads))
        ema = averaged(state.ema, params, config.ema_decay)
        after = TrainState(params, state.buffers, opt_state, state.step + 1, ema)
        return unless_non_finite(after, state, metrics) if config.skip_non_finite else after, metrics

    whole, split = PartitionSpec(), PartitionSpec("data")
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(whole, split), out_specs=(whole, whole))
    return jax.jit(sharded, donate_argnums=0)


def part_key(config: TrainConfig, step: Array, part: Array) -> PRNGKeyArray:
    """Dropout's key for a device's part of a step."""
    key = jax.random.key(config.seed)
    for number in (step, jax.lax.axis_index("data"), part):
        key = jax.random.fold_in(key, number)
    return key


def in_parts(sums: Callable[[tuple[Window, Array]], Summed], batch: Window, parts: int) -> Summed:
    """The sums of a device's windows, added up over equal parts of them, so that one part's activations exist."""
    if parts == 1:
        return sums((batch, jnp.zeros((), jnp.int32)))
    split = jax.tree.map(lambda array: array.reshape(parts, -1, *array.shape[1:]), batch), jnp.arange(parts)
    shapes = jax.eval_shape(sums, jax.tree.map(lambda array: array[0], split))
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)
    own = jax.lax.pcast(zeros, "data", to="varying")
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, sums(part)), None), own, split)[0]
