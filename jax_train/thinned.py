"""The encoder on windows whose silent end is thinned: a clip of 5 s for little more than the price of 5 s.

Decision: Whisper must see that a clip ends in silence. Where the window is cut at the clip's end, models that were not
trained so repeat themselves; but 25 s of silence need not be seen at full resolution. All positions of the clip are
computed; of the silent ones after it, only the middle one of every `EVERY`, which each attention counts as often as
the group has positions, by adding the logarithm of that to its score. That is the whole model, with positions that in
silence go in steps of 0.16 s instead of 0.02. What it does to transcripts and time is in docs/decoding.md.

B batch, M mel bins, F mel frames given, S encoder positions computed, D d_model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jax_train.attention import attend_counted
from jax_train.model import Encoder, EncoderLayer

EVERY = 8  # positions of 20 ms that one stands for
MARGIN = 6  # frames of silence given after the speech: enough for one position to see nothing else
LENGTHS = (320, 400, 480, 560, 640, 720, 800, 1000, 1200, 1600, 2000, 2500)  # frames given; each is a program


def sent(n_frames: int, among: Sequence[int], whole: int) -> int:
    """Which of the lengths `among`, in order, to give of a window with so many frames of speech."""
    return next((length for length in among if length >= n_frames + MARGIN or length == whole), among[-1])


def lengths(frames: Int[np.ndarray, "clips"], batch_size: int, whole: int) -> tuple[int, ...]:
    """The lengths that batches of clips of so many frames, sorted, take."""
    among = (*(length for length in LENGTHS if length < whole), whole)
    longest = [*np.sort(frames)[batch_size - 1 :: batch_size].tolist(), int(frames.max())]
    return tuple(sorted({sent(most, among, whole) for most in longest}))


def kept(speech: int, positions: int, every: int = EVERY) -> tuple[Int[np.ndarray, "S"], Float32[np.ndarray, "S"]]:
    """Which of a window's `positions` are computed, and how many each stands for: itself, of the first `speech`."""
    first_G = np.arange(speech, positions, every)
    size_G = np.minimum(first_G + every, positions) - first_G
    kept_S = np.concatenate([np.arange(speech), first_G + size_G // 2])
    return kept_S, np.concatenate([np.ones(speech), size_G]).astype(np.float32)


def encoded(
    encoder: Encoder, log_mel_BFM: Float[Array, "B F M"]
) -> tuple[Float[Array, "B S D"], Float32[Array, "S"] | None]:
    """Hidden states of windows, whole or of their first F frames, of which the last `MARGIN` are silent as is the rest.

    With them the logarithm of the positions that each stands for; None: all for themselves.
    """
    positions_SD = encoder.embed_positions.embedding[...]
    if log_mel_BFM.shape[1] == 2 * len(positions_SD):
        return encoder(log_mel_BFM), None
    given_BSD = encoder.convolved(log_mel_BFM)
    speech = (log_mel_BFM.shape[1] - MARGIN) // 2 + 1  # a position sees the two frames before and after its own
    silent_B1D = given_BSD[:, speech : speech + 1]
    kept_S, count_S = kept(speech, len(positions_SD))
    silence_BSD = jnp.repeat(silent_B1D, len(kept_S) - speech, axis=1)
    x_BSD = jnp.concatenate([given_BSD[:, :speech], silence_BSD], axis=1) + positions_SD[kept_S][None].astype(
        encoder.dtype
    )
    log_count_S = jnp.log(jnp.asarray(count_S))
    for layer in encoder.layers:
        x_BSD = _layer(layer, x_BSD, log_count_S)
    return encoder.layer_norm(x_BSD), log_count_S


@jax.jit
def _layer(
    layer: EncoderLayer, x_BSD: Float[Array, "B S D"], log_count_S: Float32[Array, "S"]
) -> Float[Array, "B S D"]:
    """The stream after a layer. Jitted, so that all layers are traced as one."""
    normed_BSD, attention = layer.self_attn_layer_norm(x_BSD), layer.self_attn
    keys_BSHK, values_BSHK = attention.keys_values(normed_BSD)
    heads_BSHK = attend_counted(attention.queries(normed_BSD), keys_BSHK, values_BSHK, log_count_S)
    return layer.feed_forward(x_BSD + attention.output(heads_BSHK))
