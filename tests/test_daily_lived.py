"""Sixty days of the real stages with a small model, crashes between their steps: what store and registry hold then.

Half an hour: `make test-thorough ARGS=tests/test_daily_lived.py`. tests/test_daily_simulation.py strikes between any
two steps, with stages that only keep the real ones' promises, and tests/test_daily_whole.py has a day of the real
commands in processes of their own. Festival's stand-in speaks, and what the model hears is nonsense; that each stage
finds what the one before it wrote is not.
"""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daily.day_progress import days_begun, read_progress
from daily.leftovers import LEFT
from daily.registry import CONFIDENCE, MODEL, Registry, open_registry
from daily.store import Store, connect, open_store
from daily.takes import read_metadata
from tests import lived_days
from tests.conftest import REPOSITORY, thorough
from tests.festival import path_with_stand_in
from tests.test_readme import environment

pytestmark = thorough

NUMBER = 60
DAYS = [(lived_days.FIRST + timedelta(number)).isoformat() for number in range(NUMBER)]
CLIPS = 6


@pytest.fixture(scope="module")
def lived(terse_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    """The store after the days, and what struck."""
    folder = tmp_path_factory.mktemp("lived") / "store"
    command = [sys.executable, "-m", "tests.lived_days", str(folder), str(terse_model_dir), str(NUMBER)]
    settings = environment() | {"PATH": path_with_stand_in(), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-5000:]
    return open_store(folder), json.loads(found.stdout)


@pytest.fixture(scope="module")
def registry(lived: tuple[Store, dict[str, Any]]) -> Registry:
    return open_registry(lived[0].folder)


def test_crashes_struck_every_stage_that_changes_the_store(lived: tuple[Store, dict[str, Any]]) -> None:
    """A stage that was done makes no changes any more, so that some strikes find nothing to strike."""
    found = lived[1]
    assert {stage for stage, count in found["changes"].items() if count} == set(lived_days.STAGES) - {"confidence"}
    assert 0.8 * found["tried"] <= len(found["struck"]) <= found["tried"]
    assert found["tried"] >= 0.85 * (NUMBER - 1)
    pairs = {(strike["stage"], strike["who"]) for strike in found["struck"]}
    assert len(pairs) >= min(10, len(found["struck"])), pairs


def test_the_history_has_every_clip_of_every_day_exactly_once(lived: tuple[Store, dict[str, Any]]) -> None:
    """Of the six sentences of a day the stand-in may refuse one, which is left out."""
    store = lived[0]
    spoken = [(day, len(read_metadata(store.clips(day)))) for day in DAYS]
    assert all(CLIPS - 1 <= clips <= CLIPS for _, clips in spoken)
    for view in ("history", "features"):
        with connect(store) as connection:
            rows = connection.execute(f"select day, count(*), count(distinct id) from {view} group by day").fetchall()
        assert sorted(rows) == [(day, clips, clips) for day, clips in spoken], view
    assert days_begun(store.folder) == DAYS
    for day in DAYS:
        assert all(read_progress(store.folder, day).done(stage) for stage in lived_days.STAGES[:-1]), day


def test_every_day_has_one_challenger_in_the_registry(lived: tuple[Store, dict[str, Any]], registry: Registry) -> None:
    """Each was decided upon once, against the champion of its time; later days may come before a failed training."""
    versions = registry.versions(MODEL)
    assert versions[0].key == "base"
    assert sorted(version.key for version in versions[1:]) == DAYS
    champion = 1
    for version in versions[1:]:
        decision = json.loads((lived[0].run(version.key) / "decision.json").read_text())
        assert (decision["day"], decision["version"]) == (version.key, version.number)
        assert decision["champion"] == champion, version.key
        champion = version.number if decision["promoted"] else champion
        assert bool(version.promoted) == decision["promoted"]
    now = registry.champion(MODEL)
    assert now is not None
    assert now.number == champion
    weights = (registry.files(now) / "model.safetensors").read_bytes()
    assert (lived[0].champion / "model.safetensors").read_bytes() == weights
    keys = [version.key for version in registry.versions(CONFIDENCE)]
    assert len(keys) == len(set(keys))


def test_each_day_was_heard_by_the_champion_of_the_day_before(
    lived: tuple[Store, dict[str, Any]], registry: Registry
) -> None:
    """Before anything was trained on it."""
    with connect(lived[0]) as connection:
        heard = dict(connection.execute("select distinct day, model_version from history").fetchall())
    assert len(heard) == len(DAYS)
    champions = {version.key: version.number for version in registry.versions(MODEL) if version.promoted}
    for number, day in enumerate(DAYS):
        before = [champions[key] for key in ("base", *DAYS[:number]) if key in champions]
        assert heard[day] == str(before[-1]), day


def test_nothing_that_was_killed_is_left_beside_the_results(lived: tuple[Store, dict[str, Any]]) -> None:
    folder = lived[0].folder
    assert sorted(path.stem for path in (folder / "features").glob("[!.]*")) == sorted([*DAYS, "guard", "test"])
    assert not list(folder.glob("runs/*/run/checkpoints"))
    assert [path for pattern in LEFT for path in folder.glob(pattern)] == []
    shown = json.loads((folder / "monitor" / "monitor.json").read_text())
    assert shown["days"][-1]["day"] == DAYS[-1]
