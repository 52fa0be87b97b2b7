"""Our log-mel against Hugging Face's extractor, its 8-bit form, and the identity that lets windows be assembled."""

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from data.audio import decode, resample
from data.log_mel import frame_count, log_mel, mel_filters, pad_to_window, quantize, restore

SECOND = 16_000


@pytest.fixture(name="speech_N", scope="module")
def load_speech(sample_corpus):
    """Four seconds of a real clip."""
    audio_N, rate = decode(sorted((sample_corpus / "clips").glob("*.mp3"))[2])
    return np.ascontiguousarray(resample(audio_N, rate)[: 4 * SECOND])


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return 0.05 * np.random.default_rng(seed).standard_normal(n_samples, dtype=np.float32)


def hugging_face(audio_N: np.ndarray, n_mels: int) -> np.ndarray:
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    return extractor(audio_N, sampling_rate=SECOND, return_tensors="np").input_features[0].T


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_equal_hugging_face(n_mels):
    """1e-8: float32 rounding of filters whose largest weight is 0.03."""
    want_BM = mel_filter_bank(201, n_mels, 0.0, 8000.0, SECOND, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(n_mels).T, want_BM, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize(
    "case", ["speech", "noise", "silence", "one sample", "shorter than the mirror", "almost 30 s", "exactly 30 s"]
)
def test_padded_log_mel_equals_hugging_face(case, n_mels, speech_N):
    """3e-5 at worst, 5e-7 on average.

    A float32 transform rounds at 1e-7 of a frame's strongest bin, and the logarithm magnifies that in bins up to 1e8
    times weaker. The extractor's own two paths (PyTorch in float32, NumPy in float64) differ from each other by up to
    2e-5 on these inputs; the average shows that all but a few weak bins agree to float32 rounding.
    """
    audio_N = {
        "speech": speech_N,
        "noise": noise(5 * SECOND),
        "silence": np.zeros(2 * SECOND, np.float32),
        "one sample": np.full(1, 0.5, np.float32),
        "shorter than the mirror": noise(150),
        "almost 30 s": noise(30 * SECOND - 30),
        "exactly 30 s": noise(30 * SECOND),
    }[case]
    got_FM, want_FM = pad_to_window(log_mel(audio_N, n_mels)), hugging_face(audio_N, n_mels)
    np.testing.assert_allclose(got_FM, want_FM, rtol=0, atol=3e-5)
    assert np.abs(got_FM - want_FM).mean() < 5e-7


@pytest.mark.parametrize("n_samples", [1, 119, 120, 121, 280, 281, SECOND, SECOND + 1, 479_799, 479_800, 480_000])
def test_every_frame_that_sees_the_clip_is_there_and_no_other(n_samples):
    """Of a window of constant padding but for the clip, exactly the frames we compute differ from the padding."""
    audio_N = np.full(n_samples, 0.1, np.float32)
    audio_N[-1] = 1.0  # a click, heard by every frame that sees the last sample at all
    want_FM = hugging_face(audio_N, 80)
    assert len(log_mel(audio_N, 80)) == frame_count(n_samples) <= 3000
    beyond_FM = want_FM[frame_count(n_samples) :]
    assert (beyond_FM == want_FM.min()).all()
    # The window's edges are zero, so the very last frame may see the clip with no weight; the one before hears it.
    assert n_samples < 120 or (want_FM[max(frame_count(n_samples) - 2, 0)] > want_FM.min()).any()


@pytest.mark.parametrize(
    "wrong_N", [np.zeros(0, np.float32), np.zeros(480_001, np.float32), np.zeros(10), np.zeros((2, 100), np.float32)]
)
def test_log_mel_refuses_what_is_not_up_to_30_s_of_float32_mono(wrong_N):
    with pytest.raises(ValueError, match="log_mel takes 1 to 480000 float32 samples, got"):
        log_mel(wrong_N, 80)


@pytest.mark.parametrize("kind", ["speech", "noise", "silence"])
def test_eight_bits_are_off_by_at_most_one_255th(kind, speech_N):
    """Half of 1/127.5, and 1e-6 for float32 rounding of values near 1."""
    audio_N = {"speech": speech_N, "noise": noise(SECOND), "silence": np.zeros(SECOND, np.float32)}[kind]
    log_mel_FM = log_mel(audio_N, 80)
    log_mel_q_FM, log_mel_max = quantize(log_mel_FM)
    assert log_mel_q_FM.dtype == np.uint8
    assert log_mel_max == log_mel_FM.max()
    np.testing.assert_allclose(restore(log_mel_q_FM, log_mel_max), log_mel_FM, rtol=0, atol=1 / 255 + 1e-6)


def test_a_window_of_clips_laid_end_to_end_is_the_log_mel_of_their_audio_but_for_the_seams(speech_N):
    """3e-5 as above. At a seam a clip's last frame would see the next, whose first two are mirrored instead."""
    clips = [speech_N, noise(SECOND + 77), 0.01 * speech_N[:SECOND], noise(3 * SECOND, seed=1)]
    joined_FM = np.concatenate([log_mel(clip_N, 80) for clip_N in clips])
    joined_FM = np.maximum(joined_FM, joined_FM.max() - 2)
    counts = [frame_count(len(clip_N)) for clip_N in clips]
    whole = [np.pad(clip_N, (0, n * 160 - len(clip_N))) for clip_N, n in zip(clips, counts, strict=True)]
    want_FM = hugging_face(np.concatenate(whole), 80)[: sum(counts)]
    inner = np.ones(sum(counts), bool)
    for seam in np.cumsum(counts):
        inner[seam - 1 : seam + 2] = False
    np.testing.assert_allclose(joined_FM[inner], want_FM[inner], rtol=0, atol=3e-5)
