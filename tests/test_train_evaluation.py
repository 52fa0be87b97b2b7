"""WER while training: the evaluate command's own figures, neither lost nor repeated when a run is stopped."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event

from data.errors import UserError
from data.records import Shards
from data.tfrecord import FRAMING_BYTES, unframe
from jax_train.average import AverageConfig, average
from jax_train.checkpoint_files import steps_in
from jax_train.checkpoints import load_run
from jax_train.config import Lora, TrainConfig
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.evaluation import Evaluation, chosen_rows
from jax_train.export import ExportConfig, export
from jax_train.model import functional
from jax_train.preemption import BrokenOff, Stopped, StopRequest
from jax_train.runlog import RunLog, read_rows
from jax_train.train import train
from tests.power_cut import train_until_power_cut
from tests.test_train_reliability import curve

pytestmark = pytest.mark.usefixtures("two_devices")
WER_OF_STEP = {2: 80.0, 4: 95.0, 6: 90.0}


@pytest.fixture
def config(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=small_shards,
        run=tmp_path / "run",
        model=str(small_model_dir),
        batch_size=2,
        steps=6,
        learning_rate=1e-2,
        save_steps=1000,
        save_minutes=0,
        keep=1,
        eval_split="test",
        eval_steps=2,
        max_eval_share=1.0,
        eval_batch_size=1,
    )


def texts(run: Path) -> dict[int, str]:
    """What TensorBoard shows as transcripts, by step."""
    found = {}
    for path in sorted((run / "tensorboard").iterdir()):
        stream, offset = path.read_bytes(), 0
        while offset < len(stream):
            length = int.from_bytes(stream[offset : offset + 8], "little")
            event = Event.FromString(unframe(stream, offset, length))
            for value in event.summary.value:
                if value.tag.startswith("eval/transcripts"):
                    found[event.step] = value.tensor.string_val[0].decode()
            offset += length + FRAMING_BYTES
    return found


def test_evaluations_are_the_commands_own_and_stand_beside_the_steps(config, capsys):
    config = dataclasses.replace(config, steps=3, eval_steps=2)
    result = train(config)
    rows = read_rows(config.run)
    assert [(row["step"], "wer" in row) for row in rows] == [(1, False), (2, False), (2, True), (3, False), (3, True)]
    want = evaluate(EvaluateConfig(shards=config.shards, run=config.run, batch_size=1))
    for name in ("wer", "wer_normalised", "cer", "cer_normalised"):
        assert rows[-1][name] == result[name] == want[name]
    assert result["step"] == 3
    assert 0 < result["eval_share"] <= 1
    assert f"WER {rows[2]['wer_normalised']:.1f} %" in capsys.readouterr().err  # on the bar
    shown = texts(config.run)
    assert sorted(shown) == [2, 3]
    shards = Shards.open(config.shards, "test")
    for row in np.flatnonzero(shards.index["copy"] == 0):
        assert shards[row].text in shown[3]


def scored_by_table(_evaluation, _state, step, log):
    """Instead of transcribing: the WER of `WER_OF_STEP`."""
    log.evaluation(step, {"wer": 99.0, "wer_normalised": WER_OF_STEP[step]}, f"after {step}", 0.1)


def test_the_best_checkpoint_is_kept_beside_the_newest(config, monkeypatch):
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train(config)
    assert steps_in(config.run / "checkpoints") == [2, 6]


def test_so_many_of_the_best_are_kept_and_any_can_be_loaded(config, monkeypatch):
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train(dataclasses.replace(config, keep_best=2))
    assert steps_in(config.run / "checkpoints") == [2, 6]
    assert [load_run(config.run, step=step)[1] for step in ("newest", "best", "6")] == [6, 2, 6]
    with pytest.raises(UserError, match="no checkpoint 4; there are 2, 6, newest and best"):
        load_run(config.run, step="4")


def test_a_run_ends_early_once_evaluations_bring_nothing_better(config, monkeypatch, capsys):
    """The WERs are 80, 95, 90: with patience for one evaluation it ends after the second."""
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    impatient = dataclasses.replace(config, patience=1)
    assert train(impatient)["step"] == 4
    assert "step 4: no lower WER in 1 evaluations; the run ends here" in capsys.readouterr().out
    assert steps_in(config.run / "checkpoints") == [2, 4]
    assert train(impatient)["step"] == 4
    assert "already trained, 4 steps" in capsys.readouterr().out
    patient = dataclasses.replace(config, patience=2)
    assert train(patient)["step"] == 6
    undisturbed = dataclasses.replace(config, run=config.run.with_name("undisturbed"))
    train(undisturbed)
    assert curve(config.run) == curve(undisturbed.run)


def test_evaluations_that_would_take_too_much_of_the_time_wait(config, monkeypatch):
    def slow(_evaluation, _state, step, log):
        log.evaluation(step, {"wer": 99.0, "wer_normalised": WER_OF_STEP[step]}, "", 1e6)

    monkeypatch.setattr(Evaluation, "run", slow)
    train(dataclasses.replace(config, max_eval_share=0.5))
    assert sorted(row["step"] for row in read_rows(config.run) if "wer" in row) == [2, 6]


def test_evaluations_take_no_more_than_their_share_of_a_run_that_is_stopped_again_and_again(tmp_path, monkeypatch):
    """A made clock: steps of 1 s, evaluations of 30 s asked for every 100 steps, the run stopped every 150 steps.

    At 5 % an evaluation is due when the others and it are at most a twentieth of all the time: after 570 s of steps
    each. The first is free; the compilation, 60 s in every process, and its first step are not counted.
    """
    clock = [0.0]
    monkeypatch.setattr("jax_train.runlog.time.perf_counter", lambda: clock[0])
    evaluation = object.__new__(Evaluation)
    evaluation._config = SimpleNamespace(eval_steps=100, max_eval_share=0.05)
    done, total, evaluated = 0, 3000, []
    while done < total:
        until = min(done + 150, total)
        with RunLog(tmp_path, done, total) as log:
            clock[0] += 60
            for step in range(done, until):
                if step not in log.wer and evaluation.due(step, False, log):
                    clock[0] += 30
                    log.evaluation(step, {"wer": 9.0, "wer_normalised": 9.0}, "", 30.0)
                    evaluated.append(step)
                    if len(evaluated) > 1:
                        assert log.eval_share_after(0.0) <= 0.05
                clock[0] += 1
                log.step(step + 1, {"loss": 1.0}, 0.0, 0.0, write=(step + 1) % 10 == 0)
        done = until
    assert evaluated == [100, 1200, 1800, 2300, 2900]
    seconds = 3000 + 30 * len(evaluated)  # of it the first step of each process is left out with its compilation
    assert 30 * len(evaluated) / seconds <= 0.05


def test_patience_without_evaluations_is_refused(config):
    with pytest.raises(UserError, match="--patience 2: give --eval-split too"):
        dataclasses.replace(config, patience=2, eval_split="")


def test_the_average_is_the_mean_of_what_the_checkpoints_hold(config, monkeypatch):
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train(dataclasses.replace(config, keep=3))
    out = config.run.with_name("average")
    assert average(AverageConfig(config.run, out, best=2)) == [2, 6]
    names = ("2", "6")
    parts = [functional(load_run(config.run, step=step)[0])[0] for step in names]
    mean, step = load_run(out)
    assert step == 6
    got = functional(mean)[0]
    assert got.keys() == parts[0].keys()
    for name, value in got.items():
        want = np.mean([np.asarray(part[name], np.float64) for part in parts], axis=0).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(value), want, err_msg=name)
    scores = evaluate(EvaluateConfig(shards=config.shards, run=out, batch_size=1))
    assert scores["model"] == f"{out} step 6"
    with pytest.raises(UserError, match="exists; give another --out"):
        average(AverageConfig(config.run, out, last=2))
    with pytest.raises(UserError, match="3 checkpoints, not 4; train with a larger --keep"):
        average(AverageConfig(config.run, out.with_name("other"), last=4))
    assert not out.with_name("other").exists()


@pytest.mark.usefixtures("proved_here")
def test_the_average_of_the_last_of_a_lora_run_is_merged_exported_and_keeps_its_recipe(config, monkeypatch, tmp_path):
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    adapters = Lora(rank=4, targets=("q_proj", "v_proj"))
    train(dataclasses.replace(config, keep=3, lora=adapters, learning_rate=1e-1))
    out = tmp_path / "average"
    assert average(AverageConfig(config.run, out, last=2)) == [4, 6]
    parts = [functional(load_run(config.run, step=step)[0])[0] for step in ("4", "6")]
    got = functional(load_run(out)[0])[0]
    assert got.keys() == parts[0].keys()
    for name, value in got.items():
        want = np.mean([np.asarray(part[name], np.float64) for part in parts], axis=0).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(value), want, err_msg=name)
    settings = json.loads((out / "config.json").read_text())
    assert (settings["lora"]["rank"], settings["averaged_recipe"]["lora"]["rank"]) == (0, 4)
    record = export(ExportConfig(out, tmp_path / "model", clips=2))
    assert (record["step"], record["transcripts"]["different"]) == (6, 0)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = "decoder.layers.0.self_attn.q_proj"
    np.testing.assert_array_equal(weights[f"model.{name}.weight"].T, got[f"{name}.kernel"])
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "the mean of the weights after steps 4, 6." in card
    assert '| lora | {"rank": 4,' in card
    assert str(tmp_path) not in card


def test_a_run_stopped_before_or_within_an_evaluation_does_it_once(config, monkeypatch):
    undisturbed = dataclasses.replace(config, run=config.run.with_name("undisturbed"))
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train(undisturbed)
    stop = StopRequest(config.run)

    monkeypatch.undo()
    run = Evaluation.run

    def signalled(_evaluation, _model):
        stop.name = "SIGTERM"
        raise BrokenOff

    def broken_off(evaluation, state, step, log):
        (run if step == 4 else scored_by_table)(evaluation, state, step, log)

    monkeypatch.setattr(Evaluation, "_scored", signalled)
    monkeypatch.setattr(Evaluation, "run", broken_off)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 4"):
        train(config, stop)
    assert [row["step"] for row in read_rows(config.run)] == [1, 2, 2, 3, 4]
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train_until_power_cut(config, 6, monkeypatch)
    train(config)
    assert curve(config.run) == curve(undisturbed.run)
    assert steps_in(config.run / "checkpoints") == [2, 6]


def test_a_run_stopped_within_its_last_evaluation_is_not_over(config, monkeypatch):
    stop, scored = StopRequest(config.run), Evaluation._scored

    def signalled(_evaluation, _model):
        stop.name = "SIGTERM"
        raise BrokenOff

    config = dataclasses.replace(config, steps=1)
    monkeypatch.setattr(Evaluation, "_scored", signalled)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 1"):
        train(config, stop)
    assert steps_in(config.run / "checkpoints") == [1]
    monkeypatch.setattr(Evaluation, "_scored", scored)
    assert "wer" in train(config)


def test_an_evaluation_that_fails_loses_no_step(config, monkeypatch):
    def damaged(_evaluation, _model):
        raise UserError("record 3 is damaged")

    monkeypatch.setattr(Evaluation, "_scored", damaged)
    with pytest.raises(UserError, match="record 3 is damaged"):
        train(config)
    assert steps_in(config.run / "checkpoints") == [2]
    assert [row["step"] for row in read_rows(config.run)] == [1, 2]


def test_the_same_clips_are_drawn_every_time_and_only_clean_ones():
    index = {"copy": np.tile([0, 1], 50)}
    rows = chosen_rows(index, 10, seed=3)
    assert rows.tolist() == chosen_rows(index, 10, seed=3).tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 10
    assert (rows % 2 == 0).all()
    assert rows.tolist() != chosen_rows(index, 10, seed=4).tolist()
    assert len(chosen_rows(index, 0, seed=3)) == len(chosen_rows(index, 1000, seed=3)) == 50


def test_an_unknown_split_is_said_before_training(config):
    with pytest.raises(UserError, match="has no split 'dev'; there are: test, train"):
        train(dataclasses.replace(config, eval_split="dev"))
