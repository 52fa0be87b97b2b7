"""A checkpoint holds its own step, is taken only whole, and is due in time; a full disk keeps the last good one."""

import dataclasses
import gc
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.errors import UserError
from jax_train.checkpoint_files import remove, steps_in
from jax_train.checkpoints import Checkpoints
from jax_train.config import TrainConfig
from jax_train.runlog import RunLog
from jax_train.saving import Saving
from jax_train.sharding import data_mesh
from jax_train.step import TrainState
from tests.made_models import distribute
from tests.test_train_reliability import saved_often


@pytest.fixture
def setup(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    return saved_often(small_model_dir, small_shards, tmp_path / "run")


def small_state(step: int) -> TrainState:
    """A state on all eight devices, whose arrays are larger than what Orbax writes in one piece."""
    params = {"kernel": jnp.full((64, 1024), float(step)), "bias": jnp.arange(8.0) + step}
    return distribute(TrainState(params, {}, (jnp.zeros(3),), jnp.asarray(step, jnp.int32)), data_mesh())


@partial(jax.jit, donate_argnums=0)
def next_state(state: TrainState) -> TrainState:
    """Every array otherwise, in the place of the one before."""
    return jax.tree.map(lambda array: array + jnp.ones((), array.dtype), state)


def test_a_checkpoint_holds_its_own_step_although_later_steps_overwrite_the_arrays(tmp_path):
    state, want = small_state(1), {}
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for step in range(1, 5):
            want[step] = jax.tree.map(lambda array: np.array(array, copy=True), state)
            checkpoints.save(state, {"position": step})
            for _ in range(3):
                state = next_state(state)
            state = state._replace(step=distribute(small_state(step + 1), data_mesh()).step)
    for step in range(4, 0, -1):
        with Checkpoints(tmp_path) as checkpoints:
            got, data = checkpoints.restore(small_state(0))
        assert data == {"position": step}
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want[step]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        remove(tmp_path / "checkpoints" / str(step))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    """A run saved at steps 1 and 2."""
    run = tmp_path_factory.mktemp("two") / "run"
    with Checkpoints(run, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small_state(step), {"position": step})
    return run


def test_a_checkpoint_damaged_in_any_file_is_named_and_the_one_before_taken(two_checkpoints, tmp_path, capsys):
    """Orbax alone restores other numbers from some of these without a word."""
    names = sorted(
        path.relative_to(two_checkpoints / "checkpoints" / "2")
        for path in (two_checkpoints / "checkpoints" / "2").rglob("*")
        if path.is_file()
    )
    assert len(names) > 10
    for number, (name, harm) in enumerate((name, harm) for name in names for harm in ("gone", "half", "changed")):
        run = tmp_path / str(number)
        shutil.copytree(two_checkpoints, run)
        path = run / "checkpoints" / "2" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink() if harm == "gone" else path.write_bytes(content[:-1] if harm == "half" else content)
        with Checkpoints(run) as checkpoints:
            got, data = checkpoints.restore(small_state(0))
        assert data == {"position": 1}, (name, harm)
        np.testing.assert_array_equal(got.params["kernel"], small_state(1).params["kernel"])
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith(f"{run}/checkpoints/2 is damaged (")
        assert said[0].endswith("): continuing from step 1")
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2.damaged"]


def test_no_whole_checkpoint_stops_the_run_rather_than_starting_anew(two_checkpoints, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints, run)
    for step in ("1", "2"):
        (run / "checkpoints" / step / "files.json").write_text("{")
    with (
        pytest.raises(UserError, match=r"no whole checkpoint \(step 2: files.json cannot be read; step 1: .*give anot"),
        Checkpoints(run) as checkpoints,
    ):
        checkpoints.restore(small_state(0))
    assert steps_in(run / "checkpoints") == [1, 2]


@pytest.fixture
def full_disk() -> Iterator[Callable[[bool], None]]:
    """Sets whether files may grow past 64 kB; the error is another than that of a full disk, the place the same."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16 if full else before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(step: int) -> TrainState:
    """A state that does not compress."""
    kernel = jax.random.normal(jax.random.key(step), (64, 1024))
    return distribute(small_state(step)._replace(params={"kernel": kernel}), data_mesh())


class Position:
    """An iterator's place, for `Saving`."""

    def get_state(self) -> dict:
        return {"position": 0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_keeps_the_last_good_checkpoint_and_stops_or_goes_on(setup, tmp_path, full_disk, capsys):
    """Orbax leaves the event loop of a failed write unclosed, which is no matter here: collected within the test."""
    for reaction in ("continue", "stop"):
        config = dataclasses.replace(setup, run=tmp_path / reaction, save_steps=1, on_save_failure=reaction)
        config.run.mkdir()
        folder = config.run / "checkpoints"
        with Checkpoints(config.run, keep=2) as checkpoints, RunLog(config.run, 0, 4) as log:
            saving = Saving(config, checkpoints, log, first=0)
            saving.save_if_due(noise(1), Position(), 1, always=False)
            saving.wait()
            full_disk(True)
            saving.save_if_due(noise(2), Position(), 2, always=False)
            try:
                saving.wait()
                failed = ""
            except UserError as error:
                failed = str(error)
            finally:
                full_disk(False)
            assert [path.name for path in folder.iterdir()] == ["1"]
            wanted = "the checkpoint of step 2 could not be written to .*; the newest is that of step 1"
            assert re.search(wanted, capsys.readouterr().out if reaction == "continue" else failed)
            if reaction == "stop":
                assert "run the same command again" in failed
                continue
            saving.save_if_due(noise(3), Position(), 3, always=False)
            saving.wait()
            assert steps_in(folder) == [1, 3]
    gc.collect()


def test_minutes_make_a_checkpoint_due_before_the_steps_do(setup, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("jax_train.saving.time", SimpleNamespace(monotonic=lambda: clock[0]))
    config = dataclasses.replace(setup, run=tmp_path, save_steps=1000, save_minutes=2)
    with Checkpoints(tmp_path, keep=9) as checkpoints, RunLog(tmp_path, 0, 4) as log:
        saving = Saving(config, checkpoints, log, first=0)
        clock[0] = 119.0
        saving.save_if_due(small_state(1), Position(), 1, False, saving.wish())
        clock[0] = 120.0
        saving.save_if_due(small_state(2), Position(), 2, False, wish := saving.wish())
        saving.save_if_due(small_state(3), Position(), 3, False, wish)  # another process was late to hear of it
        saving.save_if_due(small_state(4), Position(), 4, False, saving.wish())  # minutes count from the last one
        saving.save_if_due(small_state(5), Position(), 5, always=True)
    assert steps_in(tmp_path / "checkpoints") == [2, 5]
