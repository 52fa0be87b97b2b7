"""What may continue a run: what computes the same, on whatever machine; the rest is refused with the difference."""

import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import UserError, command
from data.records import Shards
from jax_train.config import PUBLISHED, Lora, TrainConfig
from jax_train.run_folder import differences, prepare_run, starting_model
from jax_train.run_settings import LOCK, SETTINGS, claimed, read_settings
from jax_train.spec_augment import SpecAugment
from tests.conftest import REPOSITORY

SHARDS = SimpleNamespace(manifest={"shards": []})


def published(place: Path, size: str) -> Path:
    """A folder with a published size's config.json alone."""
    folder = place / size
    folder.mkdir(exist_ok=True)
    fields = {"model_type": "whisper"} | dataclasses.asdict(PUBLISHED[size])
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def prepared(config: TrainConfig, folder: Path, shards: SimpleNamespace = SHARDS) -> None:
    """A run that has a checkpoint: there is something to continue."""
    prepare_run(config, folder, shards)
    (config.run / "checkpoints" / "3").mkdir(parents=True)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(Path("shards"), tmp_path / "run", compute_dtype="bfloat16")


def test_another_architecture_of_the_same_width_is_refused_with_what_differs(config, tmp_path):
    prepared(config, published(tmp_path, "large-v2"))
    prepare_run(config, published(tmp_path, "large"), SHARDS)  # the same shapes under another name
    with pytest.raises(UserError, match=r"architecture\.decoder_layers 32 → 4; .*num_mel_bins 80 → 128; .*vocab_size"):
        prepare_run(config, published(tmp_path, "large-v3-turbo"), SHARDS)
    with pytest.raises(UserError, match=r"architecture\.decoder_attention_heads 20 → 16"):
        prepare_run(dataclasses.replace(config, attention_heads=16), published(tmp_path, "large-v2"), SHARDS)


def test_a_run_that_noted_its_width_alone_is_compared_by_the_model_it_holds(config, tmp_path):
    prepared(config, published(tmp_path, "large-v2"))
    path = config.run / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": 1280}))
    prepare_run(config, published(tmp_path, "large-v2"), SHARDS)
    with pytest.raises(UserError, match=r"architecture\.decoder_layers 32 → 4"):
        prepare_run(config, published(tmp_path, "large-v3-turbo"), SHARDS)


def test_the_parts_of_a_batch_may_follow_the_machine_where_nothing_is_dropped(config, tmp_path):
    folder = published(tmp_path, "tiny")
    prepared(config, folder)
    prepare_run(dataclasses.replace(config, gradient_accumulation_steps=4), folder, SHARDS)
    dropped = dataclasses.replace(config, run=tmp_path / "dropped", activation_dropout=0.1)
    prepared(dropped, folder)
    with pytest.raises(UserError, match="gradient_accumulation_steps 1 → 4"):
        prepare_run(dataclasses.replace(dropped, gradient_accumulation_steps=4), folder, SHARDS)


