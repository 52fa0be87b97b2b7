"""What a train step needs of a device's memory, on paper: the command and the function that say so before a run.

Weights, gradients and optimizer are counted from the model's own shapes, activations from what JAX saves of a layer
for its backward pass (attention's probabilities are recomputed, see `jax_train.attention`). The workspace is an
estimate from above; XLA's own plan may be smaller, as it fuses and reuses, and larger by some gaps.

S encoder positions, L tokens, D d_model, H heads, V vocabulary.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax
import tyro

from data.errors import UserError, command
from jax_train.config import PUBLISHED, Lora, WhisperConfig
from jax_train.gathering import FLOAT32, gathered_bytes
from jax_train.layers import Remat
from jax_train.lora import adapted_layers, count, init
from jax_train.loss import CHUNKS
from jax_train.model import Params, Whisper, functional
from jax_train.optimizer import trained
from jax_train.precision import Type

ADAMW = optax.adamw(1e-5)
SCORES_KEPT = 4  # of one layer's attention: scores, probabilities, the gradients of both
LOGITS_KEPT = 3  # logits, their softmax, its gradient
GIGABYTE = 1e9
CARD_SHARE = 0.9  # of a card's memory that a program gets; driver, context and gaps take the rest


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device at the height of a train step."""

    weights: int
    """The model's parameters and buffers as stored."""
    adapters: int
    """LoRA's A and B; 0 where the whole model is trained."""
    gradients: int
    """Of what is trained, float32."""
    optimizer: int
    """Its state, of what is trained."""
    average: int
    """The moving average of what is trained, float32; 0 without one."""
    copies: int
    """Matrices in the compute type: those merged with an adapter, and those stored in another type."""
    gathered: int
    """Whole parameters, where they lie split: those of no layer, and two layers', one of them on its way."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    workspace: int
    """Attention scores of one layer, where they are made; the logits of a chunk of tokens."""

    @property
    def total(self) -> int:
        """All together."""
        return sum(dataclasses.asdict(self).values())

    def fits(self, card_gb: float) -> bool:
        """Whether a card of `card_gb` · 10⁹ bytes has the room."""
        return self.total <= card_gb * GIGABYTE * CARD_SHARE

    def table(self) -> str:
        """The plan for people."""
        rows = [*dataclasses.asdict(self).items(), ("total", self.total)]
        return "\n".join(f"{name:12}{size / GIGABYTE:9.2f} GB" for name, size in rows)


def memory_plan(
    config: WhisperConfig,
    *,
    lora: Lora | None,
    batch_size: int = 1,
    tokens: int = 448,
    weights_dtype: Type = "float32",
    compute_dtype: Type = "float32",
    remat: Remat = "none",
    fused_attention: bool = False,
    fsdp: int = 1,
    freeze: tuple[str, ...] = (),
    optimizer: optax.GradientTransformation = ADAMW,
    averages: bool = False,
) -> MemoryPlan:
    """The plan for `batch_size` windows of `tokens` label tokens on one device.

    With `lora` the weights are frozen and may be stored in `weights_dtype`; else all that `freeze` does not name are
    trained, in float32, and an `optimizer` has its state of them. With `remat` a layer keeps less, as `layers.Remat`
    says. `fused_attention`, as `precision.fuses_attention` says of a device, makes no scores. Parameters and what
    belongs to them lie split between `fsdp` devices. Raises `UserError` for a target or pattern that matches nothing.
    """
    if lora is None and weights_dtype != "float32":
        raise UserError(f"weights in {weights_dtype}: only frozen ones; a whole model is trained in float32")
    params, buffers = shapes(config)
    stored, computed = jnp.dtype(weights_dtype).itemsize, jnp.dtype(compute_dtype).itemsize
    matrices = {name: math.prod(x.shape) for name, x in params.items() if x.ndim > 1}
    others = sum(math.prod(x.shape) for x in params.values() if x.ndim <= 1)
    own = trained(params, freeze)
    if lora:
        own = jax.eval_shape(functools.partial(init, params, lora.rank, lora.targets), jax.random.key(0))
    merged = {f"{path}.kernel" for path in adapted_layers(params, lora.targets)} if lora else set()
    own_bytes = count(own) * FLOAT32
    state = [x for x in jax.tree.leaves(jax.eval_shape(optimizer.init, own)) if x.ndim]
    copied = matrices if weights_dtype != compute_dtype else {name: matrices[name] for name in merged}
    scores = 0 if fused_attention else batch_size * score_bytes(config)
    kept_float32 = others + sum(math.prod(x.shape) for x in buffers.values())
    return MemoryPlan(
        weights=(sum(matrices.values()) * stored + kept_float32 * FLOAT32) // fsdp,
        adapters=own_bytes // fsdp if lora else 0,
        gradients=own_bytes // fsdp,
        optimizer=sum(math.prod(x.shape) * x.dtype.itemsize for x in state) // fsdp,
        average=own_bytes // fsdp if averages else 0,
        copies=sum(copied.values()) * computed // fsdp,
        gathered=gathered_bytes(params | buffers, computed) + (own_bytes if lora else 0) if fsdp > 1 else 0,
        activations=batch_size * activation_bytes(config, tokens, lora is not None, computed, remat),
        workspace=scores + vocabulary_bytes(config, batch_size * tokens),
    )


@functools.cache
def shapes(config: WhisperConfig) -> tuple[Params, Params]:
    """The model's parameters and buffers, the parameters as shapes alone."""
    params, buffers, _ = functional(Whisper(config))
    return params, buffers


