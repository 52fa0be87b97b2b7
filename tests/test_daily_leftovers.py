"""What killed commands and power cuts leave: removed, made again, or named; nothing of a folder that is no store."""

from pathlib import Path

import pytest

from daily.alone import alone
from daily.day_progress import DayProgress, write_progress
from daily.leftovers import is_whole, sweep
from daily.store import FEATURES, PREDICTIONS, Store, Table, create_store, write_table
from data.errors import UserError

DAY = "2026-11-23"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store", "it", "base", 80, "0" * 64)


TABLES = [(FEATURES, DAY, "features"), (FEATURES, "guard", "features"), (PREDICTIONS, DAY, "inference")]


@pytest.mark.parametrize(("table", "split", "stage"), TABLES)
def test_a_table_that_a_power_cut_left_empty_is_made_again_unless_its_stage_is_done(
    store: Store, table: Table, split: str, stage: str
) -> None:
    path = store.folder / table.name / f"{split}.parquet"
    assert not is_whole(store, table, split)
    write_table(table, path, [])
    assert is_whole(store, table, split)
    path.write_bytes(b"")
    write_progress(store.folder, DayProgress(DAY).note(stage, "started"))
    assert not is_whole(store, table, split)
    assert not path.exists()
    path.write_bytes(b"\0" * 100)
    write_progress(store.folder, DayProgress(DAY).note(stage, "done"))
    with pytest.raises(UserError, match=rf"{split}\.parquet cannot be read .*: delete it and run `make daily-"):
        is_whole(store, table, split)
    assert path.exists()


def test_of_a_folder_that_is_no_store_nothing_is_removed_and_no_lock_is_left_there(tmp_path: Path) -> None:
    theirs = [tmp_path / name for name in (".base-16/bin", ".download.partial", "runs/a/.start-here")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError, match="no store"), alone(tmp_path):
        pass
    sweep(tmp_path)
    assert all(path.exists() for path in theirs)
    assert not (tmp_path / "loop.lock").exists()


def test_only_temporary_folders_of_a_base_model_are_removed_from_a_store(store: Store) -> None:
    ours, theirs = store.folder / ".base-ab_01xyz", store.folder / ".base-16"
    for folder in (ours, theirs):
        folder.mkdir()
    sweep(store.folder)
    assert (ours.exists(), theirs.exists()) == (False, True)
