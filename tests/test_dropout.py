"""Dropout stands where Hugging Face has it, at the same rates, and is another in each step, device and part."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_train.dropout
from jax_train.config import TrainConfig
from jax_train.dropout import Dropout, drop
from jax_train.weights import load_model
from tests.test_step import CONFIG, steps
from tests.torch_reference import SHALLOW, load_torch, random_tokens, small_model_dir

RATES = {"dropout": 0.1, "activation_dropout": 0.2, "attention_dropout": 0.3}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model_dir(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("rates", [{}, RATES])
def test_dropout_stands_at_hugging_faces_places_and_rates(model_dir, rates, monkeypatch):
    """With `x · (1 + rate)` for dropout in both, a place or a rate that differs would show in the logits."""
    monkeypatch.setattr(jax_train.dropout, "drop", lambda x, rate, _key: x * (1 + rate))
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p, training: x * (1 + p) if training else x)
    model = load_torch(model_dir)
    for module in model.modules():
        for name in RATES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rates.get(name, 0.0))
        if type(module).__name__ == "WhisperAttention":  # its `dropout` is the configuration's attention_dropout
            module.dropout = rates.get("attention_dropout", 0.0)
    log_mel = np.random.default_rng(0).standard_normal((1, 3000, 80)).astype(np.float32)
    tokens, _ = random_tokens(np.random.default_rng(0), 1, 12, 512)
    with torch.no_grad():
        want = model.train()(
            input_features=torch.from_numpy(log_mel.transpose(0, 2, 1).copy()),
            decoder_input_ids=torch.from_numpy(tokens).long(),
        ).logits.numpy()
    dropout = Dropout(TrainConfig(shards=Path(), run=Path(), **rates), jax.random.key(0))
    got = np.asarray(load_model(model_dir)(jnp.asarray(log_mel), jnp.asarray(tokens), dropout))
    # Float32 rounding, as in tests/test_model.py.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_a_share_is_dropped_and_the_mean_stays():
    """Of 100,000 draws, five standard deviations of their mean."""
    got = np.asarray(drop(jnp.ones(100_000), 0.3, jax.random.key(0)))
    assert set(np.unique(got)) == {0.0, np.float32(1 / 0.7)}
    assert (got == 0).mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / 100_000))


def test_each_place_of_a_pass_drops_others():
    dropout = Dropout(dataclasses.replace(CONFIG, dropout=0.5, attention_dropout=0.5), jax.random.key(0))
    x_BLHK = jnp.ones((1, 8, 2, 4))
    for place in (dropout.hidden, lambda x: dropout.attention(x, x, x, is_causal=False)):
        assert not np.array_equal(place(x_BLHK), place(x_BLHK))


def test_a_step_with_dropout_is_repeatable_and_depends_on_seed_and_parts(tmp_path):
    model_dir = small_model_dir(tmp_path, **SHALLOW)
    config = dataclasses.replace(CONFIG, **RATES)
    (_, loss), *_ = steps(model_dir, config, count=1)[1:]
    for options, same in [({}, True), ({"seed": 1}, False), ({"gradient_accumulation_steps": 2}, False)]:
        (_, other), *_ = steps(model_dir, dataclasses.replace(config, **options), count=1)[1:]
        assert (other == loss) == same, options
