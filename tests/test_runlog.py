"""What a run says of itself: always JSON, never in the way of training, and the disk may be full."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from data.errors import UserError
from data.tfrecord import FRAMING_BYTES, unframe
from jax_train.config import TrainConfig
from jax_train.curves import panels_of, run_rows
from jax_train.events import Appended
from jax_train.runlog import METRICS, SUMMARY, RunLog, evaluations_since_best, process_seconds, read_rows
from jax_train.saving import Saving, failures_in_a_line
from tests.conftest import REPOSITORY

VALUES = {"loss": 3.0, "tokens": 10.0, "grad_norm": 1.0, "skipped": 0.0, "learning_rate": 1e-3}
FULL_AT = 8192  # bytes
STEPS = 300

FULL_DISK = f"""
import resource, sys
from pathlib import Path
from jax_train.runlog import RunLog

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with RunLog(Path(sys.argv[1]), 0, {STEPS}, may_lose_rows=sys.argv[2] == "continue") as log:
    for step in range(1, {STEPS} + 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if step == {STEPS} else {FULL_AT}, hard))
        log.step(step, {VALUES}, 1.0, 0.0, write=True)
    log.summary()
"""


def on_a_full_disk(run: Path, reaction: str) -> subprocess.CompletedProcess[str]:
    """A log of many steps in a process whose files may not grow, but at its last; the time limit is for a hang."""
    run.mkdir()
    return subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run), reaction],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def events(run: Path) -> list[Event]:
    """TensorBoard's events of a run; raises where one is cut short."""
    found = []
    for path in sorted((run / "tensorboard").iterdir()):
        stream, offset = path.read_bytes(), 0
        while offset < len(stream):
            length = int.from_bytes(stream[offset : offset + 8], "little")
            found.append(Event.FromString(unframe(stream, offset, length)))
            offset += length + FRAMING_BYTES
    return found


def test_a_full_disk_does_not_hang_a_run_that_is_to_go_on_and_what_is_lost_is_said_once(tmp_path):
    done = on_a_full_disk(tmp_path / "run", "continue")
    assert done.returncode == 0, done.stderr
    for name in (METRICS, "tensorboard"):
        assert len(re.findall(rf"^warning: {tmp_path}/run/{name}: File too large", done.stdout, re.MULTILINE)) == 1
    steps = [row["step"] for row in read_rows(tmp_path / "run")]
    assert steps == [*range(1, len(steps)), STEPS]  # whole rows; once there is room again they are written again
    assert 10 < len(steps) < STEPS
    shown = [event.step for event in events(tmp_path / "run") if event.HasField("summary")]
    assert shown == [*range(1, len(shown)), STEPS]
    assert 10 < len(shown) < STEPS


def test_a_full_disk_ends_a_run_that_is_to_stop_in_a_line_and_its_rows_are_whole(tmp_path):
    done = on_a_full_disk(tmp_path / "run", "stop")
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"UserError: {tmp_path}/run/{METRICS}: File too large; mend that and run again to continue")
    lines = (tmp_path / "run" / METRICS).read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1].endswith("\n")


@pytest.mark.parametrize("reaction", ["stop", "continue"])
def test_rows_that_cannot_be_forced_to_the_disk_are_a_save_that_failed(tmp_path, reaction, monkeypatch, capsys):
    saved = []
    checkpoints = SimpleNamespace(wait=lambda **_: None, save=lambda state, *_: saved.append(state))
    config = TrainConfig(Path(), tmp_path, save_steps=1, on_save_failure=reaction)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with RunLog(tmp_path, 0, 4) as log:
        saving = Saving(config, checkpoints, log, first=0)
        iterator = SimpleNamespace(get_state=dict)
        wanted = r"metrics.jsonl could not be forced to the disk: No space left on device"
        if reaction == "stop":
            with pytest.raises(UserError, match=wanted + "; make room, then run the same command again"):
                saving.save_if_due("state", iterator, 1, always=False)
        else:
            saving.save_if_due("state", iterator, 1, always=False)
            assert re.search(wanted + "; training goes on", capsys.readouterr().out)
    assert saved == ([] if reaction == "stop" else ["state"])


def test_a_piece_that_the_disk_does_not_take_whole_leaves_no_trace(tmp_path, monkeypatch):
    file = Appended(tmp_path / "file")
    file.write(b"first\n")

    class Short:
        """Takes three bytes, then nothing more."""

        def __init__(self, real):
            self.real, self.left = real, 3

        def write(self, piece):
            if not self.left:
                raise OSError(28, "No space left on device")
            taken, self.left = self.real.write(piece[: self.left]), 0
            return taken

        def __getattr__(self, name):
            return getattr(self.real, name)

    whole = file._file
    monkeypatch.setattr(file, "_file", Short(whole))
    with pytest.raises(OSError, match="No space"):
        file.write(b"second\n")
    monkeypatch.setattr(file, "_file", whole)
    file.write(b"third\n")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"first\nthird\n"


