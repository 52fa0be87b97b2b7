"""The data-parallel train step: `jax.pmap`'s program in its successor's API, `jit(shard_map)`.

Each device computes the summed loss and gradients of its own windows; both are summed over all devices and divided by
the number of label tokens, so that the result does not depend on how the windows are split. The update follows in the
same program, on arrays that lie as `sharding` says; the old state's buffers are donated to the new.

B windows of one device, F mel frames, M mel bins, L tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jax_train.config import TrainConfig
from jax_train.dropout import Dropout
from jax_train.gathering import gathering_layers, whole_but_layers
from jax_train.loss import label_count, vocabulary_loss
from jax_train.loss_scale import LossScale
from jax_train.model import Params, Whisper
from jax_train.optimizer import trained
from jax_train.sharding import AXES, EVERYWHERE, WINDOWS, shardings, specs, summed, varying
from jax_train.spec_augment import spec_augment, speech_frames, window_keys
from jax_train.windows import Window

ZERO_FLOOR = -1.5  # log-mel of silence: log10(1e-10) in Whisper's units
COMPILER_OPTIONS: dict[str, dict[str, bool | int]] = {
    "gpu": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}
}
"""By backend. With cuBLAS alone for products, they add biases and gradients themselves, which Triton's do not. Products
with the same input are not made one: attention would be given copies of its parts."""
STEPS_PER_UNIT = 127.5  # of the 8-bit log-mel, see data.log_mel.quantize


class TrainState(NamedTuple):
    """What a step changes and a checkpoint holds."""

    params: Params
    buffers: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    ema: Params | None = None
    """Moving average of the trained parameters, if the run keeps one."""
    loss_scale: LossScale | None = None
    """What the loss is multiplied by, in float16."""


class Metrics(NamedTuple):
    """Scalars of one step, over all devices."""

    loss: Float[Array, ""]
    """Nats per label token, with label smoothing if the run has it."""
    tokens: Int[Array, ""]
    """Label tokens."""
    grad_norm: Float[Array, ""]
    """Global norm before clipping."""
    skipped: Bool[Array, ""]
    """Whether the update was left out, as loss or gradients were not finite and the run allows for it."""


class Part(NamedTuple):
    """Windows that a device takes at once."""

    windows: Window
    columns_B: Int[Array, "B"]
    """Their places in the global batch."""


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


def make_train_step(
    build: Callable[[Params, Params], Whisper], optimizer: optax.GradientTransformation, mesh: Mesh, config: TrainConfig
) -> Callable[[TrainState, Window], tuple[TrainState, Metrics]]:
    """The compiled step over `mesh`; it consumes the state it is given."""
    may_skip = config.compute_dtype == "float16" or config.skip_non_finite > 0

    def step(state: TrainState, batch: Window) -> tuple[TrainState, Metrics]:
        scale = state.loss_scale.scale if state.loss_scale else jnp.ones(())
        nats, tokens, grads = sums_of_windows(build, mesh, config, state, scale, batch)
        count = jnp.maximum(tokens, 1).astype(jnp.float32) * scale
        grads = jax.tree.map(lambda grad: grad / count, grads)
        metrics = Metrics(nats / count, tokens, optax.tree.norm(grads), jnp.zeros((), bool))
        params, opt_state = apply(optimizer, grads, state)
        ema = averaged(state.ema, params, config.ema_decay)
        after = state._replace(params=params, opt_state=opt_state, ema=ema)
        if may_skip:
            finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.grad_norm)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
            after = after._replace(loss_scale=state.loss_scale and state.loss_scale.after(finite))
            metrics = metrics._replace(skipped=~finite)
        after = after._replace(step=state.step + 1)
        return jax.lax.with_sharding_constraint(after, shardings(after, mesh)), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=COMPILER_OPTIONS.get(jax.default_backend()))


def sums_of_windows(
    build: Callable[[Params, Params], Whisper],
    mesh: Mesh,
    config: TrainConfig,
    state: TrainState,
    scale: Array,
    batch: Window,
) -> Summed:
    """Loss, label tokens and gradients by the trained parameters, added up over the windows of a global batch."""
    lies = {**specs(state.params, mesh), **specs(state.buffers, mesh)}
    names = trained(state.params, config.freeze).keys()

    def on_device(params: Params, buffers: Params, step: Array, scale: Array, batch: Window) -> Summed:
        params, buffers = ({n: varying(x, lies[n]) for n, x in part.items()} for part in (params, buffers))
        own, others = {name: params[name] for name in names}, {n: x for n, x in params.items() if n not in names}

        def sums(part: Part) -> Summed:
            def summed_loss(own: Params) -> Array:
                model = build(whole_but_layers({**others, **own}, lies), whole_but_layers(buffers, lies))
                gathering_layers(model, lies)
                return scaled_loss(model, part, step, scale, config)

            nats, grads = jax.value_and_grad(summed_loss)(own)
            return Summed(nats, label_count(part.windows.labels_L), grads)

        share = len(batch.labels_L)
        columns_B = jax.lax.axis_index(AXES) * share + jnp.arange(share)
        nats, tokens, grads = in_parts(sums, Part(batch, columns_B), config.gradient_accumulation_steps)
        grads = {name: summed(grad, lies[name]) for name, grad in grads.items()}
        return Summed(jax.lax.psum(nats, AXES), jax.lax.psum(tokens, AXES), grads)

    params, buffers = ({name: lies[name] for name in part} for part in (state.params, state.buffers))
    grads = {name: lies[name] for name in names}
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(params, buffers, EVERYWHERE, EVERYWHERE, WINDOWS),
        out_specs=Summed(EVERYWHERE, EVERYWHERE, grads),  # type: ignore[arg-type]
    )(state.params, state.buffers, state.step, scale, batch)


def scaled_loss(model: Whisper, part: Part, step: Array, scale: Array, config: TrainConfig) -> Float[Array, ""]:
    """`scale` times the summed loss of the part's windows, as training sees them."""
    batch = part.windows
    log_mel_BFM = restore(batch.log_mel_q_FM, batch.log_mel_max_F)
    if config.spec_augment.masks:
        keys_B = window_keys(config.seed, step, part.columns_B)
        log_mel_BFM = spec_augment(log_mel_BFM, speech_frames(batch.log_mel_max_F), keys_B, config.spec_augment)
    drops = config.dropout or config.activation_dropout or config.attention_dropout
    dropout = Dropout(config, dropout_key(config, step, part)) if drops else None
    x_BLD = model.decoder(batch.tokens_L, model.encoder(log_mel_BFM, dropout), dropout)
    embedding_VD = model.decoder.embed_tokens.embedding[...]
    return vocabulary_loss(x_BLD, embedding_VD, batch.labels_L, scale, config.label_smoothing)


def dropout_key(config: TrainConfig, step: Array, part: Part) -> PRNGKeyArray:
    """Dropout's key for a part of a step, known by its first window."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return jax.random.fold_in(key, part.columns_B[0])


def in_parts(sums: Callable[[Part], Summed], batch: Part, parts: int) -> Summed:
    """The sums of a device's windows, added up over equal parts of them, so that one part's activations exist."""
    if parts == 1:
        return sums(batch)
    split: Part = jax.tree.map(lambda array: array.reshape(parts, -1, *array.shape[1:]), batch)
    shapes = jax.eval_shape(sums, jax.tree.map(lambda array: array[0], split))
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)
    own = jax.lax.pcast(zeros, AXES, to="varying")
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, sums(part)), None), own, split)[0]
