"""What of the loop is not as it should be, as the monitor tells it: stages that are not done, a loop that stands still.

Decision: what is not done is told until it is, however long ago it was; only where the loop, unless told otherwise,
no longer tries it, the warnings of all such stages are one.
"""

from datetime import date
from typing import Any

from daily.day_progress import days_begun, read_progress
from daily.store import Store

SNAPSHOT = "snapshot"  # the stage that asks
DAYS_TRIED = 7
"""Days before the newest whose stages each have a warning, the loop's default; older ones have one together."""
STALE_DAYS = 2
"""Days without one that went through the loop, from which it is said to stand still."""

Row = dict[str, Any]


def open_stages(store: Store, day: str) -> list[Row]:
    """Stages that failed, were killed or wait for such a one, and were not made good since, the newest day first.

    Snapshots are not among them: whoever asks is making a newer one.
    """
    return [
        {"day": begun, "stage": name, "state": stage.state, "error": stage.error}
        for begun in reversed(days_begun(store.folder))
        if begun <= day
        for name, stage in read_progress(store.folder, begun).stages.items()
        if stage.state != "done" and name != SNAPSHOT
    ]


def left_undone(stages: list[Row], day: str) -> list[Row]:
    """A warning for each stage that failed or was killed lately, and one for all that did so before."""
    first = date.fromordinal(max(1, date.fromisoformat(day).toordinal() - DAYS_TRIED)).isoformat()
    undone = [row for row in stages if row["state"] != "waiting"]
    late = [
        {"kind": f"{row['state']}_stage", **{name: row[name] for name in ("day", "stage", "error")}}
        for row in undone
        if row["day"] >= first
    ]
    given_up = len(undone) - len(late)
    return late + ([{"kind": "given_up", "day": first, "count": given_up}] if given_up else [])


def stale(store: Store, day: str) -> list[Row]:
    """A warning, if the newest day that was heard, or else begun, is long past."""
    heard = [path.stem for path in store.predictions("*").parent.glob("????-??-??.parquet")]
    last = max((known for known in heard or days_begun(store.folder) if known <= day), default=day)
    is_stale = (date.fromisoformat(day) - date.fromisoformat(last)).days >= STALE_DAYS
    return [{"kind": "stale", "day": last}] if is_stale else []