def activation_bytes(config: WhisperConfig, tokens: int, is_lora: bool, computed: int, remat: Remat) -> int:
    """Bytes that one window's forward pass keeps, counted in what JAX saves for the backward pass of these layers.

    All in the compute type of `computed` bytes; GELU and layer norms keep their input alone. Frozen matrices need no
    inputs kept.
    """
    s, d = config.max_source_positions, config.d_model
    ffn = 1 if is_lora else 2  # GELU's input; what follows it
    encoder_layer = s * (d * (7 if is_lora else 9) + ffn * config.encoder_ffn_dim) * computed
    decoder_layer = tokens * (d * (11 if is_lora else 14) + ffn * config.decoder_ffn_dim) * computed
    decoder_layer += 2 * s * d * computed  # keys and values of the encoder's positions
    ends = (1 if is_lora else 7) * s * d * computed  # convolutions: two arrays of 2 S frames; the last layer norm
    if remat == "feed_forward":  # its input alone, and one layer's while it is computed again
        rest = ((0 if is_lora else d) + ffn * config.encoder_ffn_dim) * computed
        kept = config.encoder_layers * s * rest + config.decoder_layers * tokens * rest
        return activation_bytes(config, tokens, is_lora, computed, "none") - kept + s * rest
    if remat == "layers":
        inputs = (config.encoder_layers * s + config.decoder_layers * tokens) * d * computed
        return ends + inputs + max(encoder_layer, decoder_layer)
    return ends + config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer


def score_bytes(config: WhisperConfig) -> int:
    """Bytes of the float32 attention scores of one window that live for one layer's time."""
    return SCORES_KEPT * config.encoder_attention_heads * config.max_source_positions**2 * FLOAT32


def vocabulary_bytes(config: WhisperConfig, tokens: int) -> int:
    """Bytes of the float32 logits of a chunk of the `tokens` of a step, and of the embedding's gradient beside them."""
    return (LOGITS_KEPT * min(CHUNKS["gpu"], tokens) + config.d_model) * config.vocab_size * FLOAT32


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Prints what fine-tuning a published Whisper needs of one device's memory, and which batch fits a card."""

    model: str = "large-v3"
    """Size of Whisper: tiny, base, small, medium, large-v3, large-v3-turbo, …"""
    rank: int = 32
    """LoRA's rank; 0: the whole model is trained."""
    targets: tuple[str, ...] = Lora.targets
    """LoRA's linear layers."""
    card_gb: float = 16.0
    """Memory of the card in 10⁹ bytes; a T4 has 16."""
    batch_size: int = 1
    """30 s windows on the device."""
    remat: Remat = "none"
    """What of each layer is computed again for the backward pass."""
    compute_dtype: Type = "float16"
    """Type of activations and matrix products: float16 on a T4, which has no bfloat16."""
    frozen_dtype: Type | None = None
    """Type in which LoRA keeps the model's own matrices; none: the compute type."""
    fused_attention: bool = False
    """One kernel for attention, which makes no scores: TPUs, GPUs of compute capability 8 and more, not a T4."""
    fsdp: int = 1
    """Devices between which parameters, gradients and optimizer state are split."""

    def __post_init__(self) -> None:
        if self.model not in PUBLISHED:
            raise UserError(f"--model {self.model}: there are {', '.join(PUBLISHED)}")
        for name in ("batch_size", "fsdp", "card_gb"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: more than 0")
        if not 0 <= self.rank <= PUBLISHED[self.model].d_model:
            raise UserError(f"--rank {self.rank}: up to {PUBLISHED[self.model].d_model}, above which it adds nothing")

    def plan(self, batch_size: int) -> MemoryPlan:
        """The plan for a batch size."""
        return memory_plan(
            PUBLISHED[self.model],
            lora=Lora(self.rank, targets=self.targets) if self.rank else None,
            batch_size=batch_size,
            weights_dtype=(self.frozen_dtype or self.compute_dtype) if self.rank else "float32",
            compute_dtype=self.compute_dtype,
            remat=self.remat,
            fused_attention=self.fused_attention,
            fsdp=self.fsdp,
        )

    def options(self) -> str:
        """What the train command is to be told, so that it keeps to the plan."""
        kept = self.frozen_dtype or self.compute_dtype
        lora = f"--lora.rank {self.rank} --lora.targets {' '.join(self.targets)} --lora.frozen-dtype {kept} "
        remat = f" --remat {self.remat}" if self.remat != "none" else ""
        fsdp = f" --fsdp {self.fsdp}" if self.fsdp > 1 else ""
        return f"{lora if self.rank else ''}--compute-dtype {self.compute_dtype}{remat}{fsdp}"


def largest_batch(config: PlanConfig) -> int:
    """Windows that the card holds; 0: none."""
    one, two = config.plan(1), config.plan(2)
    fixed, per_window = 2 * one.total - two.total, two.total - one.total
    return max(0, int((config.card_gb * GIGABYTE * CARD_SHARE - fixed) // per_window))


@command
def main() -> None:
    config = tyro.cli(PlanConfig)
    jax.config.update("jax_platforms", "cpu")  # shapes alone: no reason to take a card
    print(config.plan(config.batch_size).table())
    print(f"train with {config.options()}")
    print(f"largest batch on a card of {config.card_gb:g} GB: {largest_batch(config)} window(s)")


if __name__ == "__main__":
    main()
