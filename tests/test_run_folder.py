"""What may continue a run: what computes the same, on whatever machine; the rest is refused with the difference."""

import dataclasses
import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import UserError, command
from data.records import Shards
from jax_train.config import PUBLISHED, TrainConfig
from jax_train.run_folder import SETTINGS, prepare_run, starting_model

SHARDS = SimpleNamespace(manifest={"shards": []})


def published(place: Path, size: str) -> Path:
    """A folder with a published size's config.json alone."""
    folder = place / size
    folder.mkdir(exist_ok=True)
    fields = {"model_type": "whisper"} | dataclasses.asdict(PUBLISHED[size])
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(Path("shards"), tmp_path / "run", compute_dtype="bfloat16")


def test_another_architecture_of_the_same_width_is_refused_with_what_differs(config, tmp_path):
    prepare_run(config, published(tmp_path, "large-v2"), SHARDS)
    prepare_run(config, published(tmp_path, "large"), SHARDS)  # the same shapes under another name
    with pytest.raises(UserError, match=r"architecture\.decoder_layers 32 → 4; .*num_mel_bins 80 → 128; .*vocab_size"):
        prepare_run(config, published(tmp_path, "large-v3-turbo"), SHARDS)
    with pytest.raises(UserError, match=r"architecture\.decoder_attention_heads 20 → 16"):
        prepare_run(dataclasses.replace(config, attention_heads=16), published(tmp_path, "large-v2"), SHARDS)


def test_a_run_that_noted_its_width_alone_is_compared_by_the_model_it_holds(config, tmp_path):
    prepare_run(config, published(tmp_path, "large-v2"), SHARDS)
    path = config.run / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": 1280}))
    prepare_run(config, published(tmp_path, "large-v2"), SHARDS)
    with pytest.raises(UserError, match=r"architecture\.decoder_layers 32 → 4"):
        prepare_run(config, published(tmp_path, "large-v3-turbo"), SHARDS)


def test_the_parts_of_a_batch_may_follow_the_machine_where_nothing_is_dropped(config, tmp_path):
    folder = published(tmp_path, "tiny")
    prepare_run(config, folder, SHARDS)
    prepare_run(dataclasses.replace(config, gradient_accumulation_steps=4), folder, SHARDS)
    dropped = dataclasses.replace(config, run=tmp_path / "dropped", activation_dropout=0.1)
    prepare_run(dropped, folder, SHARDS)
    with pytest.raises(UserError, match="gradient_accumulation_steps 1 → 4"):
        prepare_run(dataclasses.replace(dropped, gradient_accumulation_steps=4), folder, SHARDS)


def test_another_number_type_is_refused_with_the_option_that_continues(config, tmp_path):
    folder = published(tmp_path, "tiny")
    prepare_run(config, folder, SHARDS)
    wanted = r"compute_dtype bfloat16 → float16; .*\(--compute-dtype bfloat16 continues it on any device\)"
    with pytest.raises(UserError, match=wanted):
        prepare_run(dataclasses.replace(config, compute_dtype="float16"), folder, SHARDS)


def test_other_data_under_a_run_is_refused_with_what_changed(config, small_model_dir, small_shards):
    shards = Shards.open(small_shards, "train")
    prepare_run(config, small_model_dir, shards)
    prepare_run(dataclasses.replace(config, save_minutes=1.0, eval_steps=7), small_model_dir, shards)
    (shard,) = shards.manifest["shards"]
    other = shards.manifest | {"seed": 7, "shards": [shard | {"sha256": "0" * 64}]}
    with pytest.raises(UserError, match=r"data\.seed 0 → 7; data\.shards\.train-00000-of-00001\.tfrecord\.sha256 "):
        prepare_run(config, small_model_dir, SimpleNamespace(manifest=other))


def test_a_run_goes_on_without_the_hub_by_the_model_it_holds(config, tmp_path, monkeypatch):
    """A lost machine's cache is lost with it. A folder of one's own may have changed, and is looked at again."""
    fetched = published(tmp_path, "tiny")
    monkeypatch.setattr("jax_train.run_folder.model_folder", lambda _: fetched)
    config = dataclasses.replace(config, model="someone/tiny")
    assert starting_model(config) == fetched
    prepare_run(config, fetched, SHARDS)
    assert starting_model(config) == fetched  # it has no checkpoint yet, and needs weights
    (config.run / "checkpoints" / "3").mkdir(parents=True)
    assert starting_model(config) == config.run / "model"
    prepare_run(config, starting_model(config), SHARDS)
    assert starting_model(dataclasses.replace(config, model="someone/else")) == fetched
    assert starting_model(dataclasses.replace(config, model=str(fetched))) == fetched


def test_a_disk_that_is_full_before_the_first_step_is_one_line(config, tmp_path, monkeypatch, capsys):
    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    folder = published(tmp_path, "tiny")
    monkeypatch.setattr("jax_train.run_folder.write_json", full)
    with pytest.raises(SystemExit) as ended:
        command(lambda: prepare_run(config, folder, SHARDS))()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {config.run}")
    assert said.count("\n") == 1
    assert "No space left on device; make room and run the same command again" in said
    monkeypatch.undo()
    prepare_run(config, folder, SHARDS)
    assert (config.run / SETTINGS).is_file()
