"""Shared fixtures: strict JAX, the sample corpus, and the real Whisper base weights the demo uses too."""

import os
from pathlib import Path

# Eight devices on few cores: XLA's thread pool must be larger than the device count, or queued steps deadlock.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")

import jax
import pytest

from jax_train.config import compilation_cache
from jax_train.pretrained import fetch_base

REPOSITORY = Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
compilation_cache(REPOSITORY / ".cache" / "jax")


@pytest.fixture(scope="session")
def sample_corpus() -> Path:
    """The sample corpus in Common Voice's layout."""
    return REPOSITORY / "sample" / "it"


@pytest.fixture(scope="session")
def base_model_dir() -> Path:
    """Real Whisper base as a Hugging Face folder, fetched once into the cache."""
    return fetch_base(REPOSITORY / ".cache" / "models")
