"""A Hugging Face Whisper folder → one file in whisper.cpp's format ("ggml"), for programs on phones and desktops.

Decision: our own writer of the few pages the format takes. whisper.cpp's converter wants OpenAI's repository beside it
for the mel filters, a `vocab.json` and `added_tokens.json` that newer folders no longer have, and a `max_length` that
may be null (whisper.cpp #2598, #2751, #1864, #2730). Here everything comes from the folder, and the filters from the
code that made the features. The layout is that of `whisper_model_load` in ggml-org/whisper.cpp, src/whisper.cpp.

    file      magic, 11 int32 of sizes, mel filters, vocabulary, tensors until the end; little endian
    filters   int32 rows, int32 columns, float32 × rows × columns
    words     int32 count, then each: int32 bytes, the bytes; special tokens are whisper.cpp's own
    tensor    int32 dimensions, int32 bytes of the name, int32 type, int32 × sizes from the last, name, data
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.errors import UserError
from data.log_mel import mel_filters
from jax_train.config import WhisperConfig
from jax_train.weights import TIED, read_safetensors

MAGIC = 0x67676D6C  # "ggml"
FLOAT32, FLOAT16 = 0, 1
FILE = "ggml-model.bin"
OPENAI_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm", ".attn_ln"),
    (r"\.encoder_attn_layer_norm", ".cross_attn_ln"),
    (r"\.final_layer_norm", ".mlp_ln"),
    (r"\.self_attn", ".attn"),
    (r"\.encoder_attn", ".cross_attn"),
    (r"\.q_proj", ".query"),
    (r"\.k_proj", ".key"),
    (r"\.v_proj", ".value"),
    (r"\.out_proj", ".out"),
    (r"\.fc1", ".mlp.0"),
    (r"\.fc2", ".mlp.2"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"\.embed_positions\.weight", ".positional_embedding"),
    (r"\.embed_tokens", ".token_embedding"),
)
"""From Hugging Face's names to OpenAI's, which are whisper.cpp's."""


def write_ggml(folder: Path, path: Path) -> None:
    """Write the model of a Hugging Face folder to `path`, its matrices in float16 as whisper.cpp computes.

    Raises `UserError` where the folder's vocabulary or its feed-forwards are not Whisper's.
    """
    config = WhisperConfig.from_folder(folder)
    if {config.encoder_ffn_dim, config.decoder_ffn_dim} != {4 * config.d_model}:
        raise UserError(
            f"{folder}: feed-forwards of {config.encoder_ffn_dim} and {config.decoder_ffn_dim},"
            f" whisper.cpp has those of 4 × d_model = {4 * config.d_model} alone; export another format"
        )
    with path.open("wb") as file:
        sizes = (
            *(config.vocab_size, config.max_source_positions, config.d_model),
            *(config.encoder_attention_heads, config.encoder_layers, config.max_target_positions, config.d_model),
            *(config.decoder_attention_heads, config.decoder_layers, config.num_mel_bins, FLOAT16),
        )
        _integers(file, MAGIC, *sizes)
        filters_MB = mel_filters(config.num_mel_bins)
        _integers(file, *filters_MB.shape)
        file.write(filters_MB.astype("<f4").tobytes())
        words = list(vocabulary(folder))
        _integers(file, len(words))
        for word in words:
            _integers(file, len(word))
            file.write(word)
        for name, value in read_safetensors(folder).items():
            if name != TIED:
                _write_tensor(file, openai_name(name), value)


def openai_name(name: str) -> str:
    """A tensor's name in OpenAI's model, from Hugging Face's."""
    for pattern, replacement in OPENAI_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def vocabulary(folder: Path) -> Iterator[bytes]:
    """The bytes of each text token, in the order of their numbers: those before <|endoftext|>."""
    path = folder / "tokenizer.json"
    numbers: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    end = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    written = {number: word for word, number in numbers.items()}
    if missing := [number for number in range(end) if number not in written]:
        raise UserError(f"{path}: no token {missing[0]}, but <|endoftext|> is {end}; take the original model's file")
    byte = _bytes_by_sign()
    return (bytes(byte[sign] for sign in written[number]) for number in range(end))


def _bytes_by_sign() -> dict[str, int]:
    """The byte each sign of a byte-level vocabulary stands for (GPT-2's): itself if printable, else from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def _write_tensor(file: BinaryIO, name: str, value: np.ndarray) -> None:
    """Matrices and convolutions in float16; vectors and positions, which whisper.cpp wants so, in float32.

    Raises `UserError` for a weight that float16 cannot hold.
    """
    if re.fullmatch(r"encoder\.conv\d\.bias", name):
        value = value[:, None]
        narrow = False
    else:
        narrow = value.ndim > 1 and not name.endswith("positional_embedding")
    encoded = name.encode()
    if narrow and not np.all(np.abs(value) <= np.finfo(np.float16).max):
        raise UserError(
            f"{name} has a weight beyond {np.finfo(np.float16).max}, float16's largest; whisper.cpp has no other"
        )
    _integers(file, value.ndim, len(encoded), FLOAT16 if narrow else FLOAT32, *reversed(value.shape))
    file.write(encoded)
    file.write(value.astype("<f2" if narrow else "<f4").tobytes())


def _integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))
