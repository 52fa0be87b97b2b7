"""Other programs' formats, with real Whisper base: faster-whisper and whisper.cpp write what transformers writes."""

import csv
import json
import shutil
import struct

import librosa
import numpy as np
import pytest
from faster_whisper import WhisperModel
from pywhispercpp.model import Model
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from data.errors import UserError
from jax_train.checkpoints import copy_small_files
from jax_train.decoding_rules import DecodingRules
from jax_train.ggml import openai_name, vocabulary, write_ggml
from jax_train.other_formats import convert
from jax_train.proof import NEW_TOKENS, noise_windows, prove
from jax_train.weights import load_model
from serving import to_ctranslate2
from serving.media import load_audio
from serving.transcribe import Transcriber
from tests.made_models import random_weights

CLEAR = (
    "Informazione riguardo la tua ultima chiamata.",
    "Prego attendere mentre tento di trovare la persona chiamata.",
)
"""Sentences that base hears without doubt: float16 and int8 may flip a word that it half guesses."""


@pytest.fixture(scope="module")
def italian_base(base_model_dir, tmp_path_factory):
    """Whisper base that writes Italian, as an export of a run does."""
    folder = tmp_path_factory.mktemp("italian") / "base"
    folder.mkdir()
    for path in base_model_dir.iterdir():
        (folder / path.name).symlink_to(path)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(generation | {"language": "it", "task": "transcribe"}))
    return folder


