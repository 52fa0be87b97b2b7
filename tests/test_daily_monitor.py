"""The monitor's own clock: days are UTC, wherever it runs."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from serving import monitor
from serving.monitor_folder import MonitorError
from serving.monitor_words import ENGLISH


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where it is another day now than it is in UTC: twelve hours later, or earlier."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-12" if datetime.now(UTC).hour >= 12 else "UTC+12")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_a_snapshot_ages_by_days_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[date] = []

    def stale(_: Any, today: date) -> None:
        asked.append(today)
        raise MonitorError("asked")

    monkeypatch.setattr(monitor, "stale", stale)
    with pytest.raises(MonitorError, match="asked"):
        monitor.render(Path(), {"warnings": []}, ENGLISH)  # type: ignore[typeddict-item]
    assert asked == [datetime.now(UTC).date()] != [date.today()]
