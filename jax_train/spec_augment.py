"""SpecAugment on the device: spans of frames and of mel bins are set to 0, anew each time a window is seen.

Decision: the counts, widths and value are those of `transformers`' Whisper (`_compute_mask_indices`,
`_mask_input_features`), so its settings carry over; its field names are kept. Two things differ. The randomness comes
from a key per (seed, step, window), so that the number of devices and processes changes nothing; and only frames up to
the last that holds speech are masked, since a mask on padding hides nothing. Source: arXiv 1904.08779.

B windows, F mel frames, M mel bins, A places of the masked axis (F or M), K spans.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from data.errors import UserError

PURPOSE = 0x5BEC  # keeps these keys apart from others of the same seed
MASKED = 0.0  # Hugging Face's; log-mels of speech lie around −1 to 1.5


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """How much is masked; the defaults are those of Hugging Face's `WhisperConfig`."""

    mask_time_prob: float = 0.05
    """Share of a window's speech frames that time masks would cover if none overlapped; 0: no time masks."""
    mask_time_length: int = 10
    """Frames (of 10 ms) in a time mask."""
    mask_time_min_masks: int = 2
    """Time masks a window has at least, however short its speech."""
    mask_feature_prob: float = 0.0
    """Share of the mel bins that frequency masks would cover if none overlapped; 0: no frequency masks."""
    mask_feature_length: int = 10
    """Mel bins in a frequency mask."""
    mask_feature_min_masks: int = 0
    """Frequency masks a window has at least."""

    @property
    def masks(self) -> bool:
        """Whether anything is masked."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0

    def __post_init__(self) -> None:
        for axis in ("time", "feature"):
            prob, length, least = (getattr(self, f"mask_{axis}_{what}") for what in ("prob", "length", "min_masks"))
            if not 0 <= prob <= 1:
                raise UserError(f"mask_{axis}_prob {prob}: a share from 0 to 1")
            if length < 1:
                raise UserError(f"mask_{axis}_length {length}: at least 1")
            if least < 0:
                raise UserError(f"mask_{axis}_min_masks {least}: 0 or more")


NO_MASKS = SpecAugment(mask_time_prob=0.0)


def window_keys(seed: int, step: int | Int[Array, ""], columns_B: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key per window, from the run's seed, the step, and the window's column in the global batch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), PURPOSE), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, columns_B)


def speech_frames(log_mel_max_BF: Float[Array, "B F"]) -> Int[Array, "B"]:
    """Frames of each window up to the last that holds speech; where there is none, its maximum is −inf."""
    numbers_1F = jnp.arange(1, log_mel_max_BF.shape[1] + 1)[None]
    return jnp.where(log_mel_max_BF > -jnp.inf, numbers_1F, 0).max(-1)


def spec_augment(
    log_mel_BFM: Float[Array, "B F M"], frames_B: Int[Array, "B"], keys_B: Key[Array, "B"], config: SpecAugment
) -> Float[Array, "B F M"]:
    """The windows with masked spans in their first `frames`; what lies behind is left as it is."""
    _, n_frames, n_mels = log_mel_BFM.shape
    if max(config.mask_time_length - n_frames, config.mask_feature_length - n_mels) > 0:
        raise UserError(f"masks of {config}: longer than a window of {n_frames} frames and {n_mels} mel bins")

    def mask_of_window(frames: Array, key: Array) -> Bool[Array, "F M"]:
        time_key, feature_key = jax.random.split(key)
        time_F = span_mask(
            time_key, n_frames, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )
        feature_M = span_mask(
            feature_key,
            n_mels,
            jnp.asarray(n_mels),
            config.mask_feature_prob,
            config.mask_feature_length,
            config.mask_feature_min_masks,
        )
        speech_F = jnp.arange(n_frames) < frames
        return speech_F[:, None] & (time_F[:, None] | feature_M[None])

    masked_BFM = jax.vmap(mask_of_window)(frames_B, keys_B)
    return jnp.where(masked_BFM, jnp.asarray(MASKED, log_mel_BFM.dtype), log_mel_BFM)


def span_mask(
    key: Key[Array, ""], axis: int, length: Int[Array, ""], prob: float, width: int, min_masks: int
) -> Bool[Array, "A"]:
    """Which of the first `length` of `axis` places lie in a masked span; `axis`, `prob` and widths are static.

    prob · length / width spans, rounded at random to one of its neighbours, at least `min_masks`, at most as many as
    have room; their starts are drawn without replacement, so spans may overlap but not coincide.
    """
    most = min(max(int(prob * axis / width + 1), min_masks), axis // width)
    places_A = jnp.arange(axis)
    if prob == 0 or most == 0:
        return jnp.zeros(axis, bool)
    rounding_key, start_key = jax.random.split(key)
    starts_allowed = jnp.maximum(length - (width - 1), 0)
    wanted = (prob * length.astype(jnp.float32) / width + jax.random.uniform(rounding_key)).astype(jnp.int32)
    count = jnp.clip(jnp.maximum(wanted, min_masks), 0, jnp.minimum(starts_allowed, most))
    # The largest of independent uniform scores are a draw without replacement, at a fixed shape.
    scores_A = jnp.where(places_A < starts_allowed, jax.random.uniform(start_key, (axis,)), -1.0)
    _, starts_K = jax.lax.top_k(scores_A, most)
    started_A = jnp.zeros(axis, jnp.int32).at[starts_K].set((jnp.arange(most) < count).astype(jnp.int32))
    so_far_A = jnp.cumsum(started_A)
    return so_far_A > jnp.pad(so_far_A, (width, 0))[:axis]  # a span started within the last `width` places