@pytest.fixture(scope="module")
def heard(italian_base, sample_corpus):
    """Real clips, and what transformers writes of them."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8") as file:
        paths = {row["sentence"]: row["path"] for row in csv.DictReader(file, delimiter="\t")}
    transcriber = Transcriber(italian_base)
    audio = [load_audio(sample_corpus / "clips" / paths[sentence]) for sentence in CLEAR]
    return [(audio_N, transcriber.transcribe_audio(audio_N).text) for audio_N in audio]


@pytest.fixture(scope="module")
def proportioned(many_words_model_dir, tmp_path_factory):
    """A small random model with the words that whisper.cpp looks for, and feed-forwards four times as wide, as its."""
    folder = tmp_path_factory.mktemp("proportioned") / "model"
    copy_small_files(many_words_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}))
    return random_weights(folder)


@pytest.mark.parametrize(("dtype", "compute_type", "megabytes"), [("float16", "float32", 145), ("int8", "int8", 76)])
def test_faster_whisper_loads_the_folder_and_writes_the_same(
    italian_base, heard, tmp_path, dtype, compute_type, megabytes
):
    to_ctranslate2.convert(italian_base, tmp_path / "model", dtype)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"}
    assert (tmp_path / "model" / "model.bin").stat().st_size == pytest.approx(megabytes * 1e6, rel=0.02)
    model = WhisperModel(str(tmp_path / "model"), device="cpu", compute_type=compute_type)
    assert model.feature_extractor.mel_filters.shape[0] == 80
    for audio_N, text in heard:
        segments, _ = model.transcribe(audio_N, language="it", beam_size=1, temperature=0.0, without_timestamps=True)
        assert "".join(segment.text for segment in segments).strip() == text


def test_whisper_cpp_loads_the_file_and_writes_the_same(italian_base, heard, tmp_path):
    config = json.loads((italian_base / "config.json").read_text())
    assert "max_length" not in config  # its own converter stumbles over that
    write_ggml(italian_base, tmp_path / "model.bin")
    assert (tmp_path / "model.bin").stat().st_size == pytest.approx(148e6, rel=0.01)  # as the published ggml-base.bin
    model = Model(
        str(tmp_path / "model.bin"),
        redirect_whispercpp_logs_to=None,
        **{"language": "it", "no_timestamps": True, "temperature_inc": 0.0, "print_progress": False, "n_threads": 2},
    )
    for audio_N, text in heard:
        assert "".join(segment.text for segment in model.transcribe(audio_N)) == text


def test_the_ggml_file_holds_sizes_openais_filters_and_the_words_bytes(proportioned, tmp_path):
    write_ggml(proportioned, tmp_path / "model.bin")
    content = (tmp_path / "model.bin").read_bytes()
    assert content[:4] == b"lmgg"
    # vocabulary; encoder positions, width, heads, layers; decoder positions, width, heads, layers; mels; float16
    assert struct.unpack_from("<11i", content, 4) == (51865, 1500, 16, 2, 1, 448, 16, 2, 1, 80, 1)
    assert struct.unpack_from("<2i", content, 48) == (80, 201)
    filters_MB = np.frombuffer(content, "<f4", 80 * 201, 56).reshape(80, 201)
    openai_MB = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=80)  # what OpenAI's mel_filters.npz was made with
    np.testing.assert_allclose(filters_MB, openai_MB, rtol=0, atol=2e-9)  # the last bit of values up to 0.026
    words = list(vocabulary(proportioned))
    assert struct.unpack_from("<i", content, 56 + 4 * 80 * 201) == (len(words),) == (50_257,)
    tokenizer = Tokenizer.from_file(str(proportioned / "tokenizer.json"))
    for number in (0, 220, 383, 4873, 10_223, 50_256):
        assert words[number].decode() == tokenizer.decode([number])
    both = tokenizer.encode(" però così 🎙", add_special_tokens=False).ids  # some tokens are part of a letter
    assert b"".join(words[number] for number in both).decode() == " però così 🎙"


def test_a_weight_that_whisper_cpps_float16_cannot_hold_is_refused(proportioned, tmp_path):
    folder = shutil.copytree(proportioned, tmp_path / "large")
    tensors, name = load_file(folder / "model.safetensors"), "model.decoder.layers.0.fc2.weight"
    tensors[name][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"decoder\.blocks\.0\.mlp\.2\.weight has a weight beyond 65504"):
        write_ggml(folder, tmp_path / "model.bin")


def test_a_ggml_export_is_proved_by_whisper_cpp(proportioned, tmp_path):
    """On noise, with a random model of Whisper's proportions; it loops, but at other words if it changes."""
    folder = shutil.copytree(proportioned, tmp_path / "small")
    model, tensors = load_model(folder), load_file(folder / "model.safetensors")
    rules = DecodingRules.from_folder(folder, "it", NEW_TOKENS)
    proof = prove(model, "float32", noise_windows(80), rules)
    found = convert("ggml", "float16", folder, tmp_path / "made", proof, "it")
    assert (found["program"], found["clips"]) == ("pywhispercpp", 2)
    name = "model.decoder.layers.0.fc2.weight"
    save_file(tensors | {name: tensors[name] * 3}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="2 of 2 clips are transcribed otherwise than by the trainer"):
        convert("ggml", "float16", folder, tmp_path / "other", proof, "it")


def test_every_tensor_has_openais_name():
    assert openai_name("model.encoder.layers.3.self_attn.k_proj.weight") == "encoder.blocks.3.attn.key.weight"
    assert openai_name("model.decoder.layers.0.encoder_attn.out_proj.bias") == "decoder.blocks.0.cross_attn.out.bias"
    assert openai_name("model.decoder.layers.0.encoder_attn_layer_norm.bias") == "decoder.blocks.0.cross_attn_ln.bias"
    assert openai_name("model.decoder.layers.0.final_layer_norm.weight") == "decoder.blocks.0.mlp_ln.weight"
    assert openai_name("model.encoder.layer_norm.weight") == "encoder.ln_post.weight"
    assert openai_name("model.decoder.embed_positions.weight") == "decoder.positional_embedding"


def test_a_vocabulary_with_a_gap_is_refused(small_model_dir, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((small_model_dir / name).read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"no token 64, but <\|endoftext\|> is 4000"):
        vocabulary(tmp_path)
