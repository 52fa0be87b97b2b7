"""The store's lock: held by a run and by what outlives it, and by every command that is started by itself."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daily.alone import alone
from daily.day_progress import DayProgress, days_begun, write_progress
from daily.lock import INHERITED, LockedError, locked
from daily.store import create_store
from data.errors import UserError, command
from tests.conftest import REPOSITORY
from tests.test_daily_loop import DAY, NEXT, run_of_commands, states


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_lock_that_cannot_be_opened_is_one_line(store: Path) -> None:
    """As in another user's store; a folder of its name stands for that."""
    (store / "loop.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"loop\.lock: is a directory"), locked(store):
        pass


def test_a_run_beside_another_is_refused_with_one_line_and_changes_nothing(store: Path) -> None:
    store.mkdir()
    with locked(store):
        refused = run_of_commands(store, "--day", DAY)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {store}/loop.lock is held by the run of process {os.getpid()}")
    assert len(refused.stderr.splitlines()) == 1
    assert [path.name for path in store.iterdir()] == ["loop.lock"]


def test_a_process_that_outlives_the_run_that_started_it_keeps_the_lock(store: Path) -> None:
    store.mkdir()
    with locked(store):
        stage = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with pytest.raises(LockedError), locked(store):
        pass
    stage.communicate(b"\n")
    with locked(store):
        pass


def test_what_a_run_started_of_another_kind_does_not_keep_the_lock(store: Path) -> None:
    """A process started the usual way, as a worker pool's are, inherits nothing."""
    store.mkdir()
    with locked(store):
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with locked(store):
        pass
    other.communicate(b"\n")


def test_a_command_by_itself_is_refused_beside_a_run_and_is_the_runs_own_when_that_starts_it(store: Path) -> None:
    create_store(store, "it", "base", 80, "0" * 64)
    inside = f"from pathlib import Path; from daily.alone import alone\nwith alone(Path({str(store)!r})): print('in')"
    command = [sys.executable, "-c", inside]
    with locked(store):
        apart = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        started = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, close_fds=False)
    assert "LockedError" in apart.stderr
    assert (started.stdout, started.stderr) == ("in\n", "")
    with alone(store), pytest.raises(LockedError), locked(store):
        pass


@pytest.mark.parametrize("name", ["features", "inference", "confidence", "training", "rollback", "snapshot"])
def test_every_command_on_a_store_takes_its_lock(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    create_store(store, "it", "base", 80, "0" * 64)
    monkeypatch.setattr(sys, "argv", [name, "--store", str(store)])
    with locked(store):
        monkeypatch.delenv(INHERITED)
        with pytest.raises(SystemExit, match="2"):
            command(importlib.import_module(f"daily.{name}").main)()
    assert "loop.lock is held by the run of process" in capsys.readouterr().err


def test_a_stage_that_was_mended_by_itself_is_done_to_the_loop(store: Path) -> None:
    """Of a day that a run came to; others are begun by runs alone."""
    create_store(store, "it", "base", 80, "0" * 64)
    write_progress(store, DayProgress(DAY).note("features", "done").note("training", "failed", error="no room"))
    for day, stage in ((DAY, "training"), (DAY, "confidence"), (NEXT, "training")):
        with alone(store, stage, day):
            pass
    assert states(store, DAY) == {"features": "done", "training": "done"}
    assert days_begun(store) == [DAY]
    write_progress(store, DayProgress(NEXT).note("training", "failed"))
    with pytest.raises(ValueError, match="no"), alone(store, "training", NEXT):
        raise ValueError("no")
    assert states(store, NEXT) == {"training": "failed"}
