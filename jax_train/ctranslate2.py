"""CTranslate2's model.bin → Hugging Face's Whisper tensors, so that weights published in that format can be fine-tuned.

Decision: our own reader of the few pages the format takes, rather than the CTranslate2 package, which cannot hand its
weights back. The layout is that of `ModelSpec._serialize` in OpenNMT/CTranslate2,
python/ctranslate2/specs/model_spec.py, binary version 6; the names are those of its whisper_spec.py.

    file      uint32 version, string spec, uint32 revision, uint32 count, variables, uint32 count, aliases
    variable  string name, uint8 rank, uint32 × rank shape, uint8 type, uint32 bytes, data (little endian, C order)
    alias     string name, string the name it stands for
    string    uint16 length with its closing zero byte, UTF-8, a zero byte
"""

import re
import struct
from pathlib import Path

import numpy as np

from data.errors import UserError

BINARY_VERSION = 6
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by CTranslate2's type id; 5 is bfloat16, unsupported
# What must hold for the computation to be Whisper's (activation 3 is the exact GELU) …
REQUIRED_SETTINGS = {
    "decoder/activation": 3,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# … and what says nothing about the weights.
OTHER_SETTINGS = {"decoder/alignment_heads", "decoder/alignment_layer", "decoder/num_heads", "encoder/num_heads"}


class _Cursor:
    """Reads one value after another from a file's bytes, and names the file and offset where they end too soon."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.offset = data, source, 0

    def take(self, n_bytes: int) -> bytes:
        if self.offset + n_bytes > len(self.data):
            raise UserError(
                f"{self.source}: ends at byte {len(self.data)}, within a value at {self.offset}; fetch it again"
            )
        self.offset += n_bytes
        return self.data[self.offset - n_bytes : self.offset]

    def integers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def integer(self, layout: str) -> int:
        return self.integers(layout)[0]

    def string(self) -> str:
        return self.take(self.integer("H"))[:-1].decode()


def _read_variable(cursor: _Cursor) -> tuple[str, np.ndarray]:
    name = cursor.string()
    shape = cursor.integers(f"{cursor.integer('B')}I")
    type_id, n_bytes = cursor.integers("BI")
    if type_id >= len(TYPES):
        raise UserError(f"{cursor.source}: {name} has type {type_id}, known are 0 to {len(TYPES) - 1}")
    dtype = np.dtype(TYPES[type_id]).newbyteorder("<")
    if n_bytes != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise UserError(
            f"{cursor.source}: {name} of shape {shape} as {dtype.name} takes not {n_bytes} bytes; fetch it again"
        )
    return name, np.frombuffer(cursor.take(n_bytes), dtype).reshape(shape)


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Every variable of a CTranslate2 Whisper model.bin by name, aliases included, as stored.

    Raises:
        UserError: another version or model, a type we do not read, a file cut short or too long.
    """
    cursor = _Cursor(path.read_bytes(), str(path))
    if (version := cursor.integer("I")) != BINARY_VERSION:
        raise UserError(f"{path}: CTranslate2 binary version {version}, this reader knows {BINARY_VERSION}")
    if (spec := cursor.string()) != "WhisperSpec":
        raise UserError(f"{path}: a {spec} model, not Whisper")
    _revision, count = cursor.integers("II")
    variables = dict(_read_variable(cursor) for _ in range(count))
    for _ in range(cursor.integer("I")):
        alias, name = cursor.string(), cursor.string()
        variables[alias] = variables[name]
    if cursor.offset != len(cursor.data):
        raise UserError(f"{path}: {len(cursor.data) - cursor.offset} bytes after the last value; fetch it again")
    return variables


def hugging_face_tensors(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 tensors of a Hugging Face Whisper folder (`proj_out` tied, so left out; `k_proj` without bias).

    Raises:
        UserError: a variable is missing, left over, or says that the model computes something other than Whisper.
    """
    left = dict(variables)
    tensors: dict[str, np.ndarray] = {}

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise UserError(f"the CTranslate2 model has no {name}: not a Whisper model this reader knows")
        return left.pop(name)

    def linear(source: str, *targets: str) -> None:
        """Splits a fused linear layer evenly among its targets; a key's bias, always zero, has no place."""
        weights = np.split(take(f"{source}/weight").astype(np.float32), len(targets))
        biases = np.split(take(f"{source}/bias").astype(np.float32), len(targets))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            tensors[f"{target}.weight"] = weight
            if not target.endswith("k_proj"):
                tensors[f"{target}.bias"] = bias
            elif bias.any():
                raise UserError(f"{source}: the keys have a bias, Whisper's have none")

    def norm(source: str, target: str) -> None:
        tensors[f"{target}.weight"] = take(f"{source}/gamma").astype(np.float32)
        tensors[f"{target}.bias"] = take(f"{source}/beta").astype(np.float32)

    for side in ("encoder", "decoder"):
        model = f"model.{side}"
        tensors[f"{model}.embed_positions.weight"] = take(f"{side}/position_encodings/encodings").astype(np.float32)
        norm(f"{side}/layer_norm", f"{model}.layer_norm")
        for layer in range(_layer_count(variables, side)):
            source, target = f"{side}/layer_{layer}", f"{model}.layers.{layer}"
            attention = f"{target}.self_attn"
            norm(f"{source}/self_attention/layer_norm", f"{attention}_layer_norm")
            linear(f"{source}/self_attention/linear_0", *(f"{attention}.{part}_proj" for part in "qkv"))
            linear(f"{source}/self_attention/linear_1", f"{attention}.out_proj")
            if side == "decoder":
                attention = f"{target}.encoder_attn"
                norm(f"{source}/attention/layer_norm", f"{attention}_layer_norm")
                linear(f"{source}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{source}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{source}/attention/linear_2", f"{attention}.out_proj")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", f"model.encoder.{conv}")
    tensors["model.decoder.embed_tokens.weight"] = take("decoder/embeddings/weight").astype(np.float32)
    _check_rest(left, variables)
    return tensors


def _layer_count(variables: dict[str, np.ndarray], side: str) -> int:
    return len({match[0] for name in variables if (match := re.match(rf"{side}/layer_\d+/", name))})


def _check_rest(left: dict[str, np.ndarray], variables: dict[str, np.ndarray]) -> None:
    """Raises unless what is left says that the output is tied and the computation Whisper's."""
    if left.pop("decoder/projection/weight", None) is not variables["decoder/embeddings/weight"]:
        raise UserError("the CTranslate2 model's output is not tied to its token embeddings, Whisper's is")
    for name, wanted in REQUIRED_SETTINGS.items():
        found = left.pop(name).item() if name in left else "nothing"
        if found != wanted:
            raise UserError(f"the CTranslate2 model says {name} = {found}, Whisper needs {wanted}")
    if unknown := sorted(left.keys() - OTHER_SETTINGS):
        raise UserError(f"the CTranslate2 model has variables Whisper has no place for: {', '.join(unknown)}")
