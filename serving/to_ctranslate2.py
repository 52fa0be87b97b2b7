"""A Hugging Face Whisper folder → a CTranslate2 folder, which faster-whisper loads; and what it writes of given clips.

Decision: CTranslate2's own converter, which needs torch and so has a process of its own. `tokenizer.json` and
`preprocessor_config.json` go with the weights: without them faster-whisper takes OpenAI's tokenizer from the hub, and
80 mel bins for granted (faster-whisper #220, #464).

C clips, M mel bins, F mel frames (3000), P prompt tokens.

    python -m serving.to_ctranslate2 --model FOLDER --out FOLDER --dtype int8 --clips FILE.safetensors
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ctranslate2
import numpy as np
import tyro
from ctranslate2.converters import TransformersConverter
from safetensors.numpy import load_file

from serving.errors import command
from serving.model import quiet_transformers

COPIED = ["tokenizer.json", "preprocessor_config.json"]
MAX_LENGTH = 448  # CTranslate2 writes at most half of it


@dataclass(frozen=True)
class Config:
    """Converts a folder for CTranslate2; prints what that writes of the clips as one line of JSON."""

    model: Path
    """A Hugging Face Whisper folder."""
    out: Path
    """Folder to write."""
    clips: Path
    """A safetensors file with the clips' `input_features` (C, M, F) and the `prompt` (P,)."""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    """Type the weights are stored in."""


def convert(model: Path, out: Path, dtype: str) -> None:
    """Write the folder `out`: weights in `dtype`, settings, vocabulary, tokenizer and feature extractor."""
    TransformersConverter(str(model), copy_files=COPIED).convert(str(out), quantization=dtype)


def transcripts(folder: Path, clips: Path, compute_type: str) -> list[list[int]]:
    """Greedy tokens of each clip, under the folder's own suppress lists."""
    tensors = load_file(clips)
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=compute_type)
    features_CMF = ctranslate2.StorageView.from_array(np.ascontiguousarray(tensors["input_features"]))
    prompts = [tensors["prompt"].tolist()] * len(tensors["input_features"])
    found = model.generate(features_CMF, prompts, beam_size=1, max_length=MAX_LENGTH)
    return [result.sequences_ids[0] for result in found]


@command
def main() -> None:
    config = tyro.cli(Config)
    quiet_transformers()
    convert(config.model, config.out, config.dtype)
    # A CPU computes float16 weights in float32.
    compute_type = "int8" if config.dtype == "int8" else "float32"
    print(json.dumps({"transcripts": transcripts(config.out, config.clips, compute_type)}), flush=True)


if __name__ == "__main__":
    main()
