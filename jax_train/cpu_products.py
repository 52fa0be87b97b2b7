"""Products with a matrix on a CPU by a kernel of ours, `cpu_products.cc`, in float32.

Decision: for many rows, in training and encoding, forward and for the gradient of what is multiplied. And for few rows,
as a decoder's next tokens are, where the time is that of reading the matrix (`make bench-products`). A matrix's own
gradient, a sum over all rows, and the vocabulary's products are ours where the processor has a matrix unit, else XLA's.

K what is summed over, N columns.
"""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float

from jax_train import cpu_kernels

FEW, MANY = 64, 256  # rows: at most so few, or at least so many
SMALLEST = 64  # of the matrix either way: a panel of the widest vectors
WHOLE = 16  # of few rows, a row of the matrix is whole vectors


def product(x: Float[Array, "*rows K"], matrix_KN: Float[Array, "K N"]) -> Float[Array, "*rows N"]:
    """`x` times the matrix, by the kernel where that is faster than XLA."""
    if not _takes(x, matrix_KN):
        return jnp.matmul(x, matrix_KN)
    return _product(x, cpu_kernels.own(matrix_KN, x))


def _takes(x: Array, matrix_KN: Array) -> bool:
    rows = x.size // x.shape[-1]
    suits = x.dtype == matrix_KN.dtype == jnp.float32 and min(matrix_KN.shape) >= SMALLEST
    whole = matrix_KN.shape[1] % WHOLE == 0
    return suits and (rows >= MANY or (rows <= FEW and whole)) and cpu_kernels.ready()


@jax.custom_vjp
def _product(x: Array, matrix_KN: Array) -> Array:
    return _call(x, matrix_KN)


def _kept(x: CustomVJPPrimal, matrix_KN: CustomVJPPrimal) -> tuple[Array, tuple[Array | None, Array | None]]:
    """The product, and each factor that the other's gradient needs: a frozen matrix' rows are not kept."""
    kept = x.value if matrix_KN.perturbed else None, matrix_KN.value if x.perturbed else None
    return _call(x.value, matrix_KN.value), kept


def _backward(kept: tuple[Array | None, Array | None], grad: Array | SymbolicZero) -> tuple[Array | None, Array | None]:
    x, matrix_KN = kept
    if isinstance(grad, SymbolicZero):
        return None, None
    of_x = None if matrix_KN is None else _call(grad, matrix_KN, w_transposed=True)
    if x is None:
        return of_x, None
    rows_MK, grad_MN = (array.reshape(-1, array.shape[-1]) for array in (x, grad))
    return of_x, multiply(rows_MK, grad_MN, x_transposed=True)


_product.defvjp(_kept, _backward, symbolic_zeros=True)


def multiply(x: Array, w: Array, x_transposed: bool = False, w_transposed: bool = False) -> Float[Array, "M N"]:
    """A matrix or its transpose times another, in float32, by the matrix unit if there is one. Has no derivative."""
    if x.dtype == w.dtype == jnp.float32 and min(*x.shape, *w.shape) >= SMALLEST and cpu_kernels.matrix_unit():
        return _call(x, cpu_kernels.own(w, x), x_transposed, w_transposed)
    return jnp.matmul(x.T if x_transposed else x, w.T if w_transposed else w, preferred_element_type=jnp.float32)


def _call(x: Array, w: Array, x_transposed: bool = False, w_transposed: bool = False) -> Array:
    shape = (*(x.shape[1:] if x_transposed else x.shape[:-1]), w.shape[0 if w_transposed else 1])
    call = jax.ffi.ffi_call("matrix_product", jax.typeof(x).update(shape=shape))
    made: Array = call(x, w, x_transposed=x_transposed, w_transposed=w_transposed)
    return made
