"""The CPU's attention kernel gives PyTorch's results and gradients, on any number of devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec

from jax_train import cpu_attention
from jax_train.attention import attend, attend_counted
from jax_train.sharding import data_mesh

SHAPES = {  # rows, queries, keys, heads, head size, causal
    "an encoder": (2, 1500, 1500, 2, 64, False),
    "a decoder to the encoder": (1, 61, 1500, 2, 64, False),
    "a decoder to itself": (3, 449, 449, 2, 64, True),
    "blocks and panels to the last": (1, 60, 512, 1, 64, True),
    "small heads": (2, 31, 33, 3, 16, False),
    "heads of the lab": (1, 65, 65, 2, 96, True),
    "large heads": (1, 7, 40, 1, 144, False),
    "one query": (2, 1, 50, 2, 32, False),
    "one key": (1, 5, 1, 1, 48, True),
    "beams": (3, 5, 1500, 4, 64, False),
}


def arrays(rows: int, queries: int, keys: int, heads: int, size: int) -> list[np.ndarray]:
    """Queries, keys, values, and a weight for each output."""
    rng = np.random.default_rng(rows * queries + keys)
    lengths = (queries, keys, keys, queries)
    return [rng.standard_normal((rows, length, heads, size)).astype(np.float32) for length in lengths]


def by_torch(q, k, v, weight, causal: bool) -> list[np.ndarray]:
    """Attention in float64 and its gradients."""
    q, k, v = (torch.from_numpy(x).double().transpose(1, 2).requires_grad_() for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    (out * torch.from_numpy(weight).double().transpose(1, 2)).sum().backward()
    return [x.detach().transpose(1, 2).numpy() for x in (out, q.grad, k.grad, v.grad)]


def by_kernel(q, k, v, weight, causal: bool) -> list[jax.Array]:
    assert cpu_attention.takes(jnp.asarray(q))
    out, gradients = jax.vjp(lambda *qkv: attend(*qkv, is_causal=causal), *map(jnp.asarray, (q, k, v)))
    return [out, *gradients(jnp.asarray(weight))]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_attention_and_gradients_are_pytorchs(shape):
    """5e-6 of values up to 8: sums of up to 1500 products in float32, against float64."""
    *shape, causal = shape
    given = arrays(*shape)
    for got, want in zip(by_kernel(*given, causal), by_torch(*given, causal), strict=True):
        np.testing.assert_allclose(got, want, rtol=5e-6, atol=5e-6)


def test_scores_far_apart_neither_overflow_nor_leave_a_trace():
    """Where one key outweighs the others by more than float32 has, its value comes out."""
    q, k, v, weight = arrays(1, 40, 70, 1, 64)
    q, k = 60 * q, 60 * k
    best = (q[0, :, 0] @ k[0, :, 0].T).argmax(1)
    out, *gradients = by_kernel(q, k, v, weight, False)
    np.testing.assert_allclose(out[0, :, 0], v[0, best, 0], rtol=1e-4, atol=1e-4)  # a second key may weigh e^-10
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("queries", [45, 3])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_number_that_is_none_comes_out(queries, which):
    """A loss that is no number must end the run, whichever way the number took."""
    given = arrays(1, queries, 37, 2, 64)
    given[which][0, 2, 1, 5] = np.nan
    of_other_head, of_head = (np.asarray(by_kernel(*given, False)[0])[0, :, head] for head in (0, 1))
    assert np.isfinite(of_other_head).all()
    assert np.isnan(of_head[2]).any()
    assert np.isnan(by_kernel(*given, False)[1]).any()


@pytest.mark.parametrize("queries", [45, 3])
def test_a_key_that_counts_for_several_is_as_that_key_several_times(queries):
    q, k, v, _ = (jnp.asarray(x) for x in arrays(2, queries, 37, 2, 64))
    counts = np.random.default_rng(0).integers(1, 9, 37)
    repeated = [jnp.repeat(x, counts, axis=1) for x in (k, v)]
    got = attend_counted(q, k, v, jnp.log(jnp.asarray(counts, jnp.float32)))
    np.testing.assert_allclose(got, attend(q, *repeated), rtol=5e-6, atol=5e-6)  # as above


def test_devices_at_once_make_the_bits_of_one():
    """Eight devices on few cores: a call that waited for threads which others hold would never end."""
    mesh, rows = data_mesh(), PartitionSpec("data")
    q, k, v, weight = (jnp.asarray(x) for x in arrays(16, 70, 70, 2, 16))

    def gradients(q, k, v, weight):
        out, of = jax.vjp(partial(attend, is_causal=True), q, k, v)
        return out, *of(weight), attend_counted(q, k, v, jnp.arange(70.0))

    by_devices = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=rows, out_specs=rows))
    want = jax.jit(gradients)(q, k, v, weight)
    for _ in range(20):
        for got, one in zip(jax.block_until_ready(by_devices(q, k, v, weight)), want, strict=True):
            np.testing.assert_array_equal(got, one)
