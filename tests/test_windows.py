"""Windows: every clip once, full windows, labels the decoder understands, features equal to the whole audio's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from data.log_mel import HOP_LENGTH, N_FRAMES, log_mel, quantize
from data.records import Record
from jax_train.batches import to_devices
from jax_train.step import restore
from jax_train.windows import IGNORE, Prompt, Window, assemble, label_length, plan_epoch, slot_frames

PROMPT = Prompt(start=50_258, language=50_274, transcribe=50_359, no_timestamps=50_363, end=50_257)


def random_batch(seed: int, mesh: jax.sharding.Mesh, batch: int) -> Window:
    """A batch for the small random model, different lengths of features and labels."""
    rng = np.random.default_rng(seed)
    log_mel_max = np.full((batch, N_FRAMES), -np.inf, np.float32)
    labels = rng.integers(0, 512, (batch, 24)).astype(np.int32)
    for row in range(batch):
        log_mel_max[row, : 300 * (row + 1)] = 1.0
        labels[row, 2 + 2 * row :] = IGNORE
    log_mel_q = rng.integers(0, 256, (batch, N_FRAMES, 80)).astype(np.uint8)
    return to_devices(Window(log_mel_q, log_mel_max, rng.integers(0, 512, (batch, 24)).astype(np.int32), labels), mesh)


def common_voice_like_index(clips: int, copies: int = 1) -> dict[str, np.ndarray]:
    """Lengths as Common Voice's: mean 5.4 s, from 1 to 15 s."""
    rng = np.random.default_rng(1)
    seconds = np.clip(rng.gamma(9.0, 0.6, clips), 1.0, 15.0).repeat(copies)
    return {
        "id": np.array([f"clip{i}.mp3" for i in range(clips)]).repeat(copies),
        "copy": np.tile(np.arange(copies), clips),
        "frames": np.ceil(seconds * 100 + 1.25).astype(np.int32),
        "tokens": np.ceil(seconds * 4).astype(np.int32),
        "seconds": seconds.astype(np.float32),
    }


def record(seconds: float, tokens: list[int], seed: int = 0) -> tuple[Record, np.ndarray]:
    """A clip of loud or soft noise with its audio."""
    rng = np.random.default_rng(seed)
    audio = (rng.standard_normal(int(seconds * 16_000)) * 0.1 ** (1 + seed)).astype(np.float32)
    q, top = quantize(log_mel(audio, 80))
    return Record(f"{seed}.mp3", 0, q, top, "", tuple(tokens), "speaker", seconds), audio


def test_an_epoch_holds_every_clip_once_as_one_of_its_copies():
    index = common_voice_like_index(500, copies=3)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", timestamps=0.5, single=0.1)
    rows = np.concatenate(plan.rows)
    assert sorted(index["id"][rows]) == sorted(set(index["id"]))
    assert set(index["copy"][rows]) == {0, 1, 2}


def test_no_window_holds_more_than_thirty_seconds_or_the_decoders_tokens():
    index = common_voice_like_index(2000)
    index["tokens"] = index["tokens"] * 5  # tokens run out before seconds do
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", timestamps=1.0, single=0.0)
    for rows in plan.rows:
        assert slot_frames(index["frames"][rows]).sum() <= N_FRAMES
        assert (index["tokens"][rows] + 2).sum() + 3 <= 448


def test_packing_fills_97_percent_of_the_frames_at_common_voices_lengths():
    index = common_voice_like_index(20_000)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed")
    assert index["frames"].sum() / (len(plan) * N_FRAMES) >= 0.97


def test_a_share_of_windows_holds_one_clip_and_a_share_has_timestamps():
    index = common_voice_like_index(4000)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", timestamps=0.5, single=0.1)
    alone = sum(len(rows) == 1 for rows in plan.rows)
    assert alone / len(plan) == pytest.approx(0.1, abs=0.01)  # full windows are a little more than the frames fill
    assert 0.45 < plan.timestamps.mean() < 0.55


