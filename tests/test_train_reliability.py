"""A night's work is not lost: kills, preemption, losses that are no number; and a profile says where its time went."""

import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from jax_train import batches
from jax_train.checkpoint_files import remove, steps_in
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig
from jax_train.model import functional
from jax_train.runlog import METRICS, read_rows
from jax_train.trace import Trace, self_times
from jax_train.train import train

REPOSITORY = Path(__file__).resolve().parent.parent
KILLS = 20
TIMES = {"speech_seconds_per_second", "data_wait", "eval_share", "seconds", "seconds_to_first_step", "run_seconds"}
ONE_DEVICE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def saved_often(model: Path, shards: Path, run: Path) -> TrainConfig:
    """Twenty-four steps of one window, saved every other."""
    return TrainConfig(
        shards=shards, run=run, model=str(model), batch_size=1, steps=24, learning_rate=1e-2, save_steps=2
    )


@pytest.fixture(scope="module")
def setup(small_model_dir: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return saved_often(small_model_dir, small_shards, tmp_path_factory.mktemp("reliability") / "undisturbed")


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
