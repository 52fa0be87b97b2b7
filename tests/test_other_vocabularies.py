"""Models whose vocabulary is not base's: English alone (tiny.en …), and large-v3's, featurized, scored and exported."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration

from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.tokens import load_tokenizer
from jax_train.config import TrainConfig
from jax_train.decoding_rules import DecodingRules
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.export import ExportConfig, export
from jax_train.train import train
from jax_train.windows import Prompt
from tests.made_models import as_run, english_only, like_large_v3


def shards_for(model: Path, corpus: Path, folder: Path, language: str) -> Path:
    """Four clips; what language they are in is not looked at here."""
    made = FeaturizeConfig(str(corpus), str(folder), str(model), split="test", language=language, limit=4, workers=1)
    featurize(made)
    return folder


@pytest.fixture(scope="module")
def english(base_model_dir, sample_corpus, tmp_path_factory):
    """A model of English alone, and shards for it."""
    root = tmp_path_factory.mktemp("english")
    folder = english_only(base_model_dir, root / "tiny.en")
    return folder, shards_for(folder, sample_corpus, root / "shards", "en")


@pytest.fixture(scope="module")
def large(base_model_dir, sample_corpus, tmp_path_factory):
    """A run of a model with large-v3's vocabulary and mel bins."""
    root = tmp_path_factory.mktemp("large")
    folder = like_large_v3(base_model_dir, root / "large-v3-small")
    shards = shards_for(folder, sample_corpus, root / "shards", "it")
    return as_run(folder, shards, "test", "it", root / "run")


def test_a_model_of_english_alone_is_told_neither_language_nor_task(english):
    """50257 <|startoftranscript|>, 50362 <|notimestamps|>: openai/whisper-tiny.en's own numbers."""
    folder, _ = english
    rules = DecodingRules.from_folder(folder, "en")
    assert (rules.prompt, rules.end, rules.no_speech) == ((50_257, 50_362), 50_256, 50_361)
    assert DecodingRules.from_folder(folder, "en", timestamps=True).prompt == (50_257,)
    prompt = Prompt.of(load_tokenizer(str(folder)), "en")
    assert (prompt.ids(), prompt.ids(timestamps=True)) == (rules.prompt, (50_257,))
    for refused in (DecodingRules.from_folder, lambda model, language: Prompt.of(load_tokenizer(str(model)), language)):
        with pytest.raises(UserError, match="the model knows English alone"):
            refused(folder, "it")


@pytest.mark.usefixtures("proved_here", "two_devices")
def test_a_model_of_english_alone_is_scored_as_generate_writes_trained_and_exported(english, tmp_path):
    folder, shards = english
    config = EvaluateConfig(shards, model=str(folder), out=tmp_path / "scores", max_new_tokens=8, batch_size=4)
    evaluate(config, jax.devices()[:1])
    settings = {"batch_size": 2, "steps": 1, "learning_rate": 1e-3, "language": "en"}
    train(TrainConfig(shards=shards, run=tmp_path / "run", model=str(folder), split="test", **settings))
    record = export(ExportConfig(tmp_path / "run", tmp_path / "model", clips=2))
    assert record["transcripts"]["different"] == 0  # PyTorch's `generate`, by the folder's own settings
    fields = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert "language" not in fields
    assert "task" not in fields
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.generation_config.is_multilingual is False


@pytest.mark.usefixtures("proved_here")
@pytest.mark.parametrize(("form", "dtype"), [("huggingface", "float16"), ("ctranslate2", "float32"), ("ggml", "")])
def test_large_v3s_vocabulary_and_mel_bins_leave_in_every_format(large, tmp_path, form, dtype):
    """Their programs load the file, with 100 languages and a decoder shallower than the encoder, and write the same."""
    record = export(ExportConfig(large, tmp_path / "model", format=form, dtype=dtype, clips=2))
    if form != "huggingface":
        assert record["program"]["clips"] == 2
    if form == "huggingface":
        tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
        assert [tokenizer.token_to_id(name) for name in ("<|yue|>", "<|notimestamps|>")] == [50_358, 50_364]
        generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
        assert generation["no_timestamps_token_id"] == 50_364
    if form == "ggml":
        head = np.fromfile(tmp_path / "model" / "ggml-model.bin", "<i4", 12)
        assert head[1:].tolist() == [51_866, 1500, 64, 2, 6, 448, 64, 2, 4, 128, 1]
