"""Cross-entropy over the vocabulary: plainly, and from hidden states without ever holding all logits.

Decision: Whisper's logits are its largest array (51,865 floats a token: 50 MB for a window of 256 labels, and again for
their gradient). `vocabulary_loss` takes a chunk of tokens at a time, and computes the chunk's gradient while its logits
are there, so that nothing is kept but the gradients of hidden states and embedding, and nothing is computed twice.
Tokens that the loss leaves out are moved behind the others and cost nothing.

B windows, L tokens, V vocabulary, D d_model, N = B · L tokens, C tokens of a chunk.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jax_train.cpu_products import multiply
from jax_train.softmax import top_and_total
from jax_train.windows import IGNORE

CHUNKS = {"cpu": 256, "gpu": 2048, "tpu": 2048}
"""Tokens of a chunk: 53 MB of float32 logits on a CPU. Elsewhere eight times that, as each chunk reads and writes the
whole embedding's gradient, for which a fast device would wait."""

ROWS = {"cpu": 1, "gpu": 128, "tpu": 1}
"""Of which the matrix of words has a multiple: 51,865 columns are more than cuBLAS takes without copying them."""


def default_chunk() -> int:
    """Tokens of a chunk on the device there is."""
    return CHUNKS[jax.default_backend()]


def token_loss(
    logits_BLV: Float[Array, "B L V"], labels_BL: Int[Array, "B L"], label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Summed cross-entropy in nats, and the number of label tokens it covers.

    With `label_smoothing`, that share of a label's weight is spread evenly over the vocabulary (arXiv 1512.00567).
    """
    keep_BL = labels_BL != IGNORE
    nats_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, jnp.where(keep_BL, labels_BL, 0))
    if label_smoothing:
        spread_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - logits_BLV.mean(-1)
        nats_BL = (1 - label_smoothing) * nats_BL + label_smoothing * spread_BL
    return jnp.where(keep_BL, nats_BL, 0.0).sum(), label_count(labels_BL)


def label_count(labels_BL: Int[Array, "B L"]) -> Int[Array, ""]:
    """Label tokens that the loss covers."""
    return (labels_BL != IGNORE).sum(dtype=jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def vocabulary_loss(
    x_BLD: Float[Array, "B L D"],
    embedding_VD: Float[Array, "V D"],
    labels_BL: Int[Array, "B L"],
    scale: Float[Array, ""],
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """`scale` times `token_loss` of the logits `x · embeddingᵀ`, for hidden states in any type; logits are float32.

    They are computed `chunk` tokens at a time, by default as many as suit the device.
    `scale` is there, not outside, because gradients that are kept in float16 would vanish without it. It and the
    labels have no gradient.
    """
    return _chunks(x_BLD, embedding_VD, labels_BL, scale, label_smoothing, chunk, gradients=False)[0]


Kept = tuple[Array, Array]


def _forward(
    x_BLD: Array, embedding_VD: Array, labels_BL: Array, scale: Array, label_smoothing: float, chunk: int | None
) -> tuple[Array, Kept]:
    nats, grad_x_BLD, grad_embedding_VD = _chunks(
        x_BLD, embedding_VD, labels_BL, scale, label_smoothing, chunk, gradients=True
    )
    return nats, (grad_x_BLD, grad_embedding_VD)


def _backward(_label_smoothing: float, _chunk: int | None, kept: Kept, grad: Array) -> tuple[Array | None, ...]:
    grad_x_BLD, grad_embedding_VD = kept
    return grad_x_BLD * grad.astype(grad_x_BLD.dtype), grad_embedding_VD * grad, None, None


vocabulary_loss.defvjp(_forward, _backward)


def _chunks(
    x_BLD: Array,
    embedding_VD: Array,
    labels_BL: Array,
    scale: Array,
    label_smoothing: float,
    chunk: int | None,
    gradients: bool,
) -> tuple[Array, Array, Array]:
    """Scaled loss and, if asked for, its gradients by hidden states and embedding (else zeros of no size)."""
    n_tokens, d_model = labels_BL.size, x_BLD.shape[-1]
    chunk = min(chunk or default_chunk(), n_tokens)
    room = -n_tokens % chunk
    labels_N = jnp.pad(labels_BL.reshape(-1), (0, room), constant_values=IGNORE)
    order_N = jnp.argsort(labels_N == IGNORE, stable=True)  # those that count come first
    labels_N, x_ND = labels_N[order_N], jnp.pad(x_BLD.reshape(-1, d_model), ((0, room), (0, 0)))[order_N]
    words = len(embedding_VD)
    weights_VD = jnp.pad(embedding_VD.astype(x_BLD.dtype), ((0, -words % ROWS[jax.default_backend()]), (0, 0)))

    def one_chunk(number: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        nats, grad_x_ND, grad_embedding_VD = sums
        x_CD = jax.lax.dynamic_slice_in_dim(x_ND, number * chunk, chunk)
        labels_C = jax.lax.dynamic_slice_in_dim(labels_N, number * chunk, chunk)
        logits_CV = multiply(x_CD, weights_VD, w_transposed=True)
        more, grad_CV = _of_chunk(logits_CV, labels_C, words, scale, label_smoothing)
        if gradients:
            grad_CV = grad_CV.astype(x_ND.dtype)
            grad_x_CD = multiply(grad_CV, weights_VD).astype(x_ND.dtype)
            grad_x_ND = jax.lax.dynamic_update_slice_in_dim(grad_x_ND, grad_x_CD, number * chunk, 0)
            grad_embedding_VD = grad_embedding_VD + multiply(grad_CV, x_CD, x_transposed=True)
        return nats + more, grad_x_ND, grad_embedding_VD

    shapes = (x_ND.shape, weights_VD.shape) if gradients else ((0, d_model), (0, d_model))
    empty = jnp.zeros(()), jnp.zeros(shapes[0], x_ND.dtype), jnp.zeros(shapes[1])
    nothing = x_ND[:0].astype(jnp.float32).sum()  # 0, each device's own, which the sums then are too
    sums = jax.tree.map(lambda array: array + nothing.astype(array.dtype), empty)
    n_chunks = -(-label_count(labels_BL) // chunk)
    nats, grad_x_ND, grad_embedding_VD = jax.lax.fori_loop(0, n_chunks, one_chunk, sums)
    if gradients:
        grad_x_ND = jnp.zeros_like(grad_x_ND).at[order_N].set(grad_x_ND)[:n_tokens]
        grad_x_ND = grad_x_ND.reshape(x_BLD.shape)
    return nats, grad_x_ND, grad_embedding_VD[:words]


def _of_chunk(
    logits_CV: Float[Array, "C V"], labels_C: Int[Array, "C"], words: int, scale: Array, label_smoothing: float
) -> tuple[Float[Array, ""], Float[Array, "C V"]]:
    """Scaled loss of a chunk, and its gradient by the logits: what softmax says less what the label says.

    Of the logits the first `words` are of words, and others no more than room.
    """
    keep_C1 = (labels_C != IGNORE)[:, None]
    numbers_1V = jnp.arange(logits_CV.shape[1])[None]
    is_label_CV, is_word_1V = labels_C[:, None] == numbers_1V, numbers_1V < words
    if logits_CV.shape[1] > words:
        logits_CV = jnp.where(is_word_1V, logits_CV, -jnp.inf)
    softmax_CV, log_total_C1 = _softmax(logits_CV)
    wanted_C = (1 - label_smoothing) * jnp.where(is_label_CV, logits_CV, 0.0).sum(1)
    target_CV = jnp.where(is_label_CV, 1 - label_smoothing, 0.0)
    if label_smoothing:
        wanted_C = wanted_C + label_smoothing * jnp.where(is_word_1V, logits_CV, 0.0).sum(1) / words
        target_CV = target_CV + jnp.where(is_word_1V, label_smoothing / words, 0.0)
    nats = jnp.where(keep_C1[:, 0], log_total_C1[:, 0] - wanted_C, 0.0).sum()
    grad_CV = jnp.where(keep_C1, softmax_CV - target_CV, 0.0)
    return scale * nats, scale * grad_CV


def _softmax(logits_CV: Float[Array, "C V"]) -> tuple[Float[Array, "C V"], Float[Array, "C 1"]]:
    """The softmax over the last axis, and the logarithm of its denominator."""
    if jax.default_backend() != "cpu":
        top_C, total_C = top_and_total(logits_CV)
        log_total_C1 = (top_C + jnp.log(total_C))[:, None]
        return jnp.exp(logits_CV - log_total_C1), log_total_C1
    # There XLA would take exponentials again for each use, and one by one where they are summed up.
    most_C1 = logits_CV.max(1, keepdims=True)
    weights_CV = jax.lax.optimization_barrier(jnp.exp(logits_CV - most_C1))
    total_C1 = weights_CV.sum(1, keepdims=True)
    return weights_CV / total_C1, most_C1 + jnp.log(total_C1)
