"""Two processes joined by jax.distributed on one machine: one run, the losses of one process, one set of files."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from jax_train.checkpoint_files import steps_in
from jax_train.checkpoints import load_run
from jax_train.config import Lora, TrainConfig
from jax_train.model import functional
from jax_train.runlog import METRICS, read_rows
from jax_train.train import train
from tests.conftest import REPOSITORY, THOROUGH, training_on
from tests.test_train_reliability import wait_until

STEPS = 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(config: TrainConfig, count: int, devices: int) -> list[subprocess.Popen[str]]:
    """The train command in `count` processes of `devices` host devices each."""
    address = f"127.0.0.1:{free_port()}"
    command = ["-m", "jax_train.train", "--coordinator", address, "--processes", str(count)]
    names = ("shards", "run", "model", "batch_size", "steps", "learning_rate", "fsdp", "save_steps")
    for name in (*names, "eval_split", "eval_batch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    if config.lora.rank:
        command += ["--lora.rank", str(config.lora.rank)]
    return [python([*command, "--process", str(process)], devices) for process in range(count)]


def python(arguments: list[str], devices: int) -> subprocess.Popen[str]:
    """Python with so many host devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": flags, "NPROC": str(4 * devices), "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[subprocess.CompletedProcess[str]]:
    """The processes at their end; none is left behind if one does not end."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            with process:  # which waits for it and closes its pipes
                process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def losses(run: Path) -> list[dict]:
    """The rows of training steps."""
    return [row for row in read_rows(run) if "loss" in row]


@pytest.mark.parametrize(("fsdp", "rank"), [(4, 0), (1, 0), (4, 4), (1, 4)] if THOROUGH else [(4, 0)])
def test_two_processes_train_as_one_and_a_single_one_goes_on(small_model_dir, small_shards, tmp_path, fsdp, rank):
    """1e-5: sums in another order. With fsdp 4 each parameter lies on both. They evaluate, with adapters merged.

    Then one process takes over for a step.
    """
    config = TrainConfig(
        shards=small_shards,
        run=tmp_path / "two",
        model=str(small_model_dir),
        batch_size=4,
        steps=STEPS,
        learning_rate=1e-2,
        fsdp=fsdp,
        save_steps=2,
        eval_split="test",
        eval_batch_size=1,
        lora=Lora(rank),
    )
    alone = dataclasses.replace(config, run=tmp_path / "one", fsdp=1)
    with training_on(4):
        train(alone)
    for process in ended(started(config, 2, devices=2)):
        assert process.returncode == 0, process.stderr
    got, told = (read_rows(run)[-1] for run in (config.run, alone.run))
    assert (got["step"], got["wer"], got["cer"]) == (STEPS, told["wer"], told["cer"])
    rows, want = losses(config.run), losses(alone.run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in want]  # the same global batches
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in want], rtol=1e-5)

    # One process, another topology: the last step again, from the checkpoint before it.
    for path in (config.run / "checkpoints" / str(STEPS)).rglob("*"):
        if path.is_file():
            path.unlink()
    (config.run / "summary.json").unlink()
    with training_on(4):
        train(dataclasses.replace(config, fsdp=1))
    again = losses(config.run)
    assert [row["step"] for row in again] == list(range(1, STEPS + 1))
    assert again[-1]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    ours, theirs = (functional(load_run(run)[0])[0] for run in (config.run, alone.run))
    for name, value in theirs.items():
        # Three steps of 1e-2; where a gradient is rounding noise, Adam may take its sign the other way.
        assert np.mean(np.abs(np.asarray(ours[name]) - value) > 1e-4) < 0.02, name


@pytest.mark.parametrize("told", [[1], [0, 1]], ids=["one", "both"])
def test_sigterm_to_one_or_both_of_two_processes_saves_the_run_and_ends_both_with_0(
    small_model_dir, small_shards, tmp_path, told
):
    """A scheduler tells all of them at once, a lost spot machine only its own."""
    config = TrainConfig(
        shards=small_shards,
        run=tmp_path / "run",
        model=str(small_model_dir),
        batch_size=2,
        steps=400,
        learning_rate=1e-3,
        save_steps=400,
    )
    processes = started(config, 2, devices=1)
    wait_until(lambda: (config.run / METRICS).is_file() and len(losses(config.run)) >= 2, processes[0], 300)
    for number in told:
        processes[number].send_signal(signal.SIGTERM)
    for process in (done := ended(processes, 60)):
        assert process.returncode == 0, process.stderr
    (step,) = steps_in(config.run / "checkpoints")
    assert [row["step"] for row in losses(config.run)] == list(range(1, step + 1))
    for number, process in enumerate(done):
        by = "SIGTERM" if number in told else "another process"
        assert f"stopped by {by} after step {step}; run the same command again" in process.stdout
    assert load_run(config.run)[1] == step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2}, "--processes 2: give --coordinator HOST:PORT"),
        ({"process": 1, "coordinator": "x:1"}, "--process 1"),
        ({"fsdp": 0}, "--fsdp 0"),
    ],
)
def test_wrong_settings_are_said(options, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(Path(), Path(), **options)


WISHING = """
import json
import sys
from pathlib import Path
import jax
from jax_train.processes import Wishes, of_all_processes
from jax_train.sharding import data_mesh

address, number, answers = sys.argv[1], int(sys.argv[2]), []
jax.distributed.initialize(address, 2, number)
for overlapping in (False, True):
    wishes = Wishes(data_mesh(), overlapping)
    answers.append([wishes.heard(*((0, 0) if step != number + 1 else (1, 7 - number))) for step in range(4)])
answers.append(of_all_processes(0.1 + number, 1e300).tolist())
Path(sys.argv[3]).write_text(json.dumps(answers))  # what it prints has Gloo's lines in between
"""


def test_every_process_hears_what_any_wishes_and_where_steps_overlap_a_step_later(tmp_path):
    """The first wishes at its second step, the other at its third. Numbers come as they were given, in 64 bits."""
    address, answers = f"127.0.0.1:{free_port()}", [tmp_path / "first", tmp_path / "other"]
    processes = [python(["-c", WISHING, address, str(n), str(answers[n])], devices=2) for n in range(2)]
    for process, answer in zip(ended(processes, 120), answers, strict=True):
        assert process.returncode == 0, process.stderr
        assert json.loads(answer.read_text()) == [
            [[0, 0], [1, 7], [1, 6], [0, 0]],
            [[0, 0], [0, 0], [1, 7], [1, 6]],
            [[0.1, 1e300], [1.1, 1e300]],
        ]
