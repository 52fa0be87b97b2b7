"""What moves the parameters: learning-rate schedule, optimizer by name, weight decay's mask, frozen parameters.

Every optimizer takes the step that PyTorch's of the same name takes, where PyTorch has one (tests/test_optimizer.py);
where optax's ready-made one would not, its parts are put together here. Optimizer state exists for the parameters that
are trained alone.
"""

import fnmatch
import math

import jax
import jax.numpy as jnp
import optax

from data.errors import UserError
from jax_train.config import TrainConfig
from jax_train.model import Params
from jax_train.weights import torch_name

ADAMW_RMS = 0.2  # root mean square of AdamW's usual update, which Muon's is scaled to (arXiv 2502.16982)


def learning_rate_schedule(config: TrainConfig, peak: float, steps: int) -> optax.Schedule:
    """Linear warm-up over `config.warmup` of the steps, then the chosen decay, which ends at 0 after the last."""
    warmup = round(config.warmup * steps)
    rest = max(1, steps - warmup)
    after: dict[str, optax.Schedule] = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }
    # The first step would be lost at rate 0, so the warm-up is shifted by one.
    rise = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after[config.schedule]], [warmup])


def decayed(params: Params) -> dict[str, bool]:
    """Weight decay's mask, as Hugging Face's Trainer: matrices, convolutions, embeddings; no bias, no layer norm."""
    return {name: name.endswith((".kernel", ".embedding")) for name in params}


def make_optimizer(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer that `config.optimizer` names."""
    betas = {"b1": config.beta1, "b2": config.beta2}
    decay = {"weight_decay": config.weight_decay, "mask": decayed}
    makers = {
        "adamw": lambda: optax.adamw(schedule, **betas, **decay),
        "adafactor": lambda: _adafactor(config, schedule),
        "lion": lambda: optax.lion(schedule, **betas, **decay),
        "muon": lambda: _muon(config, schedule),
    }
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    return optax.chain(clip, makers[config.optimizer]())


def _adafactor(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) with weight decay times the learning rate, as in PyTorch; optax.adafactor's is bare.

    The rate is relative to each parameter's root mean square. Three differences from torch.optim.Adafactor remain: its
    eps, which floors a matrix's mean square gradient at 1e-7 (here at the paper's 1e-30); its rate's cap of 1/√step,
    which no usual schedule meets; and a convolution's square gradients are factored over its channels, not its width.
    """
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=1),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon for the layers' matrices, AdamW for embeddings, convolutions, biases and layer norms, at one learning rate.

    optax.contrib.muon corrects its momentum's bias before Nesterov's step, which PyTorch and Muon's author do not;
    plain momentum before optax's orthogonalization is theirs. PyTorch orthogonalizes in bfloat16, this in float32.
    """
    dimensions = optax.contrib.MuonDimensionNumbers()  # a kernel is (in, out)
    inner = optax.contrib.scale_by_muon(
        beta=0.0,
        nesterov=False,
        weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: dimensions, updates),
    )

    def orthogonalize(updates: Params, _params: Params) -> Params:
        orthogonal = inner.update(updates, inner.init(updates))[0]  # without momentum its state is of no use
        return jax.tree.map(lambda x: x * jnp.asarray(ADAMW_RMS * math.sqrt(max(x.shape)), x.dtype), orthogonal)

    muon = optax.chain(
        optax.trace(config.muon_momentum, nesterov=True),
        optax.stateless(orthogonalize),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    adamw = optax.adamw(schedule, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=decayed)
    return optax.partition({"muon": muon, "adamw": adamw}, _muon_or_adamw)


def _muon_or_adamw(params: Params) -> dict[str, str]:
    matrices = {name for name, value in params.items() if name.endswith(".kernel") and value.ndim == 2}
    return {name: "muon" if name in matrices else "adamw" for name in params}


def frozen_names(params: Params, patterns: tuple[str, ...]) -> frozenset[str]:
    """The parameters whose PyTorch name a pattern matches. Raises `UserError` if one matches none, or all do."""
    names = {name: torch_name(tuple(name.split("."))) for name in params}
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name, torch in names.items() if fnmatch.fnmatchcase(torch, pattern)}
        if not matched:
            raise UserError(
                f"--freeze {pattern}: matches no parameter; names are PyTorch's, for example "
                "model.encoder.layers.0.fc1.weight, and * stands for any text"
            )
        frozen |= matched
    if frozen == names.keys():
        raise UserError(f"--freeze {' '.join(patterns)}: leaves no parameter to train")
    return frozenset(frozen)


def trained(params: Params, patterns: tuple[str, ...]) -> Params:
    """The parameters that `patterns` do not freeze: those that have gradients and optimizer state."""
    frozen = frozen_names(params, patterns)
    return {name: value for name, value in params.items() if name not in frozen}
