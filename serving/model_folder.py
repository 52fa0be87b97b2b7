"""A Hugging Face Whisper folder as files: what it has to hold, before anything heavy is imported to read it."""

import json
from pathlib import Path
from typing import Any

from serving.errors import UserError

TOKENIZER, GENERATION, FEATURES = "tokenizer.json", "generation_config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER = "adapter_config.json"  # transformers would load its weights, too, which may be a pickle
EXPECTED = "give a Hugging Face Whisper folder, such as `make export` writes"


class ModelError(UserError):
    """The folder does not hold a whole Whisper model."""


def check_folder(folder: Path, needs: tuple[str, ...]) -> None:
    """Raises `ModelError` unless `folder` looks like a Hugging Face Whisper folder with weights and all of `needs`."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; {EXPECTED}")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(
            f"{folder}: holds no config.json; give a Hugging Face Whisper folder, such as `make export` writes"
        )
    config = read_object(config_path)
    model_type = config.get("model_type")
    if model_type != "whisper":
        raise ModelError(f"{config_path}: model_type is {model_type!r}, only 'whisper' can be served")
    if "transformers_weights" in config or (folder / ADAPTER).exists():
        raise ModelError(f"{folder}: names weights other than {WEIGHTS[0]} (an adapter?); export the model again")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)}); export the model again")
    _check_index(folder / WEIGHTS[1])
    absent = [name for name in needs if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"{folder}: holds no {', '.join(absent)}; export the model again")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ModelError` where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); export the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds no JSON object; export the model again")
    return found


def _check_index(path: Path) -> None:
    """Raises `ModelError` unless the weights' index, where there is one, names safetensors that lie beside it.

    A file of another ending would be unpickled, whatever the index is called: a pickle is a program.
    """
    if not path.is_file():
        return
    try:
        files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no index of weights ({error!r}); export the model again") from error
    for name in sorted(map(str, files)):
        if Path(name).name != name or not name.endswith(".safetensors") or not (path.parent / name).is_file():
            raise ModelError(f"{path}: names {name!r}, which is no safetensors file beside it; export the model again")
