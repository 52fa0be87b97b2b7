"""The Hugging Face folder an export writes, so that nothing in it depends on where the run's own model came from.

Decision: settings that `transformers` refuses or no longer reads are taken out (`forced_decoder_ids`, a `max_length` in
config.json that may be null), paths of this machine too; the feature extractor is written in both of the files that
programs look for: `preprocessor_config.json` (faster-whisper, transformers 4) and `processor_config.json`
(what transformers 5 saves).
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from data.errors import NO_ROOM, UserError
from data.log_mel import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, SAMPLE_RATE, WINDOW_SECONDS
from jax_train.checkpoints import copy_small_files, run_model_folder
from jax_train.model import Whisper
from jax_train.run_settings import read_settings
from jax_train.runlog import write_json
from jax_train.weights import to_torch_tensors

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OF_ANOTHER_TIME = ("forced_decoder_ids", "max_length", "torch_dtype", "_name_or_path")
PATHS = ("name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Settings of tokenizer_config.json in which older versions of `transformers` noted where the tokenizer lay."""
TOKENIZER_SETTINGS = "tokenizer_config.json"
ORIGINAL = "take the original model's file"


def write_folder(model: Whisper, run: Path, folder: Path, dtype: str = "float32") -> None:
    """A Hugging Face folder: safetensors of `dtype`, config, tokenizer, processor, and the language it now writes."""
    copy_small_files(run_model_folder(run), folder)
    config = _without(folder / "config.json", OF_ANOTHER_TIME)
    # The trainer takes a model that says otherwise, if its output matrix is the token embedding; it writes that once.
    write_json(folder / "config.json", config | {"dtype": dtype, "tie_word_embeddings": True})
    if (folder / TOKENIZER_SETTINGS).is_file():
        write_json(folder / TOKENIZER_SETTINGS, _without(folder / TOKENIZER_SETTINGS, PATHS))
    generation = read_object(folder / "generation_config.json", ORIGINAL)
    language = read_settings(run)["language"]
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
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
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


def _without(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file's settings but for those of these names."""
    return {name: value for name, value in read_object(path, ORIGINAL).items() if name not in names}


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` with `advice` where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not there; {advice}") from error
    except ValueError as error:  # no JSON, or no text
        raise UserError(f"{path}: cannot be read ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object; {advice}")
    return found


def save_tensors(tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises `OSError` on a full disk, as whatever else is written does."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        if full := no_room(str(error), path):
            raise full from error
        raise


def no_room(said: str, path: Path | None = None) -> OSError | None:
    """The error of a full disk, if it is one that a library or another program tells of in words."""
    number = re.search(r"(?:os error |\[Errno )(\d+)", said)
    if number is None or int(number[1]) not in NO_ROOM:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path) if path else None)
