"""Shared fixtures: strict JAX, the sample corpus, real Whisper base, a small one with its shards, an empty registry.

Servers and browsers are imported where they are asked for: a GPU's machine that has pytest and the libraries of
training can run the tests of numerics.
"""

import gc
import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Eight devices on few cores: XLA's thread pool must be larger than the device count, or queued steps deadlock.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")

import jax
import numpy as np
import pytest
import tyro
from flax import nnx
from safetensors.numpy import load_file, save_file
from upath import UPath

from data.featurize import FeaturizeConfig, featurize
from jax_train.checkpoints import copy_small_files
from jax_train.config import WhisperConfig, compilation_cache
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.model import Whisper
from jax_train.presets import from_command_line
from jax_train.pretrained import fetch_base
from jax_train.sharding import data_mesh
from jax_train.train import train
from jax_train.weights import to_torch_tensors
from tests.made_models import END_OF_TEXT, FEW_WORDS, of_few_words

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from daily.features import FeaturesConfig
    from tests.youtube_standin import StandIn

REPOSITORY = Path(__file__).resolve().parent.parent
THOROUGH = os.environ.get("THOROUGH") == "1"
"""Whether some tests take their long form: every benchmark, more clips and processes, sixty days."""
thorough = pytest.mark.skipif(not THOROUGH, reason="long; `make test-thorough` runs it")
LAST_POSITION = 20  # of the small model's transcripts
SOME_WORD = 1000
TIMESTAMPS = 1501
SMALL = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
compilation_cache(REPOSITORY / ".cache" / "jax")  # that of the commands which tests start


def pytest_collection_finish() -> None:
    """What all test modules imported stays: Python's collector need not look through it again at each collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def sample_corpus() -> Path:
    """The sample corpus in Common Voice's layout."""
    return REPOSITORY / "sample" / "it"


@pytest.fixture(scope="session")
def base_model_dir() -> Path:
    """Real Whisper base as a Hugging Face folder, fetched once into the cache."""
    return fetch_base(REPOSITORY / ".cache" / "models")


@pytest.fixture(scope="session")
def bucket() -> Iterator[UPath]:
    """An object store that speaks S3, for this process and those it starts: `s3://sussurro`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        UPath("s3://sussurro").mkdir()
        yield UPath("s3://sussurro")
    server.stop()


@pytest.fixture(scope="module")
def one_standin(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[StandIn]":
    """A stand-in for YouTube that nobody watches yet."""
    from tests.youtube_standin import standin

    with standin(tmp_path_factory.mktemp("standin")) as one:
        yield one


@pytest.fixture
def youtube(one_standin: "StandIn") -> "Iterator[StandIn]":
    """The stand-in with a video, watched."""
    with one_standin.with_video():
        yield one_standin


@pytest.fixture(scope="session")
def small_day(sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> "FeaturesConfig":
    """A day's features of few clips; what they are made of is there and stays as it is."""
    from tests.made_features import few_clips

    return few_clips(sample_corpus, tmp_path_factory.mktemp("day"))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Festival speaks tones, and shards are written by this process."""
    from tests.made_features import use_stand_ins

    use_stand_ins(monkeypatch)


@pytest.fixture(scope="session")
def small_model_dir(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper with a tenth of base's vocabulary, small enough to train in seconds; it ends what it writes."""
    folder = tmp_path_factory.mktemp("small") / "whisper-small-random"
    return with_weights(of_few_words(base_model_dir, folder, SMALL), FEW_WORDS)


@pytest.fixture(scope="session")
def many_words_model_dir(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with base's vocabulary, by whose number of tokens some programs know a model of many languages."""
    folder = tmp_path_factory.mktemp("many") / "whisper-small-words"
    copy_small_files(base_model_dir, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | SMALL))
    return with_weights(folder, END_OF_TEXT)


