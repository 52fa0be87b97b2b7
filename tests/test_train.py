"""The train command: it learns, continues exactly where it was stopped, and says what is wrong."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from data.errors import UserError
from data.records import Shards
from data.tfrecord import FRAMING_BYTES, unframe
from data.tokens import load_tokenizer
from jax_train.batches import Windows, batches, plan_run
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig
from jax_train.loss import token_loss
from jax_train.model import functional, jitted
from jax_train.optimizer import learning_rate_schedule
from jax_train.runlog import read_rows
from jax_train.step import restore
from jax_train.train import train
from jax_train.weights import load_model
from jax_train.windows import Prompt, Window, plan_epoch
from tests.power_cut import train_until_power_cut
from tests.torch_reference import torch_loss

pytestmark = pytest.mark.usefixtures("two_devices")
STEPS = 6


@pytest.fixture
def config(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=small_shards,
        run=tmp_path / "run",
        model=str(small_model_dir),
        batch_size=2,
        steps=STEPS,
        learning_rate=1e-2,
        save_steps=2,
    )


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run)]


def test_training_lowers_the_loss_and_leaves_a_whole_run(config):
    result = train(config)
    rows = read_rows(config.run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.4  # of 10.9, a random model's log(51,865)
    assert result["step"] == STEPS
    assert result["speech_seconds_per_second"] > 0
    assert json.loads((config.run / "summary.json").read_text()) == result
    assert json.loads((config.run / "config.json").read_text())["learning_rate"] == config.learning_rate
    assert (config.run / "model" / "tokenizer.json").is_file()
    assert sorted(path.name for path in (config.run / "checkpoints").iterdir()) == ["4", "6"]  # the newest two
    assert load_run(config.run)[1] == STEPS


def test_tensorboard_shows_what_metrics_jsonl_holds(config):
    train(config)
    (path,) = (config.run / "tensorboard").iterdir()
    stream, offset, seen = path.read_bytes(), 0, []
    while offset < len(stream):
        length = int.from_bytes(stream[offset : offset + 8], "little")
        event = Event.FromString(unframe(stream, offset, length))
        seen += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "train/loss"]
        offset += length + FRAMING_BYTES
    assert seen == [(step + 1, pytest.approx(loss)) for step, loss in enumerate(losses(config.run))]


def test_a_run_stopped_and_started_again_is_bit_for_bit_the_undisturbed_one(config, monkeypatch):
    undisturbed = dataclasses.replace(config, run=config.run.with_name("undisturbed"))
    train(undisturbed)
    train_until_power_cut(config, 4, monkeypatch)
    assert losses(config.run) == losses(undisturbed.run)[:3]  # step 3 was logged but not saved, so it comes again
    train(config)
    assert losses(config.run) == losses(undisturbed.run)
    ours, theirs = (functional(load_run(run)[0])[0] for run in (config.run, undisturbed.run))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_finished_run_is_left_as_it_is(config):
    result = train(config)
    assert train(config) == result


def test_a_run_is_not_continued_with_other_settings(config):
    train(config)
    with pytest.raises(UserError, match=r"holds another run: learning_rate 0\.01 → 0\.5; seed 0 → 1"):
        train(dataclasses.replace(config, learning_rate=0.5, seed=1))


def test_a_loss_that_is_no_number_stops_the_run_with_step_rate_and_clips(config):
    with pytest.raises(UserError, match=r"step [23]: loss nan.*learning rate .*clips .*\.mp3"):
        train(dataclasses.replace(config, learning_rate=1e30, warmup=0.0))


def test_shards_of_another_mel_size_are_refused(config, small_model_dir, tmp_path):
    other = tmp_path / "mel128"
    other.mkdir()
    for path in small_model_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    fields = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(fields | {"num_mel_bins": 128}))
    with pytest.raises(UserError, match=r"features of 80 mel bins.*takes 128"):
        train(dataclasses.replace(config, model=str(other)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "has no split 'dev'; there are: test, train"),
        ({"language": "xx"}, r"--language xx: .*train is in 'it'; leave the option out"),
        ({"batch_size": 3}, "--batch-size 3 does not divide by 2 devices"),
        ({"model": "no/such/folder"}, "no such folder"),
        ({"epochs": -1.0}, "--epochs -1"),
        ({"timestamps": 1.5}, "--timestamps 1.5"),
        ({"prompt_share": -0.1}, "--prompt-share -0.1"),
        ({"learning_rate": 0.0}, "no usual learning rate for d_model 16"),
    ],
)
def test_a_wrong_setting_is_said(config, options, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(config, **options))


def test_epochs_are_counted_in_passes_over_the_clips(config):
    index = Shards.open(config.shards, "train").index
    for epochs in (1.0, 1.5, 3.0):
        plan = plan_run(index, dataclasses.replace(config, batch_size=8, steps=0, epochs=epochs, windows="padded"))
        assert plan.steps == round(epochs * 5)  # 40 clips, eight a batch
    for first in (0, 5, 10):
        rows = np.concatenate([plan.rows_of_step(step) for step in range(first, first + 5)])
        assert sorted(index["id"][rows]) == sorted(set(index["id"]))


@pytest.mark.parametrize("options", [{"steps": 0, "epochs": 2.5}, {"steps": 15}])
def test_a_plan_that_takes_long_shows_how_far_it_is(config, options, monkeypatch, capsys):
    """40 clips, eight a batch: three epochs are begun either way."""
    index = Shards.open(config.shards, "train").index
    monkeypatch.setattr("jax_train.batches.SILENT_SECONDS", 0.0)
    plan_run(index, dataclasses.replace(config, batch_size=8, windows="padded", **options))
    assert "plan: 100%" in (said := capsys.readouterr().err)
    assert "3/3" in said


def test_a_runs_windows_are_those_of_its_seed_and_shares(config):
    index = Shards.open(config.shards, "train").index
    shares = {"windows": "packed", "timestamps": 0.5, "single": 0.5}
    plan = plan_run(index, dataclasses.replace(config, seed=3, steps=0, epochs=2.0, prompt_share=0.5, **shares))
    for epoch, got in enumerate(plan.epochs):
        want = plan_epoch(index, seed=3, epoch=epoch, prompts=0.5, max_tokens=plan.label_length, **shares)
        assert [rows.tolist() for rows in got.rows] == [rows.tolist() for rows in want.rows]
        assert got.timestamps.tolist() == want.timestamps.tolist()
        assert got.prompted.tolist() == want.prompted.tolist()


def test_two_processes_split_the_same_global_batches(config, small_model_dir):
    shards = Shards.open(config.shards, "train")
    plan = plan_run(shards.index, config)
    prompt = Prompt.of(load_tokenizer(str(small_model_dir)), "it")
    alone = batches(Windows(shards, plan, prompt))
    both = [batches(Windows(shards, plan, prompt, process, 2)) for process in (0, 1)]
    for _ in range(STEPS):
        parts = [next(iterator) for iterator in both]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        for got, want in zip(joined, next(alone), strict=True):
            np.testing.assert_array_equal(got, want)


def test_worker_processes_read_the_same_batches_and_resume_where_they_stood(config, small_model_dir):
    shards = Shards.open(config.shards, "train")
    plan = plan_run(shards.index, config)
    windows = Windows(shards, plan, Prompt.of(load_tokenizer(str(small_model_dir)), "it"))
    want, by_workers, resumed = batches(windows), batches(windows, workers=2), batches(windows, workers=2)
    for step in range(STEPS):
        if step == 3:
            resumed.set_state(json.loads(json.dumps(by_workers.get_state())))  # as a checkpoint keeps it
        batch = next(want)
        for iterator in (by_workers, resumed) if step >= 3 else (by_workers,):
            for got, expected in zip(next(iterator), batch, strict=True):
                np.testing.assert_array_equal(got, expected)


def test_the_loss_of_padded_windows_equals_hugging_faces_on_the_same_clips(config, small_model_dir):
    padded = dataclasses.replace(config, windows="padded", batch_size=4)
    shards = Shards.open(config.shards, "train")
    prompt = Prompt.of(load_tokenizer(str(small_model_dir)), "it")
    batch: Window = next(batches(Windows(shards, plan_run(shards.index, padded), prompt)))
    log_mel = restore(jnp.asarray(batch.log_mel_q_FM), jnp.asarray(batch.log_mel_max_F))
    nats, tokens = token_loss(
        jitted(load_model(small_model_dir))(log_mel, jnp.asarray(batch.tokens_L)), jnp.asarray(batch.labels_L)
    )
    model = WhisperForConditionalGeneration.from_pretrained(small_model_dir).eval()
    with torch.no_grad():
        want = torch_loss(model, np.asarray(log_mel), batch.tokens_L, batch.labels_L)
        labels = torch.from_numpy(batch.labels_L).long()
        features = torch.from_numpy(np.asarray(log_mel).transpose(0, 2, 1).copy())
        from_labels = model(input_features=features, labels=labels).loss  # Hugging Face shifts the labels itself
    assert float(nats) / int(tokens) == pytest.approx(float(want), rel=1e-5)
    assert float(from_labels) == pytest.approx(float(want), rel=1e-6)


def test_the_loss_behind_a_prompt_equals_hugging_faces(config, small_model_dir):
    """Its tokenizer says what the prompt is, its PyTorch model what the loss is."""
    prompted = dataclasses.replace(config, prompt_share=1.0, timestamps=0.0, single=0.0, batch_size=2)
    shards = Shards.open(config.shards, "train")
    plan = plan_run(shards.index, prompted)
    prompt = Prompt.of(load_tokenizer(str(small_model_dir)), "it")
    batch: Window = next(batches(Windows(shards, plan, prompt)))
    sentences = [shards[int(row)].text for row in plan.window(0, 0).rows]
    want_prompt = WhisperTokenizer.from_pretrained(small_model_dir).get_prompt_ids(" ".join(sentences)).tolist()
    got = batch.tokens_L[1].tolist()
    assert got[: got.index(prompt.start)] == want_prompt
    log_mel = restore(jnp.asarray(batch.log_mel_q_FM), jnp.asarray(batch.log_mel_max_F))
    nats, tokens = token_loss(
        jitted(load_model(small_model_dir))(log_mel, jnp.asarray(batch.tokens_L)), jnp.asarray(batch.labels_L)
    )
    model = WhisperForConditionalGeneration.from_pretrained(small_model_dir).eval()
    with torch.no_grad():
        want = torch_loss(model, np.asarray(log_mel), batch.tokens_L, batch.labels_L)
    assert float(nats) / int(tokens) == pytest.approx(float(want), rel=1e-5)


def test_bfloat16_trains_to_nearly_the_same_loss_with_float32_parameters(config):
    """2 %: bfloat16 keeps 8 bits of a number, and the loss averages over some hundred tokens."""
    full = dataclasses.replace(config, run=config.run.with_name("float32"), steps=2)
    train(full)
    train(dataclasses.replace(full, run=config.run, compute_dtype="bfloat16"))
    assert losses(config.run) == pytest.approx(losses(full.run), rel=0.02)
    assert losses(config.run) != losses(full.run)
    assert all(value.dtype == jnp.float32 for value in functional(load_run(config.run)[0])[0].values())


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [(1 + np.cos(np.pi * done / 6)) / 2 for done in range(6)]),
    ],
)
def test_the_learning_rate_rises_to_its_peak_and_falls_as_named(config, name, after):
    """Eight steps, a quarter of them warm-up: no step at rate 0, the peak before the decay begins."""
    schedule = learning_rate_schedule(dataclasses.replace(config, schedule=name, warmup=0.25), peak=2e-3, steps=8)
    rates = [float(schedule(step)) for step in range(8)]
    assert rates == pytest.approx([1e-3, 2e-3, *(2e-3 * share for share in after)], rel=1e-5)
