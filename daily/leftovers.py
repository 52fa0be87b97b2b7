"""What a command that was killed leaves half made in the store, removed before the next one begins.

Decision: what is made lies under a hidden name until it is whole, so whatever has one while nobody else is at work (the
loop's lock) is of a killed command, and nobody goes on with it. STORE/.champion-* is the registry's own to mend.
"""

import shutil
from pathlib import Path

LEFT = (
    ".*.partial",
    ".base-*",
    *(f"{folder}/.*.partial" for folder in ("clips", "confidence", "features", "loop", "monitor", "predictions")),
    "confidence/.partial-*",
    "runs/*/.*.partial",
    "runs/*/.start-*",
    "runs/*/shards/.*.partial",
)


def sweep(store: Path) -> None:
    """Remove what killed commands left in the folder `store`; its lock must be held."""
    for path in [path for pattern in LEFT for path in store.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
