"""Windows: every clip once, full windows, labels the decoder understands, features equal to the whole audio's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from benchmarks.windows import segments
from data.audio import decode, resample
from data.log_mel import HOP_LENGTH, N_FRAMES, log_mel, quantize
from data.records import Record, Shards
from jax_train.batches import RunPlan, Windows, to_devices
from jax_train.step import restore
from jax_train.windows import (
    IGNORE,
    EpochPlan,
    Prompt,
    Window,
    assemble,
    label_length,
    plan_epoch,
    slot_frames,
)

PROMPT = Prompt(previous=50_361, start=50_258, language=50_274, transcribe=50_359, no_timestamps=50_363, end=50_257)
SHORT_FRAMES = 600


def random_batch(seed: int, mesh: jax.sharding.Mesh, batch: int) -> Window:
    """A batch for the small random model, different lengths of features and labels.

    Windows are of 6 s: a step is the same for any length, and attention to 30 s most of its time.
    """
    rng = np.random.default_rng(seed)
    log_mel_max = np.full((batch, SHORT_FRAMES), -np.inf, np.float32)
    labels = rng.integers(0, 512, (batch, 24)).astype(np.int32)
    for row in range(batch):
        log_mel_max[row, : 60 * (row + 1)] = 1.0
        labels[row, 2 + 2 * row :] = IGNORE
    log_mel_q = rng.integers(0, 256, (batch, SHORT_FRAMES, 80)).astype(np.uint8)
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


def normal_index(clips: int) -> dict[str, np.ndarray]:
    """Lengths about Common Voice's mean of 5.36 s, a third of it their deviation, from 1 to 20 s."""
    rng = np.random.default_rng(2)
    seconds = np.clip(rng.normal(5.36, 5.36 / 3, clips), 1.0, 20.0)
    return {
        "id": np.array([f"clip{i}.mp3" for i in range(clips)]),
        "copy": np.zeros(clips, np.int32),
        "frames": np.ceil(seconds * 100 + 1.25).astype(np.int32),
        "tokens": np.maximum(1, np.round(seconds * rng.normal(2.5, 0.5, clips))).astype(np.int32),
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


def test_clips_of_whole_timestamps_fill_a_window_to_its_last_frame():
    """999 frames take 1000, and three times that is a window."""
    index = {"id": np.array(list("abcdef")), "copy": np.zeros(6, int), "frames": np.full(6, 999), "tokens": np.ones(6)}
    assert [len(rows) for rows in plan_epoch(index, seed=0, epoch=0, windows="packed").rows] == [3, 3]
    assert slot_frames(np.array([1, 999, 1000, 2999, 3000])).tolist() == [2, 1000, 1000, 3000, 3000]


@pytest.mark.parametrize("lengths", [common_voice_like_index, normal_index])
@pytest.mark.parametrize("single", [0.0, 0.1])
def test_packing_fills_97_percent_of_the_frames_at_common_voices_lengths(lengths, single):
    """Of the windows that are not single by request; alignment to even frames counts as empty. No shard is read."""
    index = lengths(10_000)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", single=single)
    packed = [rows for rows in plan.rows if len(rows) > 1]
    assert index["frames"][np.concatenate(packed)].sum() / (len(packed) * N_FRAMES) >= 0.97
    assert (len(plan) - len(packed)) / len(plan) == pytest.approx(single, abs=0.005)


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


def test_padded_windows_hold_one_clip_and_neither_timestamps_nor_prompts():
    plan = plan_epoch(common_voice_like_index(50), seed=0, epoch=0, windows="padded", timestamps=1.0, prompts=1.0)
    assert [len(rows) for rows in plan.rows] == [1] * 50
    assert not plan.timestamps.any()
    assert not plan.prompted.any()


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


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_share_of_windows_is_prompted_with_the_window_before_and_the_first_never(share):
    index = common_voice_like_index(4000)
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", prompts=share)
    assert plan.prompted.mean() == pytest.approx(share, abs=0.05)
    assert not plan.prompted[0]
    for window in range(len(plan)):
        want = plan.rows[window - 1].tolist() if plan.prompted[window] else []
        assert plan.previous(window).tolist() == want


def test_prompts_change_nothing_else_in_a_plan():
    index = common_voice_like_index(500)
    plain, prompted = (
        plan_epoch(index, seed=0, epoch=0, windows="packed", timestamps=0.5, prompts=share) for share in (0.0, 0.5)
    )
    assert [rows.tolist() for rows in plain.rows] == [rows.tolist() for rows in prompted.rows]
    assert plain.timestamps.tolist() == prompted.timestamps.tolist()


def test_the_text_before_is_read_and_not_taught():
    """<|startofprev|> text <|startoftranscript|> …: the first thing taught is what follows <|startoftranscript|>."""
    before = [record(1.0, [30, 31])[0], record(1.0, [32], seed=1)[0]]
    window = assemble([record(2.0, [10, 11])[0]], False, PROMPT, 80, 16, before)
    read = [50_361, 30, 31, 32, 50_258, 50_274, 50_359, 50_363, 10, 11]
    assert window.tokens_L.tolist() == read + [50_257] * 6
    assert window.labels_L.tolist() == [IGNORE] * 4 + [50_274, 50_359, 50_363, 10, 11, 50_257] + [IGNORE] * 6


def test_a_prompt_leaves_features_and_taught_tokens_as_they_are():
    clips, before = [record(2.0, [10, 11])[0]], [record(1.0, [30, 31])[0]]
    plain, prompted = (assemble(clips, True, PROMPT, 80, 32, previous) for previous in ([], before))
    np.testing.assert_array_equal(prompted.log_mel_q_FM, plain.log_mel_q_FM)
    taught = [window.labels_L[window.labels_L != IGNORE].tolist() for window in (plain, prompted)]
    assert taught[0] == taught[1]


@pytest.mark.parametrize(
    ("text", "own", "length", "kept"),
    [
        (300, 10, 448, 223),  # Whisper's own limit
        (300, 400, 448, 43),  # 4 of the head and 400: 44 are left, one of them for <|startofprev|>
        (300, 443, 448, 0),  # one is left: no token fits behind <|startofprev|>
        (300, 444, 448, 0),  # full
        (5, 10, 448, 5),
        (0, 10, 448, 0),  # nothing was said before
    ],
)
def test_a_prompt_keeps_its_end_where_it_is_too_long(text, own, length, kept):
    before = list(range(1000, 1000 + text))
    window = assemble([record(1.0, [7] * own)[0]], False, PROMPT, 80, length, [record(1.0, before, seed=1)[0]])
    start = window.tokens_L.tolist().index(PROMPT.start)
    prompt = [PROMPT.previous, *before[text - kept :]] if kept else []
    assert window.tokens_L[:start].tolist() == prompt
    assert (window.labels_L != IGNORE).sum() == own + 4
    assert window.labels_L[start] == PROMPT.language
    assert (window.labels_L[:start] == IGNORE).all()


def test_label_length_holds_prompts_too():
    """60 text tokens a clip: 120, two timestamps a clip, three around the window, and 61 of prompt are 188."""
    index = {"tokens": np.full(6, 60)}
    rows = [np.array(window) for window in ([0], [1, 2], [3], [4, 5])]
    no, last = np.zeros(4, bool), np.arange(4) == 3
    assert label_length(EpochPlan(rows, no, no), index, multiple=1) == 120 + 4 + 3
    assert label_length(EpochPlan(rows, no, last), index, multiple=1) == 120 + 4 + 3 + 61


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


def test_a_packed_window_of_recordings_equals_the_extractor_on_their_concatenated_audio(small_shards, sample_corpus):
    """From files on disk to the array a model sees, by the plan of a run; tolerance and seams as above."""
    shards = Shards.open(small_shards, "train")
    clean = np.flatnonzero(shards.index["copy"] == 0)
    plan = plan_epoch({name: column[clean] for name, column in shards.index.items()}, seed=0, epoch=0, windows="packed")
    rows = clean[max(plan.rows, key=len)]
    pieces, seams, first = [], [], 0
    for row in rows:
        native, rate = decode(sample_corpus / "clips" / shards.index["id"][row])
        slot = int(slot_frames(shards.index["frames"][row]))
        audio = resample(native, rate)
        pieces.append(np.pad(audio, (0, slot * HOP_LENGTH - len(audio))))
        first += slot
        seams += [first - 2, first - 1, first, first + 1]
    assert len(rows) > 3
    assert first / N_FRAMES > 0.9
    run = RunPlan([EpochPlan([rows], np.ones(1, bool), np.zeros(1, bool))], 448, steps=1, batch_size=1)
    window = Windows(shards, run, PROMPT)[0]
    got = restore(jnp.asarray(window.log_mel_q_FM)[None], jnp.asarray(window.log_mel_max_F)[None])[0]
    want = WhisperFeatureExtractor()(np.concatenate(pieces), sampling_rate=16_000, return_tensors="np")
    away = np.setdiff1d(np.arange(N_FRAMES), seams)
    np.testing.assert_allclose(np.asarray(got)[away], want.input_features[0].T[away], rtol=0, atol=1 / 255 + 2e-5)


def test_an_empty_window_teaches_nothing_and_is_silence():
    window = assemble([], False, PROMPT, 80, 8)
    assert (window.labels_L == IGNORE).all()
    silent = restore(jnp.asarray(window.log_mel_q_FM)[None], jnp.asarray(window.log_mel_max_F)[None])
    np.testing.assert_array_equal(np.asarray(silent), -1.5)


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        ([100, 7, 8, 150], [(0.0, 1.0)]),
        ([100, 7, 150, 150, 8, 200], [(0.0, 1.0), (1.0, 2.0)]),
        ([], []),
        ([7, 8], None),  # text outside
        ([100, 7], None),  # never closed
        ([150, 7, 100], None),  # backwards
        ([100, 7, 150, 120, 8, 200], None),  # before the end of the last
    ],
)
def test_the_ablations_segments_are_whole_and_in_order(tokens, want):
    """100 is <|0.00|>, each step 20 ms."""
    assert segments(tokens, first_timestamp=100) == want
