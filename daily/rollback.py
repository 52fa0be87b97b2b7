"""The command `rollback`: an earlier champion is the champion again, in the registry and in STORE/champion."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from daily.alone import alone
from daily.registry import CONFIDENCE, MODEL, Version, open_registry
from daily.store import open_store
from data.errors import UserError, command


@dataclass(frozen=True)
class RollbackConfig:
    """Makes an earlier version the champion again; the next day's challenger starts from it."""

    store: Path = Path("store")
    """The daily loop's folder."""
    version: int = 0
    """The version to go back to; 0: the champion before the one there is."""
    confidence: bool = False
    """Roll back the confidence model in Whisper's place."""

    def __post_init__(self) -> None:
        if self.version < 0:
            raise UserError(f"--version {self.version}: a version's number, or 0 for the champion before")


def roll_back(config: RollbackConfig) -> Version:
    """The version that is champion now. Raises `UserError` where there is none to go back to."""
    registry = open_registry(open_store(config.store).folder)
    return registry.roll_back(CONFIDENCE if config.confidence else MODEL, config.version or None)


@command
def main() -> None:
    config = tyro.cli(RollbackConfig)
    with alone(config.store):
        champion = roll_back(config)
    print(
        f"{champion.name} version {champion.number} of {champion.day or champion.key} is the champion\n{champion.note}"
    )


if __name__ == "__main__":
    main()
