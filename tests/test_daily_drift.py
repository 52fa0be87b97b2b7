"""Errors that rose and speech that drifted: intervals and tests against SciPy's, told where they belong."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from daily.drift import KINDS, MEASURES, drift
from daily.intervals import excess, rate
from daily.snapshot import snapshot
from daily.store import Store
from tests.made_store import Clip, add_day, day_of, drawn_clips, made_store
from tests.test_daily_snapshot import warnings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_store(tmp_path / "store")


def test_an_interval_is_that_of_scipys_bootstrap() -> None:
    """0.4 points: twice what the ends of two bootstraps of 2,000 draws differ by here (their own deviation is 0.15)."""
    rng = np.random.default_rng(0)
    words_C = rng.integers(3, 12, 300)
    errors_C = rng.binomial(words_C, 0.2)
    want = stats.bootstrap(
        (errors_C, words_C), lambda e, w, axis: 100 * e.sum(axis) / w.sum(axis), paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", random_state=1,
    ).confidence_interval  # fmt: skip
    found = rate(errors_C, words_C, rng)
    assert found.wer == pytest.approx(100 * errors_C.sum() / words_C.sum())
    np.testing.assert_allclose((found.low, found.high), want, rtol=0, atol=0.4)


def test_the_interval_of_a_difference_of_equal_days_leaves_out_zero_about_once_in_twenty() -> None:
    """1 to 12 of 100: 5 are expected, with a deviation of 2.2; a bootstrap of few clips is a little too narrow."""
    rng = np.random.default_rng(1)
    outside = 0
    for _ in range(100):
        words_C, words_D = rng.integers(3, 12, 30), rng.integers(3, 12, 90)
        day = rng.binomial(words_C, 0.2), words_C
        before = rng.binomial(words_D, 0.2), words_D
        difference, low, high = excess(day, before, rng)
        assert low <= difference <= high
        outside += not low <= 0 <= high
    assert 1 <= outside <= 12


def test_a_rise_of_the_word_error_rate_is_told_and_a_fall_is_not(store: Store) -> None:
    rng = np.random.default_rng(2)
    for number, error_rate in enumerate([0.2, 0.2, 0.2, 0.2, 0.5, 0.05]):
        add_day(store, day_of(number), drawn_clips(rng, 40, error_rate))
    assert warnings(store, day_of(3)) == []
    assert warnings(store, day_of(5)) == []
    (told,) = snapshot(store, day_of(4))[0]["warnings"]
    assert (told["kind"], told["day"], told["days"]) == ("wer_rose", day_of(4), 4)
    assert told["difference"] == pytest.approx(told["wer"] - told["before"])
    assert 0 < told["low"] < told["difference"] < told["high"]


def test_a_day_is_compared_with_the_fourteen_before_it(store: Store) -> None:
    """The two days before those were noisy, and nothing on them was heard rightly."""
    for number in range(16):
        add_day(store, day_of(number), [Clip(errors=4, snr_db=0.0)] * 10 if number < 2 else [Clip()])
    add_day(store, day_of(16), [Clip(errors=1)] * 10)
    shown, _ = snapshot(store, day_of(16))
    (told,) = [warning for warning in shown["warnings"] if warning["kind"] == "wer_rose"]
    assert (told["days"], told["before"], told["wer"]) == (14, 0.0, 25.0)
    (noise,) = [row for row in shown["drift"]["rows"] if row["feature"] == "snr_db"]
    assert (shown["drift"]["days"], noise["before"]) == (14, 20.0)


def test_nothing_is_told_of_a_rise_on_a_day_of_few_clips(store: Store) -> None:
    """Whose interval is a point, or so narrow that every other such day would be told."""
    add_day(store, day_of(0), [Clip()] * 9)
    add_day(store, day_of(1), [Clip(errors=4)] * 9)
    add_day(store, day_of(2), [Clip(errors=4)] * 10)
    assert [row["low"] for row in snapshot(store, day_of(1))[0]["days"]] == [0.0, 100.0]
    assert [[kind for kind in warnings(store, day_of(day)) if kind == "wer_rose"] for day in (1, 2)] == [
        [],
        ["wer_rose"],
    ]


def test_noisier_speech_is_told_as_drift_and_the_same_speech_is_not(store: Store) -> None:
    rng = np.random.default_rng(3)
    for number, snr_db in enumerate([20.0, 20.0, 20.0, 14.0]):
        add_day(store, day_of(number), drawn_clips(rng, 30, 0.2, snr_db))
    assert warnings(store, day_of(2)) == []
    shown, _ = snapshot(store, day_of(3))
    assert shown["warnings"] == [{"kind": "drifted", "features": ["snr_db"]}]
    (row,) = [row for row in shown["drift"]["rows"] if row["differs"]]
    assert row["today"] == pytest.approx(14, abs=2)  # three deviations of a mean of 30, of deviation 3
    assert row["before"] == pytest.approx(20, abs=1)


def test_quiet_days_are_no_days_to_compare(store: Store) -> None:
    rng = np.random.default_rng(3)
    add_day(store, day_of(0), [])
    assert snapshot(store, day_of(0))[0]["drift"] is None
    for number in (1, 2):
        add_day(store, day_of(number), drawn_clips(rng, 10, 0.2))
    add_day(store, day_of(3), [])
    shown, _ = snapshot(store, day_of(3))
    assert (shown["drift"]["day"], shown["drift"]["days"]) == (day_of(2), 1)
    assert shown["clip"]["day"] == day_of(2)


def table(rng: np.random.Generator, clips: int, share: float) -> dict[str, np.ndarray]:
    measures = {name: rng.normal(size=clips) for name in MEASURES}
    return measures | {name: np.where(rng.random(clips) < share, "a", "b") for name in KINDS}


def test_distances_and_their_p_values_are_scipys() -> None:
    """For two kinds the p-value is a sum over the hypergeometric distribution; 0.02: four deviations of 9,999 draws."""
    rng = np.random.default_rng(4)
    today, before = table(rng, 25, 0.3), table(rng, 200, 0.5)
    found = {row.feature: row for row in drift(today, before, rng)}
    for name in MEASURES:
        places = np.concatenate([today[name], before[name]])
        below = [np.mean(values[:, None] <= places, axis=0) for values in (today[name], before[name])]
        assert found[name].distance == pytest.approx(np.abs(below[0] - below[1]).max())
        assert found[name].p == pytest.approx(stats.ks_2samp(today[name], before[name], method="exact").pvalue)
    for name in KINDS:
        here, there = int(np.sum(today[name] == "a")), int(np.sum(before[name] == "a"))
        drawn = np.arange(26)
        distances = np.abs(drawn / 25 - (here + there - drawn) / 200)
        assert found[name].distance == pytest.approx(distances[here])
        chances = stats.hypergeom(225, here + there, 25).pmf(drawn)
        assert found[name].p == pytest.approx(chances[distances >= distances[here] - 1e-9].sum(), abs=0.02)


def test_days_that_are_alike_are_rarely_called_different() -> None:
    """At most 3 of 50: half of one is expected."""
    rng = np.random.default_rng(5)
    told = sum(any(row.differs for row in drift(table(rng, 20, 0.5), table(rng, 200, 0.5), rng)) for _ in range(50))
    assert told <= 3
