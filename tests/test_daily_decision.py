"""What decides on a challenger: surely better on test and no worse on guard, told with its figures."""

from pathlib import Path

import pytest

from daily import training
from daily.decision import Difference, decide
from tests.scripted_training import write


def difference(champion: float, challenger: float, low: float, high: float) -> Difference:
    return Difference(80, champion, challenger, challenger - champion, (low, high), 0.01)


@pytest.mark.parametrize(
    ("test", "guard", "promoted"),
    [
        (difference(20, 18, -3, -1), difference(9, 9, 0, 0), True),
        (difference(20, 18, -3, -1), difference(9, 8, -2, 1), True),
        (difference(20, 19, -3, 0.5), difference(9, 8, -2, -1), False),  # it may be chance
        (difference(20, 20, 0, 0), difference(9, 8, -2, -1), False),
        (difference(20, 18, -3, -1), difference(9, 9.1, -1, 1.2), False),  # better, but worse on real speech
    ],
)
def test_a_challenger_is_promoted_if_surely_better_on_test_and_no_worse_on_guard(
    test: Difference, guard: Difference, promoted: bool
) -> None:
    assert decide(test, guard).promoted is promoted
    assert decide(test, guard, margin=0.2).promoted is (promoted or guard.challenger == 9.1)
    assert decide(test, guard, margin=max(0.0, guard.difference)).promoted is decide(test, guard, margin=9.0).promoted


def test_a_challenger_compared_on_too_few_clips_for_an_interval_is_not_promoted() -> None:
    compared = {"difference": -5.0, "interval": None, "p_value": None, "improved": None}
    sides = {"a": {"wer_normalised": 20.0}, "b": {"wer_normalised": 15.0}}
    few = Difference.of(sides | {"clips": 4, "over_clips": {"wer_normalised": compared}})
    decision = decide(few, few)
    assert not decision.promoted
    assert decision.reason == (
        "not promoted: not surely better on test: WER 20.00 → 15.00 %, -5.00 points (no interval of 4 clips: too few); "
        "no worse on guard: WER 20.00 → 15.00 %, -5.00 points (no interval of 4 clips: too few)"
    )


def test_a_decision_is_told_with_its_figures() -> None:
    reason = decide(difference(20, 18.5, -2.25, -0.75), difference(9, 9.1, -1, 1.2)).reason
    assert reason == (
        "not promoted: better on test: WER 20.00 → 18.50 %, -1.50 points (95 %: -2.25 to -0.75); "
        "worse on guard: WER 9.00 → 9.10 %, +0.10 points (95 %: -1.00 to +1.20)"
    )


def test_only_scores_of_enough_clips_have_bounds(tmp_path: Path) -> None:
    rates = {"wer_normalised": 20.0, "cer_normalised": 10.0}
    for split, interval in (("test", [9.0, 22.5]), ("guard", None)):
        intervals = {"over_clips": dict.fromkeys(rates, interval)}
        write(tmp_path / f"evaluate-{split}" / "scores.json", rates | {"intervals": intervals})
    assert training._metrics(tmp_path) == {
        "test_wer": 20.0, "test_wer_low": 9.0, "test_wer_high": 22.5, "guard_wer": 20.0,
        "test_cer": 10.0, "test_cer_low": 9.0, "test_cer_high": 22.5, "guard_cer": 10.0,
    }  # fmt: skip
