"""Which checkpoints are whole: each lists its files with sizes and checksums, written before it gets its name.

Orbax says when a file is missing or short, but restores other numbers from a byte that changed on disk without a word.
So a checkpoint is written as `<step>.partial`, sealed with files.json, and only then renamed to `<step>`: a folder of
that name is complete, and every one of its bytes can be checked.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c

SEAL = "files.json"
PARTIAL, DAMAGED = ".partial", ".damaged"
PIECE = 1 << 24  # bytes read at once
READERS = 8  # threads; the checksum lets go of the interpreter


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, rising; what is half written or set aside has another name."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def has_checkpoint(run: Path) -> bool:
    """Whether RUN is one that is continued."""
    return bool(steps_in(run / "checkpoints"))


def seal(folder: Path) -> None:
    """Write the list of the files in `folder`, through to the disk."""
    with (folder / SEAL).open("w") as file:
        json.dump(_contents(folder), file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, by file; nothing if it is as it was written."""
    try:
        sealed = json.loads((folder / SEAL).read_text())
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except ValueError:  # no JSON, or no text
        sealed = None
    if not isinstance(sealed, dict):
        return f"{SEAL} cannot be read"
    found = _contents(folder)
    for name, (size, _) in sealed.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} has {found[name][0]:,} bytes of {size:,}"
    changed = [name for name in sealed if found[name] != sealed[name]]
    return f"{changed[0]} holds other bytes than were written" if changed else ""


def set_aside(folder: Path) -> None:
    """Give a damaged checkpoint a name that no run continues from."""
    aside = folder.with_name(folder.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def remove(folder: Path) -> None:
    """Delete a checkpoint; one killed while it does so leaves no folder that looks whole."""
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)
    shutil.rmtree(partial)


def remove_partial(folder: Path) -> None:
    """Delete what a killed or failed run left half written or half deleted."""
    for path in folder.glob(f"*{PARTIAL}*"):
        shutil.rmtree(path)


def superfluous(steps: Collection[int], keep: int, keep_best: int, wer: Mapping[int, float]) -> list[int]:
    """Of the checkpoints at `steps` those that are not among the newest `keep` or the `keep_best` of lowest WER."""
    kept = {*sorted(steps)[-keep:], *best(steps, wer)[:keep_best]}
    return [step for step in steps if step not in kept]


def best(steps: Collection[int], wer: Mapping[int, float]) -> list[int]:
    """Those of `steps` whose WER is known, the lowest first; of equals the newest."""
    return sorted((step for step in steps if step in wer), key=lambda step: (wer[step], -step))


def _contents(folder: Path) -> dict[str, list[int]]:
    """Size and CRC32C of each file but the seal, by its path within `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    with ThreadPoolExecutor(READERS) as threads:
        sums = list(threads.map(_checksum, paths))
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, value]
        for path, value in zip(paths, sums, strict=True)
    }


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value = google_crc32c.extend(value, piece)
    return value
