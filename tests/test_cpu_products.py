"""The CPU's matrix products are NumPy's, their gradients too, whichever way the kernel takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jax_train import cpu_kernels, cpu_products
from jax_train.cpu_products import multiply, product
from jax_train.sharding import data_mesh

SHAPES = {  # rows, summed over, columns
    "an encoder's": ((2, 1500), 384, 1536),
    "blocks and panels to the last": ((256,), 128, 128),
    "neither rows nor columns whole": ((7, 43), 70, 97),
    "columns of a panel and one": ((301,), 65, 65),
    "a decoder's next tokens": ((8, 1), 512, 2048),
    "one row, a strip that is not whole": ((1,), 72, 144),
    "as many as are few": ((64,), 100, 64),
    "between few and many": ((100,), 64, 64),
    "few, columns not whole": ((5,), 64, 70),
    "a small matrix": ((300,), 16, 16),
}
BY_KERNEL = [name for name in SHAPES if name not in list(SHAPES)[-3:]]


def arrays(name: str) -> list[np.ndarray]:
    """Rows, a matrix, and the gradient of their product."""
    rows, summed, columns = SHAPES[name]
    rng = np.random.default_rng(summed)
    return [
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((*rows, summed), (summed, columns), (*rows, columns))
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_products_and_gradients_are_numpys(name):
    """2e-6 of the largest: float32 sums of up to 3000 products, against float64."""
    x, matrix, grad = arrays(name)
    assert ("ffi_call" in str(jax.make_jaxpr(product)(x, matrix))) == (name in BY_KERNEL)
    out, gradients = jax.vjp(product, jnp.asarray(x), jnp.asarray(matrix))
    rows, grads = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (x, grad))
    wanted = (rows @ matrix, grads @ matrix.T, rows.T @ grads)
    for got, want in zip((out, *gradients(jnp.asarray(grad))), wanted, strict=True):
        assert np.abs(np.asarray(got).reshape(want.shape) - want).max() <= 2e-6 * np.abs(want).max()


FACTORS = {  # rows, summed over, columns
    "a vocabulary": (256, 64, 51_865),
    "a vocabulary summed over": (100, 51_865, 72),
    "one tile": (64, 64, 64),
    "nothing whole": (97, 4_200, 333),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_either_factor_may_be_given_transposed(name, transposed):
    rows, summed, columns = FACTORS[name]
    rng = np.random.default_rng(summed)
    x, w = rng.standard_normal((rows, summed), np.float32), rng.standard_normal((summed, columns), np.float32)
    given = [jnp.asarray(factor.T.copy() if way else factor) for factor, way in zip((x, w), transposed, strict=True)]
    assert ("ffi_call" in str(jax.make_jaxpr(multiply, (2, 3))(*given, *transposed))) == cpu_kernels.matrix_unit()
    want = x.astype(np.float64) @ w.astype(np.float64)
    assert np.abs(np.asarray(multiply(*given, *transposed)) - want).max() <= 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("summed", [384, 1536, 12_000])
@pytest.mark.parametrize("sign", ["of either sign", "positive"])
def test_a_matrix_units_sums_are_no_less_exact_than_numpys(summed, sign):
    """It multiplies eight bits at a time, which nobody must see: root mean squares of errors against float64."""
    if not cpu_kernels.matrix_unit():
        pytest.skip("this processor has no matrix unit")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((256, summed), np.float32), rng.standard_normal((summed, 384), np.float32)
    if sign == "positive":
        x, w = np.abs(x), np.abs(w)
    want = x.astype(np.float64) @ w.astype(np.float64)
    ours, numpys = np.asarray(multiply(jnp.asarray(x), jnp.asarray(w))), x @ w
    assert np.square(ours - want).mean() <= np.square(numpys - want).mean()


def test_devices_at_once_make_the_bits_of_one_and_add_up_the_matrixs_gradient():
    x, matrix, grad = (jnp.asarray(array) for array in arrays("an encoder's"))
    x, grad = (jnp.tile(array[:, :300], (8, 1, 1)) for array in (x, grad))
    everywhere, rows = PartitionSpec(), PartitionSpec("data")
    lie = {"in_specs": (rows, everywhere, rows), "out_specs": (rows, rows, everywhere)}

    def gradients(x, matrix, grad):
        out, of = jax.vjp(product, x, matrix)
        return out, *of(grad)

    by_devices = jax.jit(jax.shard_map(gradients, mesh=data_mesh(), **lie))
    got, want = by_devices(x, matrix, grad), jax.jit(gradients)(x, matrix, grad)
    for ours, one in zip(got[:2], want[:2], strict=True):
        np.testing.assert_array_equal(ours, one)
    np.testing.assert_allclose(got[2], want[2], rtol=0, atol=3e-6 * float(jnp.abs(want[2]).max()))


@pytest.mark.parametrize("which", [0, 1])
def test_a_gradient_that_is_not_asked_for_keeps_nothing(which):
    """As with a frozen matrix under adapters, or features that nobody trains."""
    x, matrix, grad = (jnp.asarray(array) for array in arrays("an encoder's"))
    factors = (x, matrix)

    def of_one(asked):
        return product(*(asked if place == which else factor for place, factor in enumerate(factors)))

    out, gradient = jax.vjp(of_one, factors[which])
    kept = [leaf.shape for leaf in jax.tree.leaves(gradient) if leaf.size > 1]
    assert kept == [factors[1 - which].shape]
    want = jax.vjp(product, x, matrix)[1](grad)[which]
    np.testing.assert_array_equal(gradient(grad)[0], want)
    assert out.shape == grad.shape


def test_a_number_that_is_none_stays_one():
    x, matrix, _ = arrays("blocks and panels to the last")
    x[3, 5], x[4, 6] = np.nan, np.inf
    got = np.asarray(cpu_products.product(jnp.asarray(x), jnp.asarray(matrix)))
    assert np.isnan(got[3]).all()
    assert not np.isfinite(got[4]).any()
    assert np.isfinite(np.delete(got, [3, 4], axis=0)).all()
