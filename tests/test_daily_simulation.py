"""Sixty days of the loop, each with crashes: what the store holds then."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from daily.day_progress import days_begun, read_progress
from tests import simulated_days
from tests.conftest import REPOSITORY
from tests.scripted_stage import CLIPS

DAYS = [(simulated_days.FIRST + timedelta(number)).isoformat() for number in range(simulated_days.DAYS)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The store after sixty days, and what struck. In a process of its own: it forks, and this one has threads."""
    store = tmp_path_factory.mktemp("days") / "store"
    store.mkdir()
    command = [sys.executable, "-m", "tests.simulated_days", str(store)]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return store, json.loads(found.stdout)


def test_the_history_has_every_day_exactly_once(simulated: tuple[Path, dict[str, Any]]) -> None:
    """Also those that the machine was off on, and those whose run never came to its end."""
    store, _ = simulated
    rows = duckdb.sql(
        f"select day::varchar, count(*), count(distinct id) from '{store}/predictions/*.jsonl' group by all"
    ).fetchall()
    assert sorted(rows) == [(day, CLIPS, CLIPS) for day in DAYS]
    assert days_begun(store) == DAYS
    for day in DAYS:
        assert all(read_progress(store, day).done(stage.name) for stage in simulated_days.STAGES), day


def test_every_day_was_trained_on_once_and_in_order_and_heard_before(simulated: tuple[Path, dict[str, Any]]) -> None:
    store, _ = simulated
    assert json.loads((store / "champion.json").read_text()) == {"version": len(DAYS) + 1, "trained_on": DAYS}
    for number, day in enumerate(DAYS):
        lines = (store / "predictions" / f"{day}.jsonl").read_text().splitlines()
        assert all(json.loads(line)["champion"]["trained_on"] == DAYS[:number] for line in lines), day


def test_crashes_struck_between_any_two_steps(simulated: tuple[Path, dict[str, Any]]) -> None:
    """Of the loop before each change to the store and each start of a process, of each stage before each change."""
    _, struck = simulated
    assert struck["changes"] >= 5 * 6  # five stages: a start, and two writings of the progress, each opened and renamed
    assert struck["loop"][: struck["changes"]] == list(range(1, struck["changes"] + 1))
    assert sorted(struck["stages"]) == sorted(simulated_days.CASES)


def test_no_two_stages_were_ever_at_work_at_once(simulated: tuple[Path, dict[str, Any]]) -> None:
    """Each stage that outlived its loop had the next run refused."""
    store, struck = simulated
    assert not (store / "overlap").exists()
    assert struck["refused"] == len([case for case in simulated_days.CASES if ":loop:" in case])


def test_nothing_half_written_is_taken_for_a_days_file(simulated: tuple[Path, dict[str, Any]]) -> None:
    """What crashes left lies beside under hidden names."""
    store, _ = simulated
    for table in ("features", "predictions", "loop"):
        assert sorted(path.stem for path in (store / table).glob("[!.]*")) == DAYS
