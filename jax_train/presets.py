"""Named settings to start a run from: `--preset NAME`; whatever else is said on the command line goes before them.

Decision: a preset is a plain value, and what is not in it is `TrainConfig`'s default. Each says on which hardware it
is meant to run, and the times and scores that are known; where these are not ours, it says whose they are. Memory is
`jax_train.memory_plan`'s, on paper, for windows of the full 448 tokens in a type of two bytes; which one is the
device's own matter (`--compute-dtype auto`).
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import tyro

from data.errors import UserError
from jax_train.config import LEARNING_RATES, Lora, TrainConfig

PUBLISHED_BY_OTHERS = "WER on Common Voice 11 Italian, normalised, published by others, not measured by us:"
FOREIGN = "The lab's scores are its own, as written, on 10 % of the data, not measured by us:"


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings under a name."""

    doc: str
    """Hardware, time and score, where known."""
    card_gb: int
    """Memory of the one device it fits, in 10⁹ bytes, on paper."""
    settings: dict[str, Any]
    """Fields of `TrainConfig`."""


def _size(name: str, card_gb: int, parts: int, doc: str) -> Preset:
    """A published size: 16 packed windows a step, in as many parts as the device needs, at the field's rate."""
    settings = {
        "model": f"openai/whisper-{name}",
        "learning_rate": LEARNING_RATES[name],
        "batch_size": 16,
        "gradient_accumulation_steps": parts,
    }
    return Preset(f"Whisper {name}, all parameters, on one device of {card_gb} GB. {doc}", card_gb, settings)


def _lab(doc: str, model: str = "tiny", **changed: Any) -> Preset:
    """A run of the lab's. Its own figures are not known to us; these are the usual ones of its time.

    Learning rate, warm-up, steps and batch are those of the recipe most followed then
    (huggingface.co/blog/fine-tune-whisper), weight decay and AdamW's decays the defaults of the trainer it uses; padded
    windows, as it knows no others.
    """
    settings: dict[str, Any] = {
        "model": f"openai/whisper-{model}",
        "windows": "padded",
        "learning_rate": 1e-5,
        "warmup": 0.125,
        "steps": 4000,
        "batch_size": 16,
        "beta2": 0.999,
        "weight_decay": 0.0,
    }
    settings |= changed
    return Preset(f"{doc} {_LAB}", 16 if model == "tiny" else 40, settings)


def _sample(doc: str, **changed: Any) -> Preset:
    """A short run on the sample corpus, as the demo's: base, small batches for many steps."""
    settings: dict[str, Any] = {
        "model": "openai/whisper-base",
        "learning_rate": 3e-5,
        "batch_size": 2,
        "steps": 12,
    }
    return Preset(
        f"{doc} Two thirds of a pass over 15 minutes of speech; minutes on two cores.", 16, settings | changed
    )


_LAB = (
    "Known of the lab: Common Voice 11 Italian, train and validation merged, a tenth of it, RECIPE=lab. Its hardware, "
    "learning rate, steps, batch and copies are not known to us: the usual ones stand here."
)

PRESETS = {
    "tiny": _size("tiny", 16, 1, f"{PUBLISHED_BY_OTHERS} 25.9 to 26.6."),
    "base": _size("base", 16, 2, f"{PUBLISHED_BY_OTHERS} 17.4."),
    "small": _size(
        "small",
        16,
        4,
        f"{PUBLISHED_BY_OTHERS} 8.0 to 12.3; their speed 5.6 padded windows a second on a V100, 11 to 15 on an A100.",
    ),
    "medium": _size("medium", 40, 4, f"{PUBLISHED_BY_OTHERS} 5.5 to 7.7."),
    "large": _size("large", 80, 4, "Its time and score are not known to us."),
    "large-v2": _size("large-v2", 80, 4, f"{PUBLISHED_BY_OTHERS} 4.6."),
    "large-v3": _size("large-v3", 80, 4, "128 mel bins. Its time and score are not known to us."),
    "large-v3-turbo": _size("large-v3-turbo", 40, 8, "128 mel bins. Its time and score are not known to us."),
    "lab/tiny": _lab(f"The lab's Whisper tiny. {FOREIGN} WER 41.27; which of its tiny runs that was, we do not know."),
    "lab/small": _lab(
        f"The lab's Whisper small. {FOREIGN} WER 22.11 on the first 10 % of test, 16.30 on the rest.",
        "small",
        gradient_accumulation_steps=2,
    ),
    "lab/tiny-learning-rate": _lab(
        "lab/tiny at the field's rate for tiny, OpenAI's own / 40; the lab's other rate is not known to us.",
        learning_rate=LEARNING_RATES["tiny"],
    ),
    "lab/tiny-weight-decay": _lab(
        "lab/tiny with weight decay 0.1, Whisper's own in training (arXiv 2212.04356); the lab's is not known to us.",
        weight_decay=0.1,
    ),
    "lab/tiny-dropout": _lab(
        "lab/tiny with dropout 0.1 of the hidden states, the transformer's usual; the lab's is not known to us.",
        dropout=0.1,
    ),
    "lab/tiny-8-heads": _lab(
        "lab/tiny with 8 attention heads in place of 6. This departs from the pretrained split: queries, keys and "
        "values were learned as 6 heads of 64 numbers and are read as 8 of 48, so attention begins in disorder.",
        attention_heads=8,
    ),
    "sample/base": _sample("Whisper base on the sample corpus, all parameters, packed windows."),
    "sample/frozen-encoder": _sample("sample/base with the encoder as it is.", freeze=("model.encoder.*",)),
    "sample/lora": _sample(
        "sample/base with adapters of rank 8 alone, at ten times the rate.", lora=Lora(rank=8), learning_rate=3e-4
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises `UserError`, which lists all, for another name."""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def from_command_line(arguments: Sequence[str], description: str | None) -> TrainConfig:
    """The settings a command line gives: those it names, else its preset's, else the defaults.

    The preset is looked for first, so that tyro takes its values as defaults and `--help` shows them.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", nargs="?")
    name = finder.parse_known_args(arguments)[0].preset
    settings: dict[str, Any] = {}
    if name:
        preset = find_preset(name)
        description = f"{description}\n\nPreset {name}: {preset.doc}"
        settings = preset.settings
    default = TrainConfig(shards=tyro.MISSING, run=tyro.MISSING, **settings)
    return tyro.cli(TrainConfig, args=arguments, default=default, description=description)
