"""A version of a registered model, and what the registry calls things."""

import dataclasses

MODEL, CONFIDENCE = "sussurro", "sussurro-confidence"
"""The two registered models: Whisper, and the one that says whether its transcripts can be trusted."""
CHAMPION, CHALLENGER = "champion", "challenger"
STORE, KEY, DAY = "store", "key", "day"  # tags of a version: whose it is, what for, of when
REPLACED, PROMOTED, DROPPED = "replaced", "promoted", "dropped"


@dataclasses.dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    """MODEL or CONFIDENCE."""
    number: int
    """From 1."""
    key: str
    """What it was registered for, once: its day, or `base`."""
    day: str
    """The day it was made on, 2026-11-23."""
    run_id: str
    """MLflow's run, which holds its parameters, metrics and files."""
    aliases: tuple[str, ...]
    """champion, challenger, both or none."""
    metrics: dict[str, float]
    """What was measured of it."""
    note: str
    """In words, what became of it and why."""
    replaced: int | None
    """The version that was champion before it first was; None if it never was champion, or was the first."""
    promoted: str
    """When it last became champion, ISO 8601 in UTC; empty if never."""
    dropped: bool
    """Whether its weights were deleted to save room, so that it cannot be rolled back to."""
