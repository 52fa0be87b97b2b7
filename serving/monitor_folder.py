"""The folder that `daily.snapshot` writes and the monitor shows, read without the libraries that show it."""

import json
from pathlib import Path
from typing import Any

from serving.errors import UserError

MONITOR = "monitor.json"
FORMAT = 1
SHOWN_FILES = (".flac", ".png")
KEYS = (
    "day", "language", "clips", "warnings", "clip", "last", "confusion", "days", "voices", "recipes", "drift",
    "versions", "stages", "pictures",
)  # fmt: skip

Snapshot = dict[str, Any]


class MonitorError(UserError):
    """A folder that is no snapshot of the daily loop."""


def read_snapshot(folder: Path) -> Snapshot:
    """What the folder's monitor.json says. Raises `MonitorError` where it is none that this version reads."""
    path = folder / MONITOR
    try:
        snapshot: Snapshot = json.loads(path.read_text(encoding="utf-8"))
        found = snapshot["format"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MonitorError(f"{path}: is not there; `make daily` or `python -m daily.snapshot` writes it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MonitorError(f"{path}: is no snapshot ({error!r}); `python -m daily.snapshot` writes it anew") from error
    if found != FORMAT:
        raise MonitorError(f"{path}: has format {found!r}, this version reads {FORMAT}; update the older of the two")
    if missing := [key for key in KEYS if key not in snapshot]:
        raise MonitorError(f"{path}: lacks {', '.join(missing)}; `python -m daily.snapshot` writes it anew")
    return snapshot
