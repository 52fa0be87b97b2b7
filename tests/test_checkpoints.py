"""What may lie or happen in a run's folder that no run of ours did: it is neither taken for a checkpoint nor spread."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jax_train.checkpoints
from data.errors import UserError
from jax_train.checkpoint_files import SEAL, best, damage, seal, steps_in, superfluous
from jax_train.checkpoints import Checkpoints, copy_small_files, load_run, set_heads
from jax_train.model import functional
from jax_train.runlog import read_rows
from jax_train.step import TrainState
from jax_train.weights import load_model


@pytest.fixture
def run(small_model_dir: Path, tmp_path: Path) -> Path:
    """Two checkpoints; those of step 2 have other numbers."""
    params, buffers, _ = functional(load_model(small_model_dir))
    copy_small_files(small_model_dir, tmp_path / "run" / "model")
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        for step in (1, 2):
            params = {name: value + 1 for name, value in params.items()}
            checkpoints.save(TrainState(params, buffers, (), jnp.int32(step)), {})
    return tmp_path / "run"


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_followed_by_the_next(run, monkeypatch):
    older = run / "checkpoints" / "1"
    aside = (run / "checkpoints" / "2").rename(run / "aside")

    def overtaken(folder: Path) -> str:
        if folder == older:
            shutil.rmtree(older)
            aside.rename(run / "checkpoints" / "2")
        return damage(folder)

    monkeypatch.setattr(jax_train.checkpoints, "damage", overtaken)
    model, step = load_run(run)
    assert step == 2
    assert float(np.mean(model.decoder.layer_norm.bias[...])) > 1
    with pytest.raises(UserError, match="no checkpoint 1; there are 2"):
        load_run(run, step="1")


def test_a_file_is_no_checkpoint_and_a_seal_of_another_kind_is_none(run):
    (run / "checkpoints" / "7").touch()
    assert steps_in(run / "checkpoints") == [1, 2]
    (run / "checkpoints" / "2" / SEAL).write_text("[]")
    assert damage(run / "checkpoints" / "2") == f"{SEAL} cannot be read"


def test_of_checkpoints_with_the_same_wer_the_newest_is_the_best():
    wer = {2: 9.0, 4: 9.0, 6: 12.0}
    assert best([2, 4, 6, 8], wer) == [4, 2, 6]
    assert superfluous([2, 4, 6, 8], 1, 1, wer) == [2, 6]


def test_another_byte_in_any_piece_of_a_file_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_train.checkpoint_files.PIECE", 4)
    file = tmp_path / "array"
    file.write_bytes(b"first to last")
    seal(tmp_path)
    assert not damage(tmp_path)
    file.write_bytes(b"First to last")
    assert damage(tmp_path) == "array holds other bytes than were written"


def test_what_a_power_cut_left_of_a_row_is_no_row(tmp_path):
    rows = [json.dumps({"step": step}) + "\n" for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_bytes(
        b"".join([rows[0].encode(), b"\0" * 40 + b"\n", b"\0\0" + rows[1].encode(), b'{"st'])
    )
    assert read_rows(tmp_path) == [{"step": 1}, {"step": 2}]


def test_of_a_models_folder_only_a_models_files_are_copied(small_model_dir, tmp_path):
    source = shutil.copytree(small_model_dir, tmp_path / "source")
    for name in ("trainer_state.json", "notes.txt", "model.safetensors.index.json"):
        (source / name).write_text("{}")
    copy_small_files(source, tmp_path / "copy")
    assert {path.name for path in source.iterdir()} - {path.name for path in (tmp_path / "copy").iterdir()} == {
        "model.safetensors",
        "trainer_state.json",
        "notes.txt",
        "model.safetensors.index.json",
    }


def test_with_other_heads_words_are_not_timed_by_the_pretrained_ones(tmp_path):
    for name, fields in {"config": {"d_model": 16}, "generation_config": {"alignment_heads": [[0, 1]], "k": 1}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(fields))
    set_heads(tmp_path, 8)
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    assert json.loads((tmp_path / "config.json").read_text()) == {"d_model": 16} | heads
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"k": 1}
