"""The files of versions: which they need, how they are copied, and STORE/champion, replaced as a whole."""

import contextlib
import fcntl
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from daily.registry_version import CONFIDENCE, MODEL, Version

CONFIDENCE_FILE = "confidence.json"
NEEDED = {MODEL: "*.safetensors", CONFIDENCE: CONFIDENCE_FILE}
PLACED = "champion.version"  # in STORE/champion: which versions it holds; no .json, which the trainer would copy along


def has_needed(version: Version, names: Iterable[str]) -> bool:
    """Whether files of these names can be the version's: one is what it cannot do without."""
    return bool(fnmatch.filter(names, NEEDED[version.name]))


def copy_folder(source: Path, target: Path) -> None:
    """The files of `source` as the new folder `target`.

    One by one: what `shutil.copytree` raises on a full disk has no errno.
    """
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            shutil.copyfile(path, target / path.relative_to(source))


def place_champion(store: Path, champions: Sequence[Version], copy: Callable[[Version, Path], None]) -> Path:
    """STORE/champion with what `copy` gives of the model and, if there is one, the confidence model after it.

    Who calls it is alone with it. It stays as it is where it holds these versions.
    """
    folder = store / "champion"
    says = "".join(f"{its.name} {its.number} {its.run_id}\n" for its in champions)
    if (folder / PLACED).is_file() and (folder / PLACED).read_text(encoding="utf-8") == says:
        return folder
    for left in store.glob(".champion-*"):
        shutil.rmtree(left)  # of a killed command
    with tempfile.TemporaryDirectory(dir=store, prefix=".champion-") as place:
        new, beside = Path(place) / "new", Path(place) / "confidence"
        model, *others = champions
        copy(model, new)
        for confidence in others:
            copy(confidence, beside)
            shutil.copyfile(beside / CONFIDENCE_FILE, new / CONFIDENCE_FILE)
        (new / PLACED).write_text(says, encoding="utf-8")
        os.sync()  # or after a power cut PLACED might name weights that never reached the disk
        if folder.exists():
            folder.rename(Path(place) / "old")
        new.rename(folder)
    return folder


@contextlib.contextmanager
def alone_with(lock: Path) -> Iterator[None]:
    """Wait for other processes that hold `lock`, and hold it; a killed one holds nothing."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
