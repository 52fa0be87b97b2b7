"""Which model a Hugging Face Space serves: the folder `model` beside its app.py, else the hub's that space.json names.

Only files that need no unpickling are looked at, in a folder as on the hub.
"""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

from serving.errors import UserError

SETTINGS, FOLDER = "space.json", "model"
FILES = ("*.json", "*.safetensors")
BELOW = "*/*"  # where a repository keeps the checkpoints of its training


class HubModelError(UserError):
    """A model cannot be had from the hub."""


def settings(space: Path) -> dict[str, str]:
    """What `make space` wrote down: the `model`, and the `name` the page shows."""
    found: dict[str, str] = json.loads((space / SETTINGS).read_text(encoding="utf-8"))
    return found


def model_folder(space: Path) -> Path:
    """The model's folder; that of a model on the hub is in its cache, where the Space's build put it.

    Raises `HubModelError` where there is neither.
    """
    if (space / FOLDER).is_dir():
        return space / FOLDER
    name = settings(space)["model"]
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=BELOW))
    except (HTTPError, OSError, ValueError) as error:
        raise HubModelError(f"{name}: {reason(error)}; name another in {SETTINGS}") from error


def reason(error: Exception) -> str:
    """Why the hub gives no answer, or not this one."""
    return "the hub says " + (str(error).strip() or type(error).__name__).splitlines()[0]
