"""What a command that was killed, or a power cut, leaves half made in the store, removed before it is made again.

Decision: what is made lies under a hidden name until it is whole, so whatever has one while nobody else is at work (the
loop's lock) is of a killed command, and nobody goes on with it. STORE/.champion-* is the registry's own to mend. A
folder that is no store is left alone: what has such a name there is somebody else's.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from daily.day_progress import days_begun, read_progress
from daily.store import FEATURES, FIXED, SETTINGS, Store, Table, check_table

LEFT = (
    ".*.partial",
    ".base-" + 8 * "[a-z0-9_]",  # tempfile's own names
    *(f"{folder}/.*.partial" for folder in ("clips", "confidence", "features", "loop", "monitor", "predictions")),
    "confidence/.partial-*",
    "runs/*/.*.partial",
    "runs/*/.start-*",
    "runs/*/shards/.*.partial",
)


def sweep(store: Path) -> None:
    """Remove what killed commands left in the folder `store`, if it is one; its lock must be held."""
    if not (store / SETTINGS).is_file():
        return
    for path in [path for pattern in LEFT for path in store.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_whole(store: Store, table: Table, split: str) -> bool:
    """Whether a day or fixed split has its file of `table`; one that a power cut left without content is removed.

    `UserError` of a file that cannot be read though a run noted it as done: it was whole, so the disk lost it.
    """
    path = store.folder / table.name / f"{split}.parquet"
    if not path.exists():
        return False
    try:
        pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        if _is_noted(store, table, split) or not isinstance(error, pa.ArrowInvalid):
            check_table(table, path)
        print(f"{path} is not whole ({error}): it is made again")
        path.unlink()
        return False
    return True


def _is_noted(store: Store, table: Table, split: str) -> bool:
    """Whether a run noted the stage as done that makes the file; the first day's makes those of the fixed splits."""
    stage = "features" if table is FEATURES else "inference"
    days = days_begun(store.folder) if split in FIXED else [split]
    return any(read_progress(store.folder, day).done(stage) for day in days)
