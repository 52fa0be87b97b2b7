"""Small random models with vocabularies made of base's: English alone, large-v3's, and one of few words.

A token's number is shifted from a place on, in the tokenizer and in all settings alike. English-only models lack one
text token, so that everything from <|endoftext|> on is one lower, and are told neither language nor task; large-v3 has
one more language, <|yue|>, behind the other 99, and 128 mel bins. Of few words is what most tests take: a tenth of
the vocabulary, which is nearly all that a small model computes; Italian takes four tokens in place of three.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import save_file

from data.records import Shards
from jax_train.checkpoints import Checkpoints, copy_small_files
from jax_train.config import WhisperConfig
from jax_train.model import Whisper, functional
from jax_train.runlog import write_json
from jax_train.sharding import shardings
from jax_train.step import TrainState
from jax_train.weights import load_model, to_torch_tensors

END_OF_TEXT, YUE = 50_257, 50_358
FEW_WORDS = 4000
"""The text tokens of a model of few words, and so its <|endoftext|>: the first 256 are bytes, any text can be said."""
OTHER_LAYERS = {"alignment_heads": None}  # base's
ENGLISH = OTHER_LAYERS | {"is_multilingual": False, "lang_to_id": None, "task_to_id": None}
SIZES = {"d_model": 64, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
SIZES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def english_only(base: Path, folder: Path) -> Path:
    """A small model of English alone, with 51,864 tokens."""
    sizes = SIZES | {"encoder_layers": 1, "decoder_layers": 1, "vocab_size": 51_864}
    return random_weights(_shifted(base, folder, END_OF_TEXT, -1, sizes, ENGLISH))


def like_large_v3(base: Path, folder: Path) -> Path:
    """A small model with large-v3's 51,866 tokens and 128 mel bins, and fewer layers in the decoder, as turbo has."""
    sizes = SIZES | {"encoder_layers": 6, "decoder_layers": 4, "vocab_size": 51_866, "num_mel_bins": 128}
    return random_weights(_shifted(base, folder, YUE, 1, sizes, OTHER_LAYERS))


def of_few_words(base: Path, folder: Path, sizes: dict[str, int]) -> Path:
    """A folder without weights of a small model of 5,608 tokens: base's first 4,000 of text, and those behind them."""
    by = FEW_WORDS - END_OF_TEXT
    return _shifted(base, folder, END_OF_TEXT, by, sizes | {"vocab_size": 51_865 + by}, {})


def random_weights(folder: Path) -> Path:
    """The folder, with weights of the sizes that its config.json says."""
    model = Whisper(WhisperConfig.from_folder(folder), rngs=nnx.Rngs(0))
    save_file(to_torch_tensors(nnx.state(model)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _shifted(base: Path, folder: Path, first: int, by: int, sizes: dict[str, int], generation: dict[str, Any]) -> Path:
    """A folder with base's files in which every token from `first` on has another number; those it meets are gone."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(item) for name, item in value.items()}
        if isinstance(value, list):
            return [moved(item) for item in value if not gone(item)]
        is_token = isinstance(value, int) and not isinstance(value, bool) and value >= first
        return value + by if is_token else value

    def gone(value: Any) -> bool:
        return isinstance(value, int) and first + by <= value < first

    copy_small_files(base, folder)
    for name, more in {"config.json": sizes, "generation_config.json": generation}.items():
        settings = moved(_read(folder / name)) | more
        write_json(folder / name, {key: value for key, value in settings.items() if value is not None})
    tokenizer = _read(folder / "tokenizer.json")
    if by < 0:
        _drop_text_tokens(tokenizer["model"], first + by, first)
    tokenizer["model"]["vocab"] = moved(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [token | {"id": moved(token["id"])} for token in tokenizer["added_tokens"]]
    for special in tokenizer["post_processor"]["special_tokens"].values():
        special["ids"] = moved(special["ids"])
    if by > 0:
        _add_language(folder, tokenizer, first)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    extractor = _read(folder / "preprocessor_config.json")
    write_json(folder / "preprocessor_config.json", extractor | {"feature_size": sizes.get("num_mel_bins", 80)})
    return folder


def _drop_text_tokens(model: dict[str, Any], first: int, behind: int) -> None:
    gone = {word for word, own in model["vocab"].items() if first <= own < behind}
    model["vocab"] = {word: own for word, own in model["vocab"].items() if word not in gone}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    model["merges"] = [pair for pair in pairs if not gone & {*pair, "".join(pair)}]


def _add_language(folder: Path, tokenizer: dict[str, Any], number: int) -> None:
    (like,) = (token for token in tokenizer["added_tokens"] if token["id"] == number - 1)
    tokenizer["added_tokens"].append(like | {"content": "<|yue|>", "id": number})
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    generation = _read(folder / "generation_config.json")
    generation["lang_to_id"]["<|yue|>"] = number
    write_json(folder / "generation_config.json", generation)


def as_run(folder: Path, shards: Path, split: str, language: str, run: Path) -> Path:
    """A run whose one checkpoint, after step 7, is the model in `folder`."""
    copy_small_files(folder, run / "model")
    settings = {"model": str(folder), "base_model": None, "shards": str(shards), "split": split, "language": language}
    write_json(run / "config.json", settings)
    write_json(run / "data.json", Shards.open(shards, split).manifest)
    params, buffers, _ = functional(load_model(folder))
    with Checkpoints(run) as checkpoints:
        checkpoints.save(TrainState(params, buffers, (), jnp.asarray(7)), {"position": 0})
    return run


def distribute(state: TrainState, mesh: Mesh) -> TrainState:
    """The state as it lies on the mesh, in buffers of its own, which a step may consume.

    A `device_put` alone shares the first device's buffer with the array it was given.
    """
    return jax.device_put(jax.tree.map(jnp.copy, state), shardings(state, mesh))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
