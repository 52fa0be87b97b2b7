"""What the shards must agree on with the model: its tokenizer and its mel bins, read from its own files.

A model is a Hugging Face Whisper folder or a name on the Hugging Face hub; from the hub only small files
are fetched.
"""

import json
from pathlib import Path
from typing import Any

from data.built_tokenizer import PARTS, TOKENIZER, has_parts, write_tokenizer
from data.errors import UserError

MEL_BINS = (80, 128)


class ModelError(UserError):
    """A model that is missing or is not Whisper."""


def model_file(model: str, name: str) -> Path:
    """The path of file `name` of `model`, fetched into the hub's cache if `model` is not a folder.

    A tokenizer.json that is missing is made of its parts, where these are there.
    """
    folder = Path(model)
    if folder.is_dir():
        if name == TOKENIZER and not (folder / name).is_file() and has_parts(folder):
            return write_tokenizer(folder)
        if not (folder / name).is_file():
            raise ModelError(f"{model} is not a Hugging Face Whisper folder: it has no {name}")
        return folder / name
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(f"no model: {model} is neither a folder nor a hub name such as openai/whisper-base")
    return _fetch(model, name)


def _fetch(model: str, name: str) -> Path:
    # Imported here: it takes half a second, which every worker process would pay.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(model, name))
    except RepositoryNotFoundError:
        raise ModelError(f"no model: {model} is neither a folder nor on the Hugging Face hub") from None
    except EntryNotFoundError as error:  # also raised when the hub cannot be reached and the cache lacks the file
        if name == TOKENIZER and (folder := _fetch_parts(model)):
            return write_tokenizer(folder)
        raise ModelError(f"{model}: {name} is neither on the hub nor in its cache ({_first_line(error)})") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{model}: the hub gave no {name} ({_first_line(error)}); name a local folder") from error


def _fetch_parts(model: str) -> Path | None:
    """The folder in the hub's cache with what a tokenizer.json is made of, if `model` has all of it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        paths = [Path(hf_hub_download(model, name)) for name in PARTS]
    except EntryNotFoundError:
        return None
    return paths[0].parent


def read_n_mels(model: str) -> int:
    """Mel bins `model` takes: 80, or 128 from large-v3 on."""
    config = _read_json(model, "config.json")
    if config.get("model_type") != "whisper":
        raise ModelError(f"{model} is not Whisper: its config.json says model_type {config.get('model_type')!r}")
    n_mels = config.get("num_mel_bins")
    if n_mels not in MEL_BINS:
        raise ModelError(f"{model}: config.json says num_mel_bins {n_mels!r}, Whisper has 80 or 128")
    return int(n_mels)


def _read_json(model: str, name: str) -> dict[str, Any]:
    path = model_file(model, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
