"""Every setting of the trainer's side, as frozen dataclasses with Hugging Face's spelling.

The resolved config is saved beside every artefact it made.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax

from data.errors import UserError
from data.folds import UNDIVIDED, Fold
from jax_train.spec_augment import NO_MASKS, SpecAugment


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """Whisper's architecture: the fields of a Hugging Face `config.json` that decide shapes."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    decoder_layers: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab_size: int = 51_865
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    max_target_positions: int = 448

    @classmethod
    def from_folder(cls, folder: Path) -> "WhisperConfig":
        """The architecture of a Hugging Face Whisper folder. Raises `UserError` if it is none."""
        path = folder / "config.json"
        if not path.is_file():
            raise UserError(f"{folder}: no config.json; give a Hugging Face Whisper folder or a hub name")
        fields = json.loads(path.read_text())
        if fields.get("model_type") != "whisper":
            raise UserError(f"{path}: model_type is {fields.get('model_type')!r}, only 'whisper' can be trained")
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in fields]
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; take the config.json of the original model")
        return cls(**{name: fields[name] for name in names})

    def with_heads(self, heads: int) -> "WhisperConfig":
        """This architecture with all attention split into `heads`; 0: as it is."""
        if not heads:
            return self
        if self.d_model % heads:
            raise UserError(f"--attention-heads {heads}: does not divide d_model {self.d_model}")
        return dataclasses.replace(self, encoder_attention_heads=heads, decoder_attention_heads=heads)


def _size(d_model: int, layers: int, heads: int, decoder_layers: int | None = None, **other: int) -> WhisperConfig:
    return WhisperConfig(
        d_model=d_model,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_layers=layers if decoder_layers is None else decoder_layers,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * d_model,
        decoder_ffn_dim=4 * d_model,
        **other,
    )


PUBLISHED = {
    "tiny": _size(384, 4, 6),
    "base": _size(512, 6, 8),
    "small": _size(768, 12, 12),
    "medium": _size(1024, 24, 16),
    "large": _size(1280, 32, 20),
    "large-v2": _size(1280, 32, 20),
    "large-v3": _size(1280, 32, 20, vocab_size=51_866, num_mel_bins=128),
    "large-v3-turbo": _size(1280, 32, 20, decoder_layers=4, vocab_size=51_866, num_mel_bins=128),
}
"""The multilingual Whisper models, sizes as published (arXiv 2212.04356, table 1, and the hub's config.json files)."""

LEARNING_RATES = {
    "tiny": 3.75e-5,
    "base": 2.5e-5,
    "small": 1.25e-5,
    "medium": 6.25e-6,
    "large": 4.4e-6,
    "large-v2": 5e-6,
    "large-v3": 5e-6,
    "large-v3-turbo": 5e-6,
}
"""Peak learning rates the field fine-tunes with: OpenAI's own training rates / 40."""


def learning_rate_for(config: WhisperConfig, optimizer: str = "adamw") -> float:
    """The field's peak learning rate for an architecture; raises `UserError` where there is none.

    Muon's updates are scaled to AdamW's, so its rate is too; Lion's is some 3 to 10 times smaller, Adafactor's is
    relative to the parameters' size.
    """
    if optimizer not in ("adamw", "muon"):
        raise UserError(f"no usual learning rate for {optimizer}: give --learning-rate")
    for name, published in PUBLISHED.items():
        if (published.d_model, published.decoder_layers) == (config.d_model, config.decoder_layers):
            return LEARNING_RATES[name]
    raise UserError(f"no usual learning rate for d_model {config.d_model}: give --learning-rate")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which matrices get an adapter, and of what size; the defaults are the LoRA paper's choice of matrices."""

    rank: int = 32
    """Columns of A and rows of B; 0: no adapters, the whole model is trained."""
    alpha: float = 64.0
    """An adapter counts alpha / rank times."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers by the end of their path, * for any text: q_proj, decoder.*.fc1, encoder.layers.0.self_attn.*"""
    frozen_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the model's own matrices, which are not trained, are kept; in another than the compute type, a copy
    of each is made and kept for the backward pass."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f"LoRA rank {self.rank}: at least 1, or 0 for none")
        if not self.alpha > 0:
            raise UserError(f"LoRA alpha {self.alpha}: more than 0")
        if not self.targets:
            raise UserError("LoRA without targets: name linear layers, for example q_proj v_proj")


