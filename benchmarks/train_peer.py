"""The usual PyTorch fine-tuning step that `benchmarks/train.py` holds ours against; see there."""

import contextlib
import time
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig as HFConfig
from transformers import WhisperForConditionalGeneration

from benchmarks.input import PROMPT
from data.log_mel import pad_to_window, restore
from data.records import Shards
from jax_train.config import WhisperConfig
from jax_train.windows import IGNORE


def examples(shards: Shards, count: int) -> list[dict[str, Any]]:
    """Features and labels as the usual recipe keeps them: 30 s of float32 each, special tokens around the text."""
    found = []
    for row in range(count):
        record = shards[row % len(shards)]
        features_FM = pad_to_window(restore(record.log_mel_q, record.log_mel_max))
        found.append(
            {
                "input_features": torch.from_numpy(np.ascontiguousarray(features_FM.T)),
                "labels": [*PROMPT.ids()[1:], *record.tokens, PROMPT.end],
                "seconds": record.seconds,
            }
        )
    return found


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacked features, and labels padded to the longest of the batch."""
    longest = max(len(example["labels"]) for example in batch)
    labels = [example["labels"] + [IGNORE] * (longest - len(example["labels"])) for example in batch]
    return {
        "input_features": torch.stack([example["input_features"] for example in batch]),
        "labels": torch.tensor(labels),
    }


def peer_steps(config: WhisperConfig, shards: Shards, batch_size: int, dtype: str, steps: int) -> dict[str, Any]:
    """Times of PyTorch's steps on the same clips."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    model = WhisperForConditionalGeneration(HFConfig(**fields, attn_implementation="sdpa")).to(device).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    precision: Any = contextlib.nullcontext()
    if dtype == "bfloat16":
        precision = torch.autocast(device, torch.bfloat16)
    clips = examples(shards, batch_size * (steps + 1))
    times, tokens, speech, losses = [], [], [], []
    for number in range(steps + 1):
        own = clips[number * batch_size : (number + 1) * batch_size]
        started = time.perf_counter()
        batch = {name: value.to(device, non_blocking=True) for name, value in collate(own).items()}
        with precision:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # waits for the device
        times.append(time.perf_counter() - started)
        tokens.append(int((batch["labels"] != IGNORE).sum()))
        speech.append(float(sum(example["seconds"] for example in own)))
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        "first": times[0],
        "seconds": times[1:],
        "tokens": tokens[1:],
        "speech": speech[1:],
        "loss": losses,
        "memory": memory,
    }
