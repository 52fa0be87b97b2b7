"""A night's work is not lost: kills, preemption, damaged checkpoints, a full disk, losses that are no number."""

import dataclasses
import gc
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.errors import UserError
from jax_train import batches
from jax_train.checkpoint_files import remove, steps_in
from jax_train.checkpoints import Checkpoints, load_run
from jax_train.config import TrainConfig
from jax_train.model import functional
from jax_train.runlog import METRICS, RunLog, read_rows
from jax_train.saving import Saving
from jax_train.sharding import data_mesh
from jax_train.step import TrainState
from jax_train.trace import Trace, self_times
from jax_train.train import train
from tests.made_models import distribute

REPOSITORY = Path(__file__).resolve().parent.parent
KILLS = 20
TIMES = {"speech_seconds_per_second", "data_wait", "eval_share", "seconds", "seconds_to_first_step", "run_seconds"}
ONE_DEVICE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


@pytest.fixture(scope="module")
def setup(small_model_dir: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Twenty-four steps of one window, saved every other."""
    return TrainConfig(
        shards=small_shards,
        run=tmp_path_factory.mktemp("reliability") / "undisturbed",
        model=str(small_model_dir),
        batch_size=1,
        steps=24,
        learning_rate=1e-2,
        save_steps=2,
    )


@pytest.fixture(scope="module")
def undisturbed(setup: TrainConfig) -> TrainConfig:
    """The same, trained."""
    in_process(setup, kills=0, seed=0)
    return setup


def in_process(config: TrainConfig, kills: int, seed: int) -> list:
    """Train in another process, killed so often; where the kills struck."""
    path = config.run.with_suffix(".pickle")
    path.write_bytes(pickle.dumps(config))
    arguments = [sys.executable, "-m", "tests.killed_run", str(path), str(kills), str(seed)]
    done = subprocess.run(arguments, cwd=REPOSITORY, env=os.environ | ONE_DEVICE, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def curve(run: Path) -> list[dict]:
    """The rows of metrics.jsonl but for what a clock gave."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_rows(run)]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Bit for bit."""
    assert curve(ours) == curve(theirs)
    got, want = (functional(load_run(run)[0])[0] for run in (ours, theirs))
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_twenty_kills_at_random_moments_change_no_bit_of_the_run(undisturbed):
    config = dataclasses.replace(undisturbed, run=undisturbed.run.with_name("killed"))
    seed = random.SystemRandom().randrange(1_000_000)
    struck = in_process(config, KILLS, seed)
    assert len(struck) == KILLS, seed
    assert sum(bool(partial) for _, _, partial in struck) >= KILLS // 5 - 1, (seed, struck)
    assert_same_run(config.run, undisturbed.run)
    assert [row["step"] for row in read_rows(config.run)] == list(range(1, config.steps + 1))
    assert steps_in(config.run / "checkpoints") == [22, 24]


def command(config: TrainConfig) -> subprocess.Popen:
    """The train command of `config`, as people start it."""
    options = {
        name: str(getattr(config, name))
        for name in ("shards", "run", "model", "batch_size", "steps", "learning_rate", "save_steps")
    }
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return subprocess.Popen(
        [sys.executable, "-m", "jax_train.train", *arguments],
        cwd=REPOSITORY,
        env=os.environ | ONE_DEVICE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sigterm_saves_and_ends_with_0_and_the_same_command_continues(undisturbed):
    config = dataclasses.replace(undisturbed, run=undisturbed.run.with_name("preempted"), save_steps=1000)
    with command(config) as process:
        wait_until(lambda: (config.run / METRICS).is_file() and len(read_rows(config.run)) >= 3, process)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    (step,) = steps_in(config.run / "checkpoints")
    assert said.splitlines()[-1] == (
        f"{config.run}: stopped by SIGTERM after step {step}; run the same command again to continue"
    )
    assert 3 <= step == len(read_rows(config.run)) < config.steps
    with command(config) as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "trained 24 steps" in said
    assert_same_run(config.run, undisturbed.run)


def test_a_signal_before_the_first_step_ends_with_0_at_once(undisturbed):
    config = dataclasses.replace(undisturbed, run=undisturbed.run.with_name("stillborn"))
    with command(config) as process:
        wait_until((config.run / "config.json").is_file, process)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert said == f"{config.run}: stopped before a step was done; run the same command again to continue\n"
    assert not read_rows(config.run)


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


@pytest.mark.usefixtures("two_devices")
def test_a_step_without_a_number_is_left_out_as_often_as_allowed(two, monkeypatch):
    """Two windows get features that are none; the first step is left out, the second stops the run."""
    config = dataclasses.replace(two, steps=4, save_steps=1, keep=4, skip_non_finite=1)
    to_devices, seen = batches.to_devices, []

    def poisoned(batch, mesh):
        seen.append(batch)
        bad = batch._replace(log_mel_max_F=np.full_like(batch.log_mel_max_F, np.nan))
        return to_devices(bad if len(seen) in (2, 4) else batch, mesh)

    monkeypatch.setattr(batches, "to_devices", poisoned)
    with pytest.raises(UserError, match=r"step 4: loss nan.*or allow --skip-non-finite"):
        train(config)
    rows = read_rows(config.run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert ["skipped_clips" in row for row in rows] == [False, True, False]
    assert all(clip.endswith(".mp3") for clip in rows[1]["skipped_clips"])
    json.loads((config.run / METRICS).read_text().splitlines()[1], parse_constant=pytest.fail)  # JSON has no NaN
    kernels = {}
    for step in (3, 2, 1):
        kernels[step] = np.asarray(functional(load_run(config.run)[0])[0]["decoder.layers.0.fc1.kernel"])
        remove(config.run / "checkpoints" / str(step))
    np.testing.assert_array_equal(kernels[1], kernels[2])
    assert np.isfinite(kernels[3]).all()
    assert not np.array_equal(kernels[2], kernels[3])


@pytest.fixture
def two(setup, tmp_path) -> TrainConfig:
    """A run on two devices, of the shapes that test_train.py compiles."""
    return dataclasses.replace(setup, run=tmp_path / "run", batch_size=2)


@pytest.mark.usefixtures("two_devices")
def test_a_profile_names_the_slowest_operations_and_leaves_a_trace(two, capsys):
    train(dataclasses.replace(two, steps=4, save_steps=1000, profile=1))
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.lstrip().startswith("ms a step"))
    shares = [float(line.split()[1].rstrip("%")) for line in lines[first + 1 : first + 11]]
    assert shares == sorted(shares, reverse=True)
    assert 10 < sum(shares) <= 100.5  # rounded one by one
    (trace,) = two.run.rglob("perfetto_trace.json.gz")
    assert str(trace) in lines[first + 11]
    assert list(two.run.rglob("*.xplane.pb"))  # what XProf reads


def test_a_profile_of_a_run_that_is_over_before_it_says_so(tmp_path):
    assert Trace(tmp_path, 3, first=5).too_late(8) == ""
    assert Trace(tmp_path, 0, first=5).too_late(7) == ""
    assert Trace(tmp_path, 3, first=5).too_late(7).startswith("--profile 3: no step is left to trace")


def test_an_operations_own_time_leaves_out_what_runs_inside_it():
    """A loop of 10 µs with two calls of 3 µs in it, on each of two threads; what follows starts before another ends."""
    events = [
        {"ph": "X", "pid": 1, "tid": tid, "ts": start, "dur": dur, "name": name, "args": {"hlo_op": name}}
        for tid in (1, 2)
        for name, start, dur in [("while", 0, 10), ("dot", 1, 3), ("dot", 5, 3), ("add", 10, 2), ("exp", 11.9, 4)]
    ]
    others = [{}, {"ph": "X", "pid": 1, "tid": 1, "ts": 0, "dur": 99, "name": "python"}]
    got = self_times([*others, *events])
    assert {name: (round(1e6 * seconds), calls) for name, (seconds, calls) in got.items()} == {
        "while": (8, 2), "dot": (12, 4), "add": (4, 2), "exp": (8, 2),
    }  # fmt: skip
