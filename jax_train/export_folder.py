"""The Hugging Face folder an export writes, so that nothing in it depends on where the run's own model came from.

Decision: settings that `transformers` refuses or no longer reads are taken out (`forced_decoder_ids`, a `max_length` in
config.json that may be null), paths of this machine too; the feature extractor is written in both of the files that
programs look for: `preprocessor_config.json` (faster-whisper, transformers 4) and `processor_config.json`
(what transformers 5 saves).
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from data.log_mel import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, SAMPLE_RATE, WINDOW_SECONDS
from jax_train.checkpoints import copy_small_files, run_model_folder
from jax_train.model import Whisper
from jax_train.runlog import write_json
from jax_train.weights import to_torch_tensors

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OF_ANOTHER_TIME = ("forced_decoder_ids", "max_length", "torch_dtype", "_name_or_path")


def write_folder(model: Whisper, run: Path, folder: Path, dtype: str = "float32") -> None:
    """A Hugging Face folder: safetensors of `dtype`, config, tokenizer, processor, and the language it now writes."""
    copy_small_files(run_model_folder(run), folder)
    config = _read(folder / "config.json")
    kept = {name: value for name, value in config.items() if name not in OF_ANOTHER_TIME}
    write_json(folder / "config.json", kept | {"dtype": dtype})
    generation = _read(folder / "generation_config.json")
    language = _read(run / "config.json")["language"]
    generation["return_timestamps"] = False
    if generation.get("is_multilingual") is not False:  # a model of English alone refuses to be told either
        generation |= {"language": language, "task": "transcribe"}
    generation["max_length"] = model.config.max_target_positions  # null, or transformers' 20, would cut transcripts
    generation.pop("forced_decoder_ids", None)  # transformers 4.50 and newer refuse it beside language and task
    write_json(folder / "generation_config.json", generation)
    features = _feature_extractor(model.config.num_mel_bins)
    write_json(folder / "preprocessor_config.json", features | {"processor_class": "WhisperProcessor"})
    processor = {"processor_class": "WhisperProcessor", "feature_extractor": features}
    write_json(folder / "processor_config.json", processor)
    tensors = {name: value.astype(TYPES[dtype]) for name, value in to_torch_tensors(nnx.state(model)).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone


def _feature_extractor(n_mels: int) -> dict[str, Any]:
    """The features of the shards, in Hugging Face's words."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": n_mels,
        "sampling_rate": SAMPLE_RATE,
        "n_fft": N_FFT,
        "hop_length": HOP_LENGTH,
        "chunk_length": WINDOW_SECONDS,
        "n_samples": N_SAMPLES,
        "nb_max_frames": N_FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
