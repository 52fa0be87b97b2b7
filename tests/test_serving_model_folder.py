"""No model is ever unpickled: whatever a folder names beside safetensors is refused before anything is read of it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serving.model import load_model
from serving.model_folder import ModelError, check_folder


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
