"""The loss from hidden states: PyTorch's value and gradients, whatever the chunks."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_train.loss import token_loss, vocabulary_loss
from jax_train.softmax import top_and_total
from jax_train.windows import IGNORE

B, L, D, V = 3, 11, 8, 50


def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, embedding, and labels of which many are left out."""
    rng = np.random.default_rng(0)
    x, embedding = (rng.standard_normal(shape).astype(np.float32) for shape in ((B, L, D), (V, D)))
    labels = rng.integers(0, V, (B, L)).astype(np.int32)
    labels[0, 5:] = labels[1, :2] = labels[2] = IGNORE
    return x, embedding, labels


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("chunk", "backend"), [(1, "cpu"), (4, "cpu"), (14, "cpu"), (1000, "cpu"), (4, "gpu")])
def test_loss_and_gradients_are_pytorchs_whatever_the_chunks(chunk, backend, label_smoothing, monkeypatch):
    """1e-5: float32 sums in another order. 14 tokens count, so chunks end within, at and behind them. A GPU's way has
    more columns than there are words."""
    as_there = SimpleNamespace(**vars(jax) | {"default_backend": lambda: backend})
    monkeypatch.setattr("jax_train.loss.jax", as_there)
    x, embedding, labels = example()

    def loss(x, embedding):
        return vocabulary_loss(x, embedding, jnp.asarray(labels), jnp.float32(8), label_smoothing, chunk) / 8

    nats, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.asarray(x), jnp.asarray(embedding))
    tensors = [torch.from_numpy(array).requires_grad_() for array in (x, embedding)]
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing, ignore_index=IGNORE, reduction="sum")
    want = criterion((tensors[0] @ tensors[1].T).flatten(0, 1), torch.from_numpy(labels).long().flatten())
    want.backward()
    assert float(nats) == pytest.approx(want.item(), rel=1e-5)
    for grad, tensor in zip(grads, tensors, strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-5, atol=1e-5)
    alone = vocabulary_loss(jnp.asarray(x), jnp.asarray(embedding), jnp.asarray(labels), jnp.float32(1))
    plain, count = token_loss(jnp.asarray(x @ embedding.T), jnp.asarray(labels))
    assert float(alone) == pytest.approx(float(plain), rel=1e-5)
    assert int(count) == 14


def test_no_label_at_all_is_no_loss_and_no_gradient():
    x, embedding, labels = example()
    nothing = jnp.full_like(jnp.asarray(labels), IGNORE)
    nats, grad = jax.value_and_grad(vocabulary_loss)(jnp.asarray(x), jnp.asarray(embedding), nothing, jnp.float32(1))
    assert float(nats) == 0
    assert not np.any(grad)


def test_float16_keeps_small_gradients_by_the_scale():
    """A word 17 nats less likely has gradient e^-17 = 4.1e-8, which rounds to 6e-8 in float16, scaled to 4.1e-8."""
    embedding = jnp.asarray([[17.0], [0.0]])

    def gradient(scale):
        x, label = jnp.ones((1, 1, 1), jnp.float16), jnp.zeros((1, 1), jnp.int32)
        return float(jax.grad(vocabulary_loss, 1)(x, embedding, label, jnp.float32(scale))[1, 0]) / scale

    assert gradient(2.0**15) == pytest.approx(np.exp(-17), rel=1e-3)  # float16's eleven bits
    assert gradient(1.0) == pytest.approx(2.0**-24)  # its smallest number


def test_the_logarithm_of_a_sum_in_one_pass_is_pytorchs():
    """Also where logits are far apart, as low as they can be, or not there."""
    logits = 30 * np.random.default_rng(3).standard_normal((5, 501), np.float32)
    logits[0, 3], logits[1], logits[2, 0] = -np.inf, -1e38, 1e4
    logits[3, :500] = -np.inf
    want = torch.logsumexp(torch.tensor(logits), 1).numpy()
    top, total = top_and_total(jnp.asarray(logits))
    assert np.array_equal(top, logits.max(1))
    np.testing.assert_allclose(top + np.log(total), want, rtol=1e-6)
