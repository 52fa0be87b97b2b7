"""Export: a folder transformers loads whole, equal logits, and nothing under the final name when they are not."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import jax_train.export
from data.errors import UserError
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig
from jax_train.export import ExportConfig, export, write_folder
from jax_train.train import train


@pytest.fixture(scope="module")
def run(small_model_dir, small_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = str(small_model_dir)
    train(TrainConfig(shards=small_shards, run=folder, model=model, batch_size=8, steps=2, learning_rate=1e-2))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    return folder, export(ExportConfig(run, folder))


def test_the_record_says_what_was_compared(run, exported):
    folder, record = exported
    assert json.loads((folder / "export.json").read_text()) == record
    assert record["run"] == str(run)
    assert record["step"] == 2
    parity = record["parity"]
    assert parity["max_abs_logit_difference"] <= 3e-4 * parity["max_abs_logit"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # no temporary folder left


def test_transformers_loads_the_folder_whole_and_computes_the_runs_logits(run, exported):
    folder, _ = exported
    model, report = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rng = np.random.default_rng(3)
    log_mel = rng.uniform(-1, 1, (1, 3000, 80)).astype(np.float32)
    tokens = rng.integers(0, 50_000, (1, 20)).astype(np.int32)
    ours = np.asarray(load_run(run)[0](jnp.asarray(log_mel), jnp.asarray(tokens)))
    with torch.no_grad():
        theirs = model.eval()(
            input_features=torch.from_numpy(log_mel.transpose(0, 2, 1).copy()),
            decoder_input_ids=torch.from_numpy(tokens).long(),
        ).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())  # float32 rounding


def test_the_folder_is_trained_not_copied(exported, small_model_dir):
    before, after = (load_file(folder / "model.safetensors") for folder in (small_model_dir, exported[0]))
    assert before.keys() == after.keys()
    name = "model.decoder.embed_tokens.weight"
    assert not np.array_equal(before[name], after[name])
    positions = "model.encoder.embed_positions.weight"
    np.testing.assert_array_equal(before[positions], after[positions])


def test_generation_knows_language_and_task_and_the_processor_loads(exported):
    folder, _ = exported
    fields = json.loads((folder / "generation_config.json").read_text())
    assert (fields["language"], fields["task"]) == ("it", "transcribe")
    assert "forced_decoder_ids" not in fields
    processor = WhisperProcessor.from_pretrained(folder)
    assert processor.tokenizer.decode(processor.tokenizer(" Così è.").input_ids, skip_special_tokens=True) == " Così è."


def test_an_earlier_export_is_replaced_and_a_foreign_folder_is_not(run, exported, tmp_path):
    folder, record = exported
    assert export(ExportConfig(run, folder)) == record
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: exists and is no export of ours"):
        export(ExportConfig(run, tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_an_export_that_differs_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch, fault):
    def faulty(model, run, folder):
        write_folder(model, run, folder)
        tensors = load_file(folder / "model.safetensors")
        if fault == "changed":
            tensors["model.decoder.layers.0.fc1.weight"] = tensors["model.decoder.layers.0.fc1.weight"] * 1.5
        else:
            del tensors["model.decoder.layers.0.fc1.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(jax_train.export, "write_folder", faulty)
    with pytest.raises(UserError, match=r"export refused: .*(logits differ|fc1\.weight)"):
        export(ExportConfig(run, tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        export(ExportConfig(tmp_path, tmp_path / "model"))


def test_a_run_without_a_checkpoint_is_said(run, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    for path in (run / "model").iterdir():
        (tmp_path / "run" / "model" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="no complete checkpoint"):
        export(ExportConfig(tmp_path / "run", tmp_path / "model"))
