"""The bootstrap against jiwer on every resample, against SciPy's, and against values worked out by hand."""

import jiwer
import numpy as np
import pytest
import scipy.stats

from jax_train.bootstrap import FEWEST_CLIPS, FEWEST_SPEAKERS, compared, interval, per_speaker, resampled_sums
from jax_train.scores import aligned

REFERENCES = ["perché no", "c'è il sole", "buongiorno a tutti quanti", "e poi", "la casa di mio nonno è grande"]
HYPOTHESES = ["perche no", "c'è sole", "buongiorno a tutti quanti", "e poi poi poi", "casa di mio nonno e grandi"]
OTHERS = ["perché no", "il sole", "buon giorno a tutti", "poi", "la casa del nonno è grande"]


@pytest.fixture(scope="module")
def edits():
    return aligned(REFERENCES, HYPOTHESES)


@pytest.fixture(scope="module")
def many():
    """Errors and words of 400 made clips, a tenth of the words wrong in most and half in some."""
    rng = np.random.default_rng(3)
    words = rng.integers(2, 20, 400)
    return rng.binomial(words, np.where(np.arange(400) % 8, 0.1, 0.5)), words


def test_every_resample_has_the_score_that_jiwer_gives_its_clips(edits):
    sums = resampled_sums(np.stack([edits.errors, edits.words], axis=1), 50, seed=7)
    for drawn, (errors, words) in zip(np.random.default_rng([7, 5]).integers(5, size=(50, 5)), sums, strict=True):
        rate = jiwer.wer([REFERENCES[clip] for clip in drawn], [HYPOTHESES[clip] for clip in drawn])
        assert errors / words == pytest.approx(rate, rel=1e-12)  # one division apart


def test_the_interval_is_scipys_percentile_interval(many):
    """0.35 points: ten times a bound's error by 20,000 draws, about 0.03, of an interval about 2.9 wide."""
    errors, words = many
    want = scipy.stats.bootstrap(
        many,
        lambda errors, words, axis: 100 * errors.sum(axis) / words.sum(axis),
        n_resamples=20_000,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = interval(errors, words)
    assert (low, high) == pytest.approx(tuple(want), abs=0.35)
    assert low < 100 * errors.sum() / words.sum() < high
    assert 2 < high - low < 4


def test_the_same_seed_gives_the_same_interval_and_blocks_do_not_matter(many, monkeypatch):
    first = interval(*many)
    monkeypatch.setattr("jax_train.bootstrap.BLOCK_DRAWS", 1500)  # three resamples at once
    assert interval(*many) == first
    assert interval(*many, seed=1) != first


def test_clips_without_words_have_no_interval_and_do_not_break_others():
    """By hand: a resample of five clips with 4 words and one error, and five without words but with one each."""
    words, errors = np.repeat([4, 0], 5), np.ones(10, int)
    assert interval(errors, words[::-1] * 0) is None
    low, high = interval(errors, words)  # 10 errors over 4 words for each of the five that were drawn
    assert 100 * 10 / (4 * 10) <= low < 50 < high <= 100 * 10 / 4


def test_of_fewer_than_five_clips_with_words_there_is_a_difference_but_no_certainty():
    """One clip drawn again and again is always itself: p = 0.001 and an interval without width."""
    words, right, wrong = np.full(FEWEST_CLIPS, 4), np.zeros(FEWEST_CLIPS, int), np.full(FEWEST_CLIPS, 2)
    for clips in range(1, FEWEST_CLIPS):
        assert interval(wrong[:clips], words[:clips]) is None
        found = compared(wrong[:clips], right[:clips], words[:clips]).as_json()
        assert found == {"difference": -50, "interval": None, "p_value": None, "improved": None}
    assert interval(wrong, words) == (50, 50)
    assert compared(wrong, right, words).interval == (-50, -50)
    without = np.where(np.arange(FEWEST_CLIPS) == 0, 0, words)  # a clip without words does not count
    assert interval(wrong, without) is None
    assert compared(wrong, right, without).p_value is None


def test_speakers_are_drawn_with_all_their_clips():
    speakers = np.array([f"speaker {clip // 3}" for clip in range(3 * FEWEST_SPEAKERS)])
    values = np.arange(2 * len(speakers)).reshape(-1, 2)
    sums = per_speaker(values, speakers)
    names = sorted(set(speakers))
    want = [values[speakers == name].sum(axis=0).tolist() for name in names]
    assert sums.tolist() == want
    assert per_speaker(values[3:], speakers[3:]) is None  # one too few
    assert per_speaker(values, np.append(speakers[:-1], "")) is None  # one unknown


def test_clips_that_err_alike_by_speaker_widen_the_interval_over_speakers():
    """Forty speakers, half of them wrong in all of ten clips: by hand, sqrt(10) times as wide; ±20 % by 40 draws."""
    errors, words = np.repeat(np.tile([0, 4], 20), 10), np.full(400, 4)
    speakers = np.repeat([f"{number:02}" for number in range(40)], 10)
    of_clips = np.ptp(interval(errors, words))
    of_speakers = np.ptp(interval(*per_speaker(np.stack([errors, words], axis=1), speakers).T))
    assert of_speakers / of_clips == pytest.approx(np.sqrt(10), rel=0.2)


def test_the_p_value_of_five_clips_is_the_enumerated_one():
    """B has one error less in one of five clips: (4/5)^5 of the draws show none, and p is twice that.

    Drawn three times or more it is in 5.8 % of them, four times or more in 0.7 %: the interval ends at three.
    0.07: three standard errors of 2000 draws are 0.032, twice that in p.
    """
    found = compared(np.ones(5, int), np.array([0, 1, 1, 1, 1]), np.full(5, 4))
    assert found.difference == pytest.approx(-5)
    assert found.p_value == pytest.approx(2 * 0.8**5, abs=0.07)
    assert found.improved == pytest.approx(1 - 0.8**5, abs=0.035)
    assert found.interval == (-15, 0)


def test_the_same_predictions_do_not_differ(many):
    found = compared(many[0], many[0], many[1])
    assert (found.difference, found.interval, found.p_value, found.improved) == (0, (0, 0), 1, 0)


def test_the_difference_is_that_of_the_two_scores_and_turns_with_the_sides(edits):
    other = aligned(REFERENCES, OTHERS)
    found, turned = (compared(a.errors, b.errors, a.words) for a, b in ((edits, other), (other, edits)))
    assert found.difference == pytest.approx(100 * (jiwer.wer(REFERENCES, OTHERS) - jiwer.wer(REFERENCES, HYPOTHESES)))
    assert turned.difference == -found.difference
    assert turned.p_value == found.p_value
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_a_clear_difference_has_a_small_p_value_and_chance_rarely_has(many):
    """Of 200 comparisons of two equally good models 5 % should fall below 0.05; 1 to 10 % is three deviations."""
    errors, words = many
    better, worse = compared(errors, errors // 2, words), compared(errors // 2, errors, words)
    assert better.p_value == worse.p_value == pytest.approx(2 / 2001)  # no resample of 2000, and the sample itself
    assert (better.improved, worse.improved) == (1, 0)
    assert compared(errors, errors[::-1], words, seed=1).interval != compared(errors, errors[::-1], words).interval
    rng = np.random.default_rng(5)
    p_values = [
        compared(*rng.binomial(words, 0.1, (2, len(words))), words, resamples=500, seed=trial).p_value
        for trial in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1
