"""Layer norm, bias and GELU equal PyTorch's, forwards and backwards; the GPU's kernels equal the plain operations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_train import kernels, ops

HALF = {"bfloat16": 2**-8, "float16": 2**-11}  # of relative rounding
SHAPE = (2, 37, 48)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def with_gradients(function: Callable[..., object], inputs: list, grads: object) -> tuple[object, tuple]:
    value, backward = jax.vjp(function, *inputs)
    return value, backward(grads)


@pytest.fixture
def on_kernels(monkeypatch):
    """The kernels, interpreted, in parts that do not divide the arrays."""
    monkeypatch.setattr(ops, "_on_kernels", lambda _: True)
    for name in ("LAYER_NORM", "LAYER_NORM_BACKWARD", "BIASED", "BIASED_BACKWARD"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name)._replace(columns=32, programs=6, rounds=20))


def torch_layer_norm(x, scale, bias, beside, grad):
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, scale, bias)]
    normed = torch.nn.functional.layer_norm(inputs[0], x.shape[-1:], *inputs[1:], eps=1e-5)
    ((normed * torch.tensor(grad)).sum() + (inputs[0] * torch.tensor(beside)).sum()).backward()
    return normed.detach().numpy(), [one.grad.numpy() for one in inputs]


def test_layer_norm_equals_pytorch_with_what_is_added_beside_it():
    x, scale, bias, beside, grad = drawn(0, SHAPE, SHAPE[-1:], SHAPE[-1:], SHAPE, SHAPE)
    want, want_grads = torch_layer_norm(3 * x + 5, scale, bias, beside, grad)
    (same, got), got_grads = with_gradients(ops.layer_norm, [3 * x + 5, scale, bias], (beside, grad))
    assert np.array_equal(same, 3 * x + 5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for got_grad, want_grad in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(got_grad, want_grad, rtol=1e-4, atol=2e-5)


def torch_bias_gelu(x, bias, grad):
    inputs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, bias)]
    value = torch.nn.functional.gelu(inputs[0] + inputs[1])
    (value * torch.tensor(grad)).sum().backward()
    return value.detach().numpy(), [one.grad.numpy() for one in inputs]


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_biased_gelu_is_pytorchs_as_precisely_as_its_type(dtype):
    x, bias, grad = (jnp.asarray(array, dtype) for array in drawn(1, SHAPE, SHAPE[-1:], SHAPE))
    x = x * jnp.asarray(3, dtype)  # into the tails
    bias = bias.astype(jnp.float32)
    want, want_grads = torch_bias_gelu(*(np.asarray(array, np.float64) for array in (x, bias, grad)))
    got, got_grads = with_gradients(ops.bias_gelu, [x, bias], grad)
    assert (got.dtype, got_grads[0].dtype, got_grads[1].dtype) == (dtype, dtype, np.float32)
    rounding = HALF.get(dtype, 2e-6)
    for got_array, want_array in [(got, want), (got_grads[0], want_grads[0])]:
        np.testing.assert_allclose(np.asarray(got_array, np.float64), want_array, rtol=rounding, atol=2e-6)
    np.testing.assert_allclose(got_grads[1], want_grads[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.usefixtures("on_kernels")
def test_the_layer_norm_kernel_equals_plain_operations(dtype, monkeypatch):
    x, beside, grad = (jnp.asarray(array, dtype) for array in drawn(2, SHAPE, SHAPE, SHAPE))
    scale, bias = drawn(3, SHAPE[-1:], SHAPE[-1:])
    (_, got), got_grads = with_gradients(ops.layer_norm, [x, scale, bias], (beside, grad))
    monkeypatch.setattr(ops, "_on_kernels", lambda _: False)
    (_, want), want_grads = with_gradients(ops.layer_norm, [x, scale, bias], (beside, grad))
    equal_to_rounding([got, *got_grads], [want, *want_grads], HALF[dtype])


def test_a_branch_added_before_a_layer_norm_equals_pytorch():
    x, branch, branch_bias, scale, bias, beside, grad = drawn(6, SHAPE, SHAPE, *[SHAPE[-1:]] * 3, SHAPE, SHAPE)
    want, want_grads = torch_layer_norm(x + branch + branch_bias, scale, bias, beside, grad)
    (summed, got), got_grads = with_gradients(ops.add_layer_norm, [x, branch, branch_bias, scale, bias], (beside, grad))
    np.testing.assert_allclose(summed, x + branch + branch_bias, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    of_sum, of_scale, of_bias = want_grads
    for got_grad, want_grad in zip(got_grads, [of_sum, of_sum, of_sum.sum((0, 1)), of_scale, of_bias], strict=True):
        np.testing.assert_allclose(got_grad, want_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.usefixtures("on_kernels")
def test_the_kernel_that_adds_a_branch_equals_plain_operations(dtype, monkeypatch):
    """It adds up in float32, and rounds once; its sum has the layer norm of plain operations."""
    x, branch, beside, grad = (jnp.asarray(array, dtype) for array in drawn(7, *[SHAPE] * 4))
    branch_bias, scale, bias = drawn(8, *[SHAPE[-1:]] * 3)
    inputs = [x, branch, branch_bias, scale, bias]
    (summed, got), got_grads = with_gradients(ops.add_layer_norm, inputs, (beside, grad))
    assert np.array_equal(
        summed, (x.astype(np.float32) + branch.astype(np.float32) + branch_bias[None, None]).astype(dtype)
    )
    monkeypatch.setattr(ops, "_on_kernels", lambda _: False)
    (_, want), want_grads = with_gradients(ops.layer_norm, [summed, scale, bias], (beside, grad))
    of_sum, of_branch, of_branch_bias, *others = got_grads
    equal_to_rounding([got, of_sum, *others], [want, *want_grads], HALF[dtype])
    assert np.array_equal(of_sum, of_branch)
    rounded = np.asarray(of_sum, np.float32)
    most = HALF[dtype] * np.abs(rounded).sum((0, 1))
    assert of_branch_bias.dtype == np.float32
    assert (np.abs(of_branch_bias - rounded.sum((0, 1))) < most).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.usefixtures("on_kernels")
def test_the_gelu_kernel_equals_plain_operations(dtype, monkeypatch):
    x, grad = (jnp.asarray(array, dtype) for array in drawn(4, SHAPE, SHAPE))
    (bias,) = drawn(5, SHAPE[-1:])
    got, got_grads = with_gradients(ops.bias_gelu, [x, bias], grad)
    monkeypatch.setattr(ops, "_on_kernels", lambda _: False)
    want, want_grads = with_gradients(ops.bias_gelu, [x, bias], grad)
    equal_to_rounding([got, *got_grads], [want, *want_grads], HALF[dtype])


def equal_to_rounding(got: list, want: list, rounding: float) -> None:
    """Half-precision arrays to two roundings of the largest addend, which is below 8; float32 ones to the sums' own."""
    for got_array, want_array in zip(got, want, strict=True):
        assert got_array.dtype == want_array.dtype
        atol = 1e-4 if got_array.dtype == np.float32 else 16 * rounding
        np.testing.assert_allclose(
            np.asarray(got_array, np.float32), np.asarray(want_array, np.float32), rtol=1e-5, atol=atol
        )


def test_gradients_of_biases_add_up_in_float32():
    """4096 ones: in bfloat16 they would stand still at 256."""
    ones = jnp.ones((1, 4096, 8), jnp.bfloat16)
    _, (_, grad) = with_gradients(ops.add_bias, [ones, np.zeros(8, np.float32)], ones)
    assert np.array_equal(grad, np.full(8, 4096, np.float32))
