"""The model that is in use: STORE/champion, which on the first day is the pretrained one, registered as version 1."""

import shutil
import tempfile
from pathlib import Path

from daily.registry import MODEL, Registry, Version, open_registry
from daily.registry_files import NEEDED
from daily.store import Store
from data.errors import UserError

BASE = "base"  # the key of the first version
WEIGHTS = NEEDED[MODEL]
FILES = ("*.json", "*.txt", WEIGHTS)  # of a Hugging Face Whisper folder


def champion_of(store: Store) -> tuple[Path, Version]:
    """The champion's folder, which holds what the registry says, and its version; made where there is none yet.

    Raises:
        UserError: the registry cannot be read or has lost its champion, or the pretrained model cannot be had.
    """
    registry = open_registry(store.folder)
    version = registry.champion(MODEL) or _first(registry, store)
    folder = registry.place()
    if folder is None:
        raise UserError(f"{store.folder}: the champion was taken away while this ran; run the same command again")
    return folder, version


def _first(registry: Registry, store: Store) -> Version:
    """The pretrained model as the first champion."""
    registry.check_not_lost(MODEL)
    source = _pretrained(store.model)
    if not [*source.glob(WEIGHTS)]:
        raise UserError(f"{store.model}: has no {WEIGHTS}, the only weights that the loop reads; save it as such")
    with tempfile.TemporaryDirectory(dir=store.folder, prefix=".base-") as place:
        folder = Path(place)
        for path in (path for pattern in FILES for path in source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)  # through the links of the hub's cache
        day = store.days()[0] if store.days() else ""
        note = f"{store.model.rstrip('/').rsplit('/', 1)[-1]} as it was published"
        made = registry.register(MODEL, day, folder, key=BASE, parameters={"model": store.model}, note=note)
    return registry.promote(MODEL, made.number)


def _pretrained(model: str) -> Path:
    """The folder of the store's pretrained model, fetched if it is a name on the hub."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # half a second, for the first day alone
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES), ignore_patterns="*/*"))
    except (OSError, ValueError, HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{model}: neither a folder here nor to be had from the hub ({reason})") from error
