"""A night's work is not lost: kills, preemption, damaged checkpoints, a full disk, losses that are no number."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jax_train.checkpoint_files import steps_in
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig
from jax_train.model import functional
from jax_train.runlog import METRICS, read_rows

REPOSITORY = Path(__file__).resolve().parent.parent
KILLS = 20
TIMES = {"speech_seconds_per_second", "data_wait", "eval_share", "seconds"}
ONE_DEVICE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


@pytest.fixture(scope="module")
def setup(small_model_dir: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Sixteen steps of one window, saved every other."""
    return TrainConfig(
        shards=small_shards,
        run=tmp_path_factory.mktemp("reliability") / "undisturbed",
        model=str(small_model_dir),
        batch_size=1,
        steps=16,
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
    path = config.run.with_suffix(".json")
    path.write_text(json.dumps(dataclasses.asdict(config), default=str))
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
    assert steps_in(config.run / "checkpoints") == [14, 16]


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
    assert "trained 16 steps" in said
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