ALLOWED: dict[str, Callable[[float], bool]] = {
    "epochs batch_size gradient_accumulation_steps fsdp processes save_steps eval_steps eval_batch_size keep keep_best "
    "log_steps": lambda value: 0 < value < math.inf,
    "attention_heads steps learning_rate weight_decay max_grad_norm process workers save_minutes skip_non_finite "
    "eval_clips profile patience seed": lambda value: 0 <= value < math.inf,
    "timestamps prompt_share single warmup": lambda share: 0 <= share <= 1,
    "beta1 beta2 muon_momentum label_smoothing dropout activation_dropout attention_dropout ema_decay": lambda share: (
        0 <= share < 1
    ),
    "max_eval_share": lambda share: 0 < share <= 1,
}
"""Which values the settings of these names may have."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    shards: Path
    """Folder written by featurize: one folder per split."""
    run: Path
    """Folder for checkpoints, metrics and TensorBoard events; a run found there is continued."""
    preset: str = ""
    """Settings to start from, which other options override: tiny … large-v3-turbo, lab/…; see `jax_train.presets`."""
    model: str = "openai/whisper-tiny"
    """Hugging Face Whisper folder, or a name on the hub."""
    attention_heads: int = 0
    """Heads that the model's attention is split into, another number than it was trained with; 0: its own."""
    split: str = "train"
    """Split to train on."""
    fold: Fold = UNDIVIDED
    """Fold of the split to leave out, for cross-validation."""
    language: str = ""
    """Language token the labels carry; by default what the shards say they are in."""
    epochs: float = 3.0
    """Passes over the clips; each clip appears once per pass, as one of its copies."""
    steps: int = 0
    """Stop after this many steps; 0: by epochs."""
    batch_size: int = 16
    """30 s windows per step, over all devices of all processes."""
    windows: Literal["packed", "padded"] = "packed"
    """packed: whole clips end to end until 30 s are full; padded: one clip per window."""
    timestamps: float = 0.5
    """Share of packed windows whose labels carry the clips' boundaries as timestamp tokens."""
    single: float = 0.1
    """Share of packed windows that hold a single clip, so that short-audio behaviour is kept."""
    prompt_share: float = 0.0
    """Share of packed windows whose decoder first reads the text of the window before, as for long audio.

    None unless asked for: Common Voice's sentences do not follow from one another, and a prompt lengthens the labels of
    every window. Where recordings do continue, Distil-Whisper prompts a fifth of them."""
    learning_rate: float = 0.0
    """Peak learning rate; 0: the field's for this model size."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises linearly from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up: decay to 0, or none."""
    optimizer: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    """adafactor: little memory, rate relative to the parameters; lion: half AdamW's memory, wants a smaller rate;
    muon: for the layers' matrices, with AdamW for the rest."""
    weight_decay: float = 0.01
    """Decoupled weight decay, times the learning rate; on matrices, convolutions and embeddings, never on biases and
    layer norms."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0: never."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean; in Lion the momentum's share of the update."""
    beta2: float = 0.98
    """AdamW's decay of the gradient's square, OpenAI's own for Whisper; Lion's decay of the momentum."""
    muon_momentum: float = 0.95
    """Muon's decay of the momentum."""
    gradient_accumulation_steps: int = 1
    """Parts in which each device takes its share of the batch, one after the other: less memory, the same step."""
    label_smoothing: float = 0.0
    """Share of each label's weight that is spread evenly over the vocabulary."""
    dropout: float = 0.0
    """Share of hidden states set to 0 in training: embeddings, and what attention and feed-forward add."""
    activation_dropout: float = 0.0
    """The same inside each feed-forward."""
    attention_dropout: float = 0.0
    """The same of attention probabilities; slower, as no fused attention does it."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, by patterns of their PyTorch names: "model.encoder.*" "*.fc1.bias"."""
    ema_decay: float = 0.0
    """Decay of a moving average of the parameters, which evaluation and export then use; 0: none."""
    lora: Lora = Lora(rank=0)
    """Small adapters that are trained in the model's place."""
    spec_augment: SpecAugment = NO_MASKS
    """Masks on the log-mel."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of activations and matrix products; parameters and optimizer stay float32. float16, for GPUs without
    bfloat16 (T4), scales the loss and leaves out steps that overflow. auto: what the run in RUN has, or bfloat16 on
    TPUs and GPUs that have it, float16 on other GPUs, float32 on CPUs."""
    deterministic: bool = False
    """On a GPU, the same bits every time: slower operations in place of those that add up in whatever order comes."""
    remat: Literal["auto", "none", "feed_forward", "layers"] = "auto"
    """What of a layer the backward pass computes again rather than keeps; auto: the least with which a step fits."""
    fsdp: int = 1
    """Devices that share one copy of parameters and optimizer state; 1: each has its own."""
    coordinator: str = ""
    """HOST:PORT of the first of several processes, on one or many machines, that run this command with the same
    settings; auto: what a TPU pod, Slurm or Open MPI says. None: this process alone."""
    processes: int = 1
    """Their number, unless the coordinator is auto."""
    process: int = 0
    """Which of them this is, from 0."""
    seed: int = 0
    """Order of clips, windows and copies."""
    workers: int = 0
    """Processes that read windows; 0: a thread of this one, faster where cores are few. The windows are the same."""
    save_steps: int = 500
    """Steps between checkpoints; the last step is always saved."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is due although those steps are not done; 0: never."""
    keep: int = 2
    """Newest checkpoints kept."""
    keep_best: int = 1
    """Checkpoints of lowest WER kept beside them, if the run evaluates."""
    on_save_failure: Literal["stop", "continue"] = "stop"
    """What to do when a checkpoint cannot be written, as on a full disk; the last good one is kept."""
    skip_non_finite: int = 0
    """Steps whose loss or gradient is no number that a run may leave out; at the next one it stops."""
    eval_split: str = ""
    """Split to transcribe now and then, for example dev; none by default. Each evaluation saves a checkpoint."""
    eval_steps: int = 500
    """Steps between evaluations; there is always one at the end."""
    eval_clips: int = 200
    """Clips of the split to transcribe, the same every time, drawn by the seed; 0: all."""
    max_eval_share: float = 0.05
    """Share of the time that evaluations may take: one that would go beyond it waits for the next turn. The first and
    the last never wait."""
    patience: int = 0
    """Evaluations in a row without a lower WER after which the run ends early; 0: never."""
    eval_batch_size: int = 8
    """30 s windows at a time on each device in an evaluation."""
    profile: int = 0
    """Steps to trace into RUN/profile, after two others; 0: none."""
    log_steps: int = 1
    """Steps between rows of metrics.jsonl."""

    def __post_init__(self) -> None:
        for names, allowed in ALLOWED.items():
            for name in names.split():
                if not allowed(value := getattr(self, name)):
                    raise UserError(f"--{name.replace('_', '-')} {value}: see --help for what is allowed")
        if self.process >= self.processes:
            raise UserError(f"--process {self.process}: from 0, and below --processes {self.processes}")
        if self.processes > 1 and not self.coordinator:
            raise UserError(f"--processes {self.processes}: give --coordinator HOST:PORT of the first of them")
        if self.patience and not self.eval_split:
            raise UserError(f"--patience {self.patience}: give --eval-split too, the split whose WER decides")
        if self.lora.rank and self.freeze:
            raise UserError("--freeze with LoRA: adapters leave all of the model frozen already; drop one of them")


def compilation_cache(folder: Path | None = None) -> None:
    """Keep compiled programs in `folder`, so that only the first run of a shape compiles.

    Without one: where JAX_COMPILATION_CACHE_DIR says, or in .cache/jax.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR") if folder is None else None  # may be a bucket's
    place = named or str((folder or Path(".cache/jax")).absolute())
    jax.config.update("jax_compilation_cache_dir", place)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
