"""Shards and model that do not go together are said before anything is trained or scored."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from jax_train.config import TrainConfig
from jax_train.train import train

pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.fixture
def config(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    model = shutil.copytree(small_model_dir, tmp_path / "model")
    shards = shutil.copytree(small_shards, tmp_path / "shards")
    return TrainConfig(shards, tmp_path / "run", model=str(model), steps=1, learning_rate=1e-3, batch_size=2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_mel_bins_are_refused_of_the_evaluations_split_too(config, split):
    manifest = config.shards / split / "manifest.json"
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"features": found["features"] | {"n_mels": 128}}))
    with pytest.raises(UserError, match=rf"{split}: features of 128 mel bins, .*/model takes 80; run `make featurize`"):
        train(dataclasses.replace(config, eval_split="test"))
    assert not (config.run / "config.json").exists()


def test_other_tokens_are_refused_and_the_same_ones_of_another_file_are_not(config):
    path = Path(config.model) / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    assert train(config)["step"] == 1
    vocabulary = tokenizer["model"]["vocab"]
    names = sorted(vocabulary, key=vocabulary.__getitem__)[256:40_000]
    tokenizer["model"]["vocab"] |= dict(zip(names, reversed([vocabulary[name] for name in names]), strict=True))
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    other = dataclasses.replace(config, run=config.run.with_name("other"))
    with pytest.raises(UserError, match=r"train: clip .* is not in the tokens of .*/model, which has others"):
        train(other)


def test_the_shards_say_the_language(config):
    with pytest.raises(UserError, match=r"--language de: .*train is in 'it'; leave the option out"):
        train(dataclasses.replace(config, language="de"))
    train(dataclasses.replace(config, language=""))
    assert json.loads((config.run / "config.json").read_text())["language"] == "it"


def test_a_broken_tokenizer_is_named(config):
    (Path(config.model) / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer \(.*\); fetch the model again"):
        train(config)
