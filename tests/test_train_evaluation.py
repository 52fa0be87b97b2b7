"""WER while training: the evaluate command's own figures, neither lost nor repeated when a run is stopped."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from data.errors import UserError
from data.records import Shards
from data.tfrecord import FRAMING_BYTES, unframe
from jax_train.checkpoint_files import steps_in
from jax_train.config import TrainConfig
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.evaluation import Evaluation, chosen_rows
from jax_train.preemption import BrokenOff, Stopped, StopRequest
from jax_train.runlog import read_rows
from jax_train.train import train
from tests.power_cut import train_until_power_cut
from tests.test_train_reliability import curve

WER_OF_STEP = {2: 80.0, 4: 95.0, 6: 90.0}


@pytest.fixture
def config(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=small_shards,
        run=tmp_path / "run",
        model=str(small_model_dir),
        batch_size=8,
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


def test_a_run_stopped_before_or_within_an_evaluation_does_it_once(config, monkeypatch):
    undisturbed = dataclasses.replace(config, run=config.run.with_name("undisturbed"))
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train(undisturbed)
    stop = StopRequest(config.run)

    def broken_off(evaluation, state, step, log):
        if step == 4:
            stop.name = "SIGTERM"
            raise BrokenOff
        scored_by_table(evaluation, state, step, log)

    monkeypatch.setattr(Evaluation, "run", broken_off)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 4"):
        train(config, stop)
    assert [row["step"] for row in read_rows(config.run)] == [1, 2, 2, 3, 4]
    monkeypatch.setattr(Evaluation, "run", scored_by_table)
    train_until_power_cut(config, 6, monkeypatch)
    train(config)
    assert curve(config.run) == curve(undisturbed.run)
    assert steps_in(config.run / "checkpoints") == [2, 6]


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