def test_a_step_that_overflowed_is_a_row_of_json_and_is_drawn_and_continued(tmp_path):
    """float16's steps that are left out have no finite gradient norm."""
    with RunLog(tmp_path, 0, 3) as log:
        log.step(1, VALUES | {"loss": 5.0}, 1.0, 0.0, write=True)
        log.step(2, VALUES | {"loss": math.nan, "grad_norm": math.inf}, 1.0, 0.0, write=True)
        found = log.summary()
    for name in (METRICS, SUMMARY):
        for text in (tmp_path / name).read_text().splitlines() if name == METRICS else [(tmp_path / name).read_text()]:
            json.loads(text, parse_constant=pytest.fail)
    assert [(row["loss"], row["grad_norm"]) for row in read_rows(tmp_path)] == [(5.0, 1.0), (None, None)]
    assert (found["loss"], found["grad_norm"]) == (5.0, None)
    assert panels_of(run_rows(tmp_path))[0].series[0].values.tolist() == [5.0]
    with RunLog(tmp_path, 2, 3) as log:
        assert log.summary()["loss"] == 5.0


def test_a_run_written_before_is_made_json_when_it_is_continued(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "loss": 2.0, "grad_norm": Infinity}\n')
    with RunLog(tmp_path, 1, 3):
        pass
    json.loads((tmp_path / METRICS).read_text(), parse_constant=pytest.fail)


def test_speed_leaves_out_the_first_step_and_evaluations(tmp_path, monkeypatch):
    """60 s until the first step, 8 of them for an evaluation; 2 for each of the others, 10 for another evaluation."""
    clock = [0.0]
    made = SimpleNamespace(**vars(time) | {"perf_counter": lambda: clock[0]})
    monkeypatch.setattr("jax_train.runlog.time", made)
    with RunLog(tmp_path, 0, 3) as log:
        log.evaluation(0, {"wer_normalised": 9.0}, "", 8.0)
        for step, now in ((1, 60.0), (2, 62.0), (3, 74.0)):
            clock[0] = now
            log.step(step, VALUES, 50.0, 0.5, write=True)
            if step == 2:
                log.evaluation(step, {"wer_normalised": 9.0}, "", 10.0)
        found = log.summary()
    names = ("first_step_seconds", "speech_seconds_per_second", "data_wait", "eval_share")
    assert [found[name] for name in names] == pytest.approx([52, 100 / 4, 1 / 4, 18 / 22])


def test_a_run_that_goes_on_knows_what_it_left_out_and_its_newest_loss_and_evaluation(tmp_path):
    with RunLog(tmp_path, 0, 9) as log:
        for step, loss in ((1, 9.0), (2, 3.0)):
            log.step(step, VALUES | {"loss": loss}, 1.0, 0.0, write=True)
        log.skip(3, VALUES, ["a.mp3"])
        for step, seconds in ((2, 1.0), (3, 5.0)):
            log.evaluation(step, {"wer_normalised": 9.0}, "", seconds)
    with RunLog(tmp_path, 3, 9) as log:
        assert (log.skipped, log.last_evaluation_seconds, log.summary()["loss"]) == (1, 5.0, 3.0)


def test_an_evaluation_that_is_only_as_good_as_the_best_is_no_better():
    assert evaluations_since_best({2: 80.0, 4: 80.0, 6: 95.0}) == 2
    assert evaluations_since_best({2: 80.0, 4: 95.0, 6: 79.0}) == 0


def test_tensorboard_leaves_out_later_steps_of_an_attempt_before(tmp_path):
    for first in (0, 2):
        with RunLog(tmp_path, first, 9) as log:
            for step in range(first + 1, first + 4):
                log.step(step, VALUES, 1.0, 0.0, write=True)
                if step == 3:
                    log.evaluation(step, {"wer_normalised": 9.0}, "| clip |", 0.1)
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert sorted(starts) == [1, 3]
    texts = [v.tag for event in events(tmp_path) for v in event.summary.value if v.metadata.plugin_data.plugin_name]
    assert texts == ["eval/transcripts/text_summary"] * 2


def test_a_runs_log_imports_no_pytorch(tmp_path):
    """Which takes seconds; afterwards it can be imported as ever."""
    program = f"""
import importlib, pathlib, sys
from jax_train.runlog import RunLog
with RunLog(pathlib.Path({str(tmp_path)!r}), 0, 1) as log:
    assert "torch" not in sys.modules
assert importlib.util.find_spec("torch")
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_the_time_to_the_first_step_counts_from_the_start_of_the_process(tmp_path, capsys):
    """Imports and loading are in it: this process began long before its log."""
    before = process_seconds()
    with RunLog(tmp_path, 4, 9) as log:
        time.sleep(0.05)
        log.step(5, VALUES, 1.0, 0.0, write=False)
        log.step(6, VALUES, 1.0, 0.0, write=True)
        log.step(7, VALUES, 1.0, 0.0, write=True)
        seconds = log.summary()["seconds_to_first_step"]
    assert before + 0.05 <= seconds <= process_seconds()
    assert f"step 5 is done, {seconds:.1f} s after the start of the command" in capsys.readouterr().out
    assert [row.get("seconds_to_first_step") for row in read_rows(tmp_path)] == [seconds, None]


def test_a_processes_seconds_are_those_since_it_was_started():
    """0.3 s: a process sees its own start to a hundredth, and Python's takes some tenths."""
    started = time.monotonic()
    program = "from jax_train.runlog import process_seconds; import time; time.sleep(0.5); print(process_seconds())"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 0.5 <= float(done.stdout) <= time.monotonic() - started


def test_what_failed_when_nobody_waits_for_it_is_not_printed(monkeypatch):
    """Other errors of that kind are."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    failures_in_a_line()
    others = [
        SimpleNamespace(exc_value=error) for error in (RuntimeError("Event loop is closed"), RuntimeError("else"))
    ]
    for error in others:
        sys.unraisablehook(error)
    assert shown == others[1:]
