"""SpecAugment: as much is masked as in Hugging Face's, on speech alone, the same on any number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec
from transformers.models.whisper.configuration_whisper import WhisperConfig as HFConfig
from transformers.models.whisper.modeling_whisper import WhisperModel, _compute_mask_indices

from data.errors import UserError
from data.log_mel import N_FRAMES
from jax_train.sharding import data_mesh
from jax_train.spec_augment import SpecAugment, span_mask, spec_augment, speech_frames, window_keys

WINDOWS = 400
BOTH = SpecAugment(mask_time_prob=0.2, mask_feature_prob=0.3, mask_feature_length=5)


def masks(frames: int, prob: float, width: int, min_masks: int, axis: int = N_FRAMES) -> np.ndarray:
    """Our masks of many windows, (windows, axis)."""
    keys = window_keys(0, 0, jnp.arange(WINDOWS))
    return np.asarray(jax.vmap(lambda key: span_mask(key, axis, jnp.asarray(frames), prob, width, min_masks))(keys))


def hugging_face_masks(frames: int, prob: float, width: int, min_masks: int, axis: int = N_FRAMES) -> np.ndarray:
    """Theirs; one call per window, since a call draws its random rounding once."""
    np.random.seed(1)  # noqa: NPY002 - transformers draws from the global state
    attention = (torch.arange(axis) < frames)[None].long()
    return np.concatenate([_compute_mask_indices((1, axis), prob, width, attention, min_masks) for _ in range(WINDOWS)])


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the masked runs of one window."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def windows(batch: int, frames: int = 700, n_mels: int = 16) -> jax.Array:
    """Log-mels that hold no 0."""
    return 1.0 + jax.random.uniform(jax.random.key(7), (batch, frames, n_mels))


@pytest.mark.parametrize(("prob", "width", "min_masks"), [(0.05, 10, 2), (0.3, 10, 0), (0.01, 64, 0)])
@pytest.mark.parametrize("frames", [3000, 541, 11, 5])
def test_as_much_is_masked_as_by_hugging_face_and_in_the_same_places(frames, prob, width, min_masks):
    """5 standard errors of the difference of two means. Theirs without padding: a window with no mask at all has its
    last frame masked there, a stand-in of its scatter."""
    ours, theirs = (draw(frames, prob, width, min_masks) for draw in (masks, hugging_face_masks))
    assert not ours[:, frames:].any()
    theirs[:, frames:] = False
    for statistic in (lambda mask: mask.sum(1), lambda mask: (mask * np.linspace(0, 1, N_FRAMES)).sum(1)):
        got, want = statistic(ours), statistic(theirs)
        error = np.sqrt((got.var() + want.var()) / WINDOWS)
        assert abs(got.mean() - want.mean()) <= 5 * error + 1e-9


def test_spans_are_whole_and_as_many_as_the_share_asks_for():
    """Each run is at least one span; 12 or 13 spans of 10 in 2500 frames at 5 % are 12.5 spans."""
    found = masks(2500, 0.05, 10, 0)
    lengths = [run for mask in found for run in runs(mask)]
    assert min(lengths) == 10
    assert found.sum(1).max() <= 130
    single = [len(runs(mask)) for mask in found if set(runs(mask)) == {10}]
    assert set(single) == {12, 13}


def test_short_speech_has_its_least_number_of_masks_and_no_more_than_fit():
    assert {mask.sum() for mask in masks(30, 0.05, 10, 1)} == {10}
    assert {mask.sum() for mask in masks(10, 0.05, 10, 2)} == {10}  # one place only
    assert not masks(9, 0.05, 10, 2).any()
    assert not masks(0, 0.05, 10, 2).any()
    assert not masks(3000, 0.0, 10, 2).any()  # as in Hugging Face, a share of 0 masks nothing


def test_masked_places_become_0_as_in_hugging_face_and_all_others_stay():
    before = windows(4)
    frames = jnp.asarray([700, 400, 30, 0])
    after = np.asarray(spec_augment(before, frames, window_keys(0, 3, jnp.arange(4)), BOTH))
    before = np.asarray(before)
    for window, last in enumerate(frames.tolist()):
        np.testing.assert_array_equal(after[window, last:], before[window, last:])
    changed = after != before
    assert set(after[changed].tolist()) == {0.0}
    time, mel = changed[:3].all(2), changed[0].all(0)
    assert time[:2].any(1).all()
    assert mel.any()
    rest = changed[0][~time[0]]
    np.testing.assert_array_equal(rest, np.broadcast_to(mel, rest.shape))  # whole bins, all along the speech
    config = HFConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=8, pad_token_id=0, num_mel_bins=16,
        apply_spec_augment=True, mask_time_prob=0.2,
    )  # fmt: skip
    theirs = WhisperModel(config).train()._mask_input_features(torch.ones(1, 16, 3000))
    assert set(theirs.unique().tolist()) == {0.0, 1.0}


def test_frames_and_bins_have_their_own_least_number_of_masks():
    """Two spans of five bins may overlap but not coincide: 6 to 10 bins, and of the frames none."""
    least = SpecAugment(mask_time_prob=1e-6, mask_time_min_masks=0, mask_feature_prob=1e-6, mask_feature_min_masks=2)
    least = dataclasses.replace(least, mask_feature_length=5)
    masked = np.asarray(spec_augment(windows(2), jnp.asarray([700, 700]), window_keys(0, 0, jnp.arange(2)), least)) == 0
    bins = masked.all(1).sum(1)
    assert bins.min() >= 6
    assert bins.max() <= 10
    assert masked.sum() == 700 * bins.sum()


def test_a_window_without_speech_or_a_setting_of_0_changes_nothing():
    before = windows(2)
    keys = window_keys(0, 0, jnp.arange(2))
    off = SpecAugment(mask_time_prob=0.0)
    np.testing.assert_array_equal(spec_augment(before, jnp.asarray([700, 700]), keys, off), before)
    np.testing.assert_array_equal(spec_augment(before, jnp.asarray([0, 0]), keys, BOTH), before)


def test_speech_ends_at_the_last_frame_that_has_a_maximum():
    log_mel_max = np.full((3, 8), -np.inf, np.float32)
    log_mel_max[0, :8] = 0.5
    log_mel_max[1, [0, 1, 2, 4, 5]] = -1.5  # a clip of three frames, a hole to the even frame, another clip
    assert speech_frames(jnp.asarray(log_mel_max)).tolist() == [8, 6, 0]


def test_masks_do_not_depend_on_the_number_of_devices():
    before = windows(8)
    frames = jnp.full(8, 700)

    def masked(log_mel, frames, step):
        columns = jax.lax.axis_index("data") * len(frames) + jnp.arange(len(frames))
        return spec_augment(log_mel, frames, window_keys(5, step, columns), BOTH)

    split, whole = PartitionSpec("data"), PartitionSpec()
    found = []
    for devices in (1, 2, 8):
        mesh = data_mesh(jax.devices()[:devices])
        on_mesh = jax.jit(jax.shard_map(masked, mesh=mesh, in_specs=(split, split, whole), out_specs=split))
        found.append(np.asarray(on_mesh(before, frames, jnp.asarray(3, jnp.int32))))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_masks_are_the_same_again_and_others_for_each_seed_step_and_window():
    before, frames = windows(1), jnp.asarray([700])
    places = {"same": (0, 0, 0), "again": (0, 0, 0), "seed": (1, 0, 0), "step": (0, 1, 0), "window": (0, 0, 1)}
    found = {
        name: np.asarray(spec_augment(before, frames, window_keys(seed, step, jnp.asarray([window])), BOTH)).tobytes()
        for name, (seed, step, window) in places.items()
    }
    assert found["same"] == found["again"]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_type_is_kept(dtype):
    after = spec_augment(windows(1).astype(dtype), jnp.asarray([700]), window_keys(0, 0, jnp.arange(1)), BOTH)
    assert after.dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_time_prob": 1.5}, r"mask_time_prob 1\.5"),
        ({"mask_feature_length": 0}, "mask_feature_length 0"),
        ({"mask_time_min_masks": -1}, "mask_time_min_masks -1"),
    ],
)
def test_a_wrong_setting_is_said(options, message):
    with pytest.raises(UserError, match=message):
        SpecAugment(**options)


def test_a_mask_wider_than_the_window_is_refused():
    wide = SpecAugment(mask_feature_prob=0.5, mask_feature_length=17)
    with pytest.raises(UserError, match=r"longer than a window of 700 frames and 16 mel bins"):
        spec_augment(windows(1), jnp.asarray([700]), window_keys(0, 0, jnp.arange(1)), wide)
