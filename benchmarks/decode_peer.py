"""The usual loop over `generate` that `benchmarks/decode.py` holds ours against; see there."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration

from data.log_mel import pad_to_window, restore
from data.records import Shards


@torch.no_grad()
def generated(
    folder: Path, shards: Shards, rows: np.ndarray, language: str, batch_size: int, num_beams: int, dtype: str
) -> dict[str, Any]:
    """Transcripts of index `rows` in their order, seconds of writing them, peak bytes of the device (0 on a CPU)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    records = [shards[row] for row in rows]
    windows = [pad_to_window(restore(record.log_mel_q, record.log_mel_max)).T for record in records]

    def texts(own: list[np.ndarray]) -> list[str]:
        features = torch.from_numpy(np.stack(own)).to(device, getattr(torch, dtype))
        tokens = model.generate(
            features, language=language, task="transcribe", num_beams=num_beams, do_sample=False, temperature=None
        )
        return [text.strip() for text in tokenizer.decode_batch(tokens.tolist())]

    texts(windows[:batch_size])  # the first call sets the device up
    started = time.perf_counter()
    found = []
    for first in range(0, len(windows), batch_size):
        found += texts(windows[first : first + batch_size])
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    references = [record.text for record in records]
    return {"texts": found, "references": references, "seconds": seconds, "memory": memory, "device": name}
