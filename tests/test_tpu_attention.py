"""The TPU's attention equals PyTorch's, forwards and backwards, and a model with it one without; interpreted here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_train import tpu_attention
from jax_train.attention import attend
from jax_train.model import Params, functional
from jax_train.sharding import data_mesh
from jax_train.step import Part, scaled_loss
from jax_train.weights import load_model
from tests.test_step import CONFIG
from tests.test_windows import random_batch
from tests.torch_reference import SHALLOW, small_model_dir

CASES = [
    # heads, size, queries, keys, causal
    (4, 64, 40, 40, False),
    (4, 64, 40, 40, True),
    (2, 64, 780, 780, True),  # two blocks, the second with rows that are not there
    (2, 64, 1536, 9, False),  # two whole ones
    (2, 64, 40, 300, False),  # the decoder's attention to the encoder
    (2, 128, 40, 50, False),  # a head to a block
    (3, 16, 40, 17, False),  # fewer than a row of lanes
]


def torch_attention(
    inputs: list[np.ndarray], grad: np.ndarray, heads: int, causal: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """PyTorch's attention of the same queries, keys and values, and its gradients, in float64."""
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in inputs]
    parts = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in tensors]
    out = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=causal, scale=1.0)
    out = out.transpose(1, 2).flatten(2)
    out.backward(torch.tensor(grad, dtype=torch.float64))
    return out.detach().numpy(), [tensor.grad.numpy() for tensor in tensors]


@pytest.mark.parametrize(
    ("dtype", "tolerance", "heads", "size", "queries", "keys", "causal"),
    [("float32", 3e-6, *case) for case in CASES] + [("bfloat16", 0.02, *case) for case in CASES[:2]],
)
def test_attention_and_its_gradients_equal_pytorchs(dtype, tolerance, heads, size, queries, keys, causal):
    """Relative to the largest number. In bfloat16 weights and their gradients are rounded too, to 2^-8 each."""
    rng = np.random.default_rng(0)
    q, k, v, grad = (rng.standard_normal((2, n, heads * size), np.float32) for n in (queries, keys, keys, queries))
    inputs = [np.asarray(jnp.asarray(array, dtype), np.float32) for array in (q * size**-0.5, k, v)]
    want, want_grads = torch_attention(inputs, grad, heads, causal)
    got, backward = jax.vjp(
        lambda *qkv: tpu_attention.attention(*qkv, size, causal), *(jnp.asarray(array, dtype) for array in inputs)
    )
    for found, wanted in zip((got, *backward(jnp.asarray(grad, dtype))), (want, *want_grads), strict=True):
        assert found.dtype == dtype
        assert np.abs(np.asarray(found, np.float64) - wanted).max() <= tolerance * np.abs(wanted).max()


def test_what_a_block_holds_past_the_last_query_changes_nothing():
    """Interpreted, it holds what is no number."""
    q, k = (jnp.ones((1, n, 64)) for n in (tpu_attention.QUERIES + 1, 5))
    grads = jax.grad(lambda *qkv: tpu_attention.attention(*qkv, 64, False).sum(), (0, 1, 2))(q, k, k)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("causal", [False, True])
def test_a_tpu_attends_by_it(monkeypatch, causal):
    """Queries are scaled, heads are joined and parted again."""
    q, k, v = (jax.random.normal(key, (2, 40, 3, 16)) for key in jax.random.split(jax.random.key(0), 3))
    want = attend(q, k, v, causal)
    monkeypatch.setattr("jax_train.attention._has_tpu_kernel", lambda _: True)
    monkeypatch.setattr("jax_train.attention._by_head", None)
    np.testing.assert_allclose(attend(q, k, v, causal), want, rtol=1e-5, atol=1e-6)


def test_a_models_gradients_with_it_are_those_without(tmp_path, monkeypatch):
    """In the encoder, in the decoder and between them, as a training step takes them."""
    params, buffers, build = functional(load_model(small_model_dir(tmp_path / "model", **SHALLOW)))
    part = Part(random_batch(0, data_mesh(jax.devices()[:1]), batch=2), jnp.arange(2))

    def loss(params: Params) -> jax.Array:
        return scaled_loss(build(params, buffers), part, jnp.zeros((), jnp.int32), jnp.ones(()), CONFIG)

    want, want_grads = jax.jit(jax.value_and_grad(loss))(params)
    monkeypatch.setattr("jax_train.attention._has_tpu_kernel", lambda _: True)
    monkeypatch.setattr("jax_train.attention._by_head", None)
    got, grads = jax.jit(jax.value_and_grad(lambda params: loss(params)))(params)  # another function: traced anew
    assert float(got) == pytest.approx(float(want), rel=1e-6)
    for name, grad in grads.items():
        atol = 1e-5 * max(1.0, np.abs(want_grads[name]).max())
        np.testing.assert_allclose(grad, want_grads[name], atol=atol, err_msg=name)