def test_the_plan_depends_on_seed_and_epoch_alone():
    index = common_voice_like_index(300)
    plans = [plan_epoch(index, seed=s, epoch=e, windows="packed").rows for s, e in [(0, 0), (0, 0), (0, 1), (1, 0)]]
    written = [[rows.tolist() for rows in plan] for plan in plans]
    same = [plan == written[0] for plan in written[1:]]
    assert same == [True, False, False]


def test_padded_windows_hold_one_clip_and_no_timestamps():
    plan = plan_epoch(common_voice_like_index(50), seed=0, epoch=0, windows="padded", timestamps=1.0)
    assert [len(rows) for rows in plan.rows] == [1] * 50
    assert not plan.timestamps.any()


def test_labels_without_timestamps_are_hugging_faces():
    """The usual recipe: decoder inputs are the labels shifted right behind <|startoftranscript|>."""
    window = assemble([record(2.0, [10, 11, 12])[0]], False, PROMPT, 80, 16)
    labels = [50_274, 50_359, 50_363, 10, 11, 12, 50_257]
    assert window.labels_L.tolist() == labels + [IGNORE] * 9
    assert window.tokens_L.tolist() == [50_258, *labels[:-1]] + [50_257] * 9


def test_timestamps_stand_at_the_clips_boundaries():
    """1.00 s is 102 frames: every frame whose 25 ms window sees the clip."""
    clips = [record(1.0, [10])[0], record(2.005, [20, 21], seed=1)[0]]
    window = assemble(clips, True, PROMPT, 80, 16)
    written = window.labels_L[window.labels_L != IGNORE].tolist()
    zero = PROMPT.first_timestamp
    assert [len(clip.log_mel_q) for clip in clips] == [102, 202]
    assert written == [50_274, 50_359, zero, 10, zero + 51, zero + 51, 20, 21, zero + 152, 50_257]


def test_label_length_holds_the_longest_window_and_stays_within_the_decoder():
    index = common_voice_like_index(100)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed")
    length = label_length(plan, index)
    assert length % 32 == 0
    assert max((index["tokens"][rows] + 2).sum() + 3 for rows in plan.rows) <= length <= 448


@pytest.mark.parametrize("n_mels", [80, 128])
def test_a_packed_window_equals_the_extractor_on_the_concatenated_audio(n_mels):
    """But for 8 bits (1/255) and the frames at each seam that see both clips."""
    clips, pieces, seams, first = [], [], [], 0
    for seed, seconds in enumerate([3.3, 5.017, 8.0]):
        _, audio = record(seconds, [], seed)
        q, top = quantize(log_mel(audio, n_mels))
        clips.append(Record(str(seed), 0, q, top, "", (1,), "", seconds))
        slot = int(slot_frames(np.asarray(len(q))))
        pieces.append(np.pad(audio, (0, slot * HOP_LENGTH - len(audio))))
        first += slot
        seams += [first - 2, first - 1, first, first + 1]
    window = assemble(clips, False, PROMPT, n_mels, 16)
    got = restore(jnp.asarray(window.log_mel_q_FM)[None], jnp.asarray(window.log_mel_max_F)[None])[0]
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    want = extractor(np.concatenate(pieces), sampling_rate=16_000, return_tensors="np").input_features[0].T
    away = np.setdiff1d(np.arange(N_FRAMES), seams)
    np.testing.assert_allclose(np.asarray(got)[away], want[away], rtol=0, atol=1 / 255 + 2e-5)


def test_an_empty_window_teaches_nothing_and_is_silence():
    window = assemble([], False, PROMPT, 80, 8)
    assert (window.labels_L == IGNORE).all()
    silent = restore(jnp.asarray(window.log_mel_q_FM)[None], jnp.asarray(window.log_mel_max_F)[None])
    np.testing.assert_array_equal(np.asarray(silent), -1.5)