def test_no_setting_that_a_step_depends_on_may_change(config, tmp_path):
    folder = published(tmp_path, "tiny")
    prepared(config, folder)
    others: dict[str, Any] = {
        **{"seed": 1, "split": "dev", "epochs": 2.0, "steps": 9, "batch_size": 8, "windows": "padded", "single": 0.2},
        **{"timestamps": 0.1, "prompt_share": 0.1, "label_smoothing": 0.1, "dropout": 0.1, "attention_dropout": 0.1},
        **{"learning_rate": 1e-4, "warmup": 0.2, "schedule": "cosine", "optimizer": "lion", "max_grad_norm": 0.5},
        **{"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "muon_momentum": 0.9, "ema_decay": 0.9},
        **{"freeze": ("model.encoder.*",), "lora": Lora(8), "spec_augment": SpecAugment()},
    }
    for name, value in others.items():
        with pytest.raises(UserError, match=rf"holds another run: {name}\b"):
            prepare_run(dataclasses.replace(config, **{name: value}), folder, SHARDS)


def test_what_one_of_two_has_not_is_a_difference():
    assert differences({"a": {"b": None, "c": 1}}, {"a": {"b": 2}}) == ["a.b nothing → 2", "a.c 1 → nothing"]


def test_another_number_type_is_refused_with_the_option_that_continues(config, tmp_path):
    folder = published(tmp_path, "tiny")
    prepared(config, folder)
    wanted = r"compute_dtype bfloat16 → float16; .*\(--compute-dtype bfloat16 continues it on any device\)"
    with pytest.raises(UserError, match=wanted):
        prepare_run(dataclasses.replace(config, compute_dtype="float16"), folder, SHARDS)


def test_other_data_under_a_run_is_refused_with_what_changed(config, small_model_dir, small_shards):
    shards = Shards.open(small_shards, "train")
    prepared(config, small_model_dir, shards)
    prepare_run(dataclasses.replace(config, save_minutes=1.0, eval_steps=7), small_model_dir, shards)
    (shard,) = shards.manifest["shards"]
    other = shards.manifest | {"seed": 7, "shards": [shard | {"sha256": "0" * 64}]}
    with pytest.raises(UserError, match=r"data\.seed 0 → 7; data\.shards\.train-00000-of-00001\.tfrecord\.sha256 "):
        prepare_run(config, small_model_dir, SimpleNamespace(manifest=other))


def test_what_has_no_checkpoint_yet_is_begun_anew_with_other_settings(config, tmp_path):
    """The first try may have ended in a line that says which option to change."""
    folder = published(tmp_path, "tiny")
    prepare_run(config, folder, SHARDS)
    changed = dataclasses.replace(config, eval_split="test", batch_size=4)
    prepared(changed, folder)
    assert read_settings(config.run)["batch_size"] == 4
    with pytest.raises(UserError, match="batch_size 4 → 16; eval_split test → ; give another RUN"):
        prepare_run(config, folder, SHARDS)
    (config.run / SETTINGS).unlink()
    with pytest.raises(UserError, match=r"has checkpoints and no config\.json"):
        prepare_run(config, folder, SHARDS)


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "whisper"}', '{"shards": "s"'])
def test_a_folder_with_another_config_is_left_alone(config, tmp_path, content):
    folder = published(tmp_path, "tiny")
    config.run.mkdir()
    (config.run / SETTINGS).write_text(content)
    with pytest.raises(UserError, match=r"config\.json: (cannot be read|not a run's settings).*another RUN"):
        prepare_run(config, folder, SHARDS)
    assert (config.run / SETTINGS).read_text() == content


HOLDING = "import sys, time; from pathlib import Path; from jax_train.run_settings import claimed\n"
HOLDING += "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_run_is_one_process_own_until_it_ends_however_it_does(tmp_path):
    run = tmp_path / "runs" / "one"
    with subprocess.Popen([sys.executable, "-c", HOLDING, run], stdout=subprocess.PIPE, cwd=REPOSITORY) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="one: is being trained already"), claimed(run):
            pass
        assert (run / LOCK).is_file()  # the other's, which has nothing else there yet
        other.kill()
    with claimed(run):
        (run / "metrics.jsonl").touch()
    assert run.is_dir()
    with claimed(tmp_path / "runs" / "nothing"):
        pass
    assert not (tmp_path / "runs" / "nothing").exists()


def test_a_place_that_takes_no_run_is_said(tmp_path):
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/nope/run")):
        with pytest.raises(UserError, match="cannot be written to"), claimed(run):
            pass


def test_a_run_goes_on_without_the_hub_by_the_model_it_holds(config, tmp_path, monkeypatch):
    """A lost machine's cache is lost with it. A folder of one's own may have changed, and is looked at again."""
    fetched = published(tmp_path, "tiny")
    monkeypatch.setattr("jax_train.run_folder.model_folder", lambda _: fetched)
    config = dataclasses.replace(config, model="someone/tiny")
    assert starting_model(config) == fetched
    prepare_run(config, fetched, SHARDS)
    assert starting_model(config) == fetched  # it has no checkpoint yet, and needs weights
    prepared(config, fetched)
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