def with_weights(folder: Path, end: int) -> Path:
    """The folder with a random model that ends its transcripts by itself, with the token `end`.

    The decoder's positions lie along the embeddings of words, and later ones along the end's. Timestamps, which are
    1,501 tokens in any vocabulary, are less likely than words: `generate` takes two in a row for where to read on.
    """
    model = Whisper(WhisperConfig.from_folder(folder), rngs=nnx.Rngs(0))
    tensors = to_torch_tensors(nnx.state(model))
    words, positions = "model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"
    end_D = 10 * tensors[words][end]  # so that no other token's lies further along it
    tensors[words] = np.where(np.arange(len(tensors[words]))[:, None] == end, end_D, tensors[words])
    tensors[words][-TIMESTAMPS:] *= 0.1
    before = 5 * tensors[words][SOME_WORD : SOME_WORD + LAST_POSITION] - 0.3 * end_D
    after = np.tile(10 * end_D, (len(tensors[positions]) - LAST_POSITION, 1))
    tensors[positions] = tensors[positions] + np.concatenate([before, after])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def terse_model_dir(small_model_dir: Path) -> Path:
    """The same, but its transcripts end at once, at every temperature."""
    folder = small_model_dir.with_name("whisper-small-terse")
    shutil.copytree(small_model_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.layer_norm.bias"] += 100 * tensors["model.decoder.embed_tokens.weight"][FEW_WORDS]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def small_shards(small_model_dir: Path, sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 clips of train with an augmented copy, and 4 of test."""
    return shards_of(sample_corpus, small_model_dir, tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def many_words_shards(
    many_words_model_dir: Path, sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same clips in the tokens of `many_words_model_dir`."""
    return shards_of(sample_corpus, many_words_model_dir, tmp_path_factory.mktemp("many-shards"))


def shards_of(corpus: Path, model: Path, shards: Path) -> Path:
    """Shards of the corpus' first clips for a model."""
    for split, clips in (("train", 40), ("test", 4)):
        featurize(FeaturizeConfig(corpus, shards, str(model), split=split, limit=clips, workers=1))
    return shards


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, to be copied elsewhere, whose registry has its tables: making them takes seconds."""
    from daily.registry import open_registry

    store: Path = tmp_path_factory.mktemp("registry") / "store"
    registry = open_registry(store)
    registry.client.rename_experiment(registry.experiment, "of another place")
    return store


@contextmanager
def training_on(devices: int) -> Iterator[None]:
    """Training in this process takes so many of its eight devices, and so may take as few windows a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_train.train.data_mesh", lambda fsdp: data_mesh(jax.devices()[:devices], fsdp))
        yield


@pytest.fixture
def two_devices() -> Iterator[None]:
    """For steps of two windows instead of eight, a quarter of the work, where how many there are is not the matter."""
    with training_on(2):
        yield


@pytest.fixture
def commands_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training and scoring that stages ask for, in this process, by the options they give; the modules asked for."""
    asked: list[str] = []

    def here(_title: str, module: str, *words: object) -> str:
        asked.append(module)
        arguments = list(map(str, words))
        if module == "jax_train.train":
            train(from_command_line(arguments, None))
        else:
            evaluate(tyro.cli(EvaluateConfig, args=arguments))
        return ""

    for module in ("stages", "crossval", "scoreboard"):
        monkeypatch.setattr(f"jax_train.{module}.stage", here)
    return asked


@pytest.fixture
def proved_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What proves an export that is right runs in this process, and need not import PyTorch anew."""

    def ask(module: str, *arguments: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capsys.readouterr()
        importlib.import_module(module).main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return found

    for module in ("export", "other_formats"):
        monkeypatch.setattr(f"jax_train.{module}.ask", ask)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium, or another; a machine without one skips, unless REQUIRE_CHROMIUM=1 forbids that."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None and os.environ.get("REQUIRE_CHROMIUM") == "1":
        pytest.fail("no Chromium found and REQUIRE_CHROMIUM=1: apt-get install chromium")
    if path is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
