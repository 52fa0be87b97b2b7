"""No model is ever unpickled: whatever a folder names beside safetensors is refused before anything is read of it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serving import pytorch
from serving.model import load_model
from serving.model_folder import ModelError, check_folder
from serving.pytorch import PyTorchWhisper
from serving.transcribe import read_features
from serving.vocabulary import read_vocabulary


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def folder(small_model_dir: Path, tmp_path: Path) -> Path:
    """A model's folder whose weights lie in two files that an index names."""
    folder = tmp_path / "model"
    shutil.copytree(small_model_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name].clone() for name in part}, folder / file, metadata={"format": "pt"})
    index(folder, {name: file for file, part in parts.items() for name in part})
    return folder


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_weights_in_several_safetensors_are_loaded(folder: Path) -> None:
    assert not load_model(folder, torch.float32).training


@pytest.mark.parametrize("name", ["pytorch_model-1.bin", "model.safetensors.bin", "../model/model-1.safetensors"])
def test_an_index_that_names_anything_but_safetensors_beside_it_is_refused(folder: Path, name: str) -> None:
    trace, trap = folder / "trace", folder / "trap.bin"
    trap.write_bytes(pickle.dumps(Trap(trace)))
    pickle.loads(trap.read_bytes())
    assert trace.exists()  # a trap it is
    trace.unlink()
    if name.endswith(".bin"):
        trap.rename(folder / name)
    index(folder, {"proj_out.weight": name, "model.encoder.conv1.weight": "model-1.safetensors"})
    with pytest.raises(ModelError, match="which is no safetensors file beside it; export the model again"):
        load_model(folder, torch.float32)
    assert not trace.exists()


@pytest.mark.parametrize("weight_map", [[], None, {"a": 3}, {"a": ["b"]}, {"a": "missing.safetensors"}])
def test_an_index_that_is_none_is_refused(folder: Path, weight_map: object) -> None:
    index(folder, weight_map)
    with pytest.raises(ModelError, match=r"index\.json: .*export the model again"):
        check_folder(folder, ())


def test_weights_by_another_name_are_refused(small_model_dir: Path, tmp_path: Path) -> None:
    """transformers takes these in place of, or after, the safetensors."""
    folder = tmp_path / "model"
    shutil.copytree(small_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    with pytest.raises(ModelError, match="names weights other than"):
        load_model(folder, torch.float32)
    (folder / "config.json").write_text(json.dumps(config))
    check_folder(folder, ())
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="names weights other than"):
        load_model(folder, torch.float32)


def changed(model: Path, folder: Path, file: str, change: object) -> Path:
    """A folder with the model's files by link, one of them changed: settings of it, or all of it."""
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    if isinstance(change, dict):
        change = json.dumps(json.loads((model / file).read_text()) | change)
    (folder / file).unlink()
    (folder / file).write_text(str(change))
    return folder


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("tokenizer.json", '{"version": ', "is no tokenizer"),
        ("preprocessor_config.json", "{", "cannot be read as JSON"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate is 8000, Whisper's is 16000"),
        ("preprocessor_config.json", {"n_fft": "x"}, "does not load"),
        ("generation_config.json", "[]", "holds no JSON object"),
        ("generation_config.json", {"alignment_heads": [3]}, "has a setting of another kind than Whisper's"),
        (
            "generation_config.json",
            {"suppress_tokens": [999_999]},
            "suppress_tokens has 999999, the model's tokens are",
        ),
        ("generation_config.json", {"lang_to_id": {"<|it|>": "x"}}, "lang_to_id has 'x'"),
        ("generation_config.json", {"language": "klingon"}, "language 'klingon' is none of those in its lang_to_id"),
        ("generation_config.json", {"no_timestamps_token_id": None}, "no_timestamps_token_id is None"),
        ("config.json", {"eos_token_id": None}, "eos_token_id has None, the model's tokens are 0 to 5607"),
        ("config.json", {"decoder_layers": "x"}, "decoder_layers is 'x', expected a whole number"),
        ("config.json", {"d_model": "x"}, "does not load .*'d_model' expected int"),
        ("config.json", {"dtype": "float7"}, "does not load .*float7"),
    ],
)
def test_a_file_that_is_damaged_is_named_in_one_line(
    small_model_dir: Path, tmp_path: Path, file: str, change: object, says: str
) -> None:
    folder = changed(small_model_dir, tmp_path / "model", file, change)
    with pytest.raises(ModelError, match=f"^[^\n]*{file}: [^\n]*{says}[^\n]*$"):
        read_features(folder), read_vocabulary(folder), load_model(folder, torch.float32)


def test_an_output_matrix_of_its_own_is_the_one_that_is_used(
    small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the tokens' embedding, which it is in most of Whisper's folders. 1e-4: float32 sums of 64 products."""
    monkeypatch.setattr(pytorch, "has_eight_bits", lambda _: False)
    folder = changed(small_model_dir, tmp_path / "model", "config.json", {"tie_word_embeddings": False})
    tensors = load_file(folder / "model.safetensors")
    own_VD = tensors["model.decoder.embed_tokens.weight"].flip(0).contiguous()
    (folder / "model.safetensors").unlink()
    save_file(tensors | {"proj_out.weight": own_VD}, folder / "model.safetensors", metadata={"format": "pt"})
    hidden_D = torch.linspace(-1, 1, own_VD.shape[1])
    got_V = PyTorchWhisper(folder, read_vocabulary(folder)).scores(hidden_D[None])[0]
    torch.testing.assert_close(got_V.float(), own_VD @ hidden_D, rtol=0, atol=1e-4)
