"""The picture of a run: the curves lie where the numbers say, and a bad run is said."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from data.errors import UserError
from jax_train.curves import (
    COLOURS,
    HEAD,
    LEFT,
    PANEL_HEIGHT,
    PICTURE,
    RIGHT,
    TOP,
    WIDTH,
    CurvesConfig,
    curves,
    headline,
    limits,
    number,
    panels_of,
    run_rows,
    smooth,
    ticks,
)


def rows_of(steps: int, evaluate_every: int = 0) -> list[dict]:
    """A loss that falls in a straight line from 3 to 1, a rate that rises to 2.5e-5, now and then a WER."""
    rows = []
    for step in range(1, steps + 1):
        done = (step - 1) / max(1, steps - 1)
        rows.append({"step": step, "loss": 3 - 2 * done, "learning_rate": 2.5e-5 * done, "tokens": 10})
        if evaluate_every and step % evaluate_every == 0:
            rows.append({"step": step, "wer": 40 - 20 * done, "wer_normalised": 30 - 20 * done})
    return rows


def write(folder, rows, end=""):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return folder


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    """Places (y, x) of the pixels of a colour, scaled-down edges left out."""
    return np.argwhere(np.abs(picture.astype(int) - ImageColor.getrgb(colour)).sum(2) < 30)


def test_a_straight_fall_is_drawn_as_one_from_corner_to_corner(tmp_path):
    run = write(tmp_path / "run", rows_of(300, 50))
    said = curves(CurvesConfig(run))
    assert "step 300,  loss 1.0" in said
    assert "WER as written 20.00 % (best 20.00 %)" in said
    assert sorted(path.name for path in run.iterdir()) == [PICTURE, "metrics.jsonl"]
    picture = np.asarray(Image.open(run / PICTURE))
    assert picture.shape[1] == WIDTH
    loss = coloured(picture[HEAD + TOP : HEAD + PANEL_HEIGHT], COLOURS[0])
    ends = loss[:, 1].min(), loss[:, 1].max()
    assert ends == pytest.approx((LEFT, WIDTH - RIGHT), abs=8)  # the last points lie over the line's end
    assert np.corrcoef(loss[:, 0], loss[:, 1])[0, 1] > 0.99  # down the picture as the steps go on
    normalised = coloured(picture[HEAD + 2 * PANEL_HEIGHT :], COLOURS[1])
    assert len(normalised) > 500


def test_the_last_wer_is_not_taken_for_the_best():
    rows = [{"step": step, "wer": wer, "wer_normalised": wer - 9} for step, wer in ((2, 40.0), (4, 25.5), (6, 31.0))]
    assert headline(rows).startswith("step 6,  WER as written 31.00 % (best 25.50 %),  WER normalised 22.00 % (best 16")


def test_a_run_without_evaluations_has_two_panels_and_one_of_a_single_step_is_drawn(tmp_path):
    assert [panel.title for panel in panels_of(rows_of(20))] == ["training loss, nats per token", "learning rate"]
    assert len(panels_of(rows_of(20, 5))[2].series) == 2
    for steps in (1, 2):
        run = write(tmp_path / str(steps), rows_of(steps))
        curves(CurvesConfig(run))
        assert len(coloured(np.asarray(Image.open(run / PICTURE)), COLOURS[0])) > 20


def test_the_last_line_of_a_killed_run_is_left_out(tmp_path):
    run = write(tmp_path / "run", rows_of(7), end='{"step": 8, "lo')
    assert curves(CurvesConfig(run)).startswith("step 7, ")


def test_values_that_are_no_numbers_are_left_out():
    rows = [*rows_of(5), {"step": 6, "loss": float("nan"), "learning_rate": None}]
    (loss, rate) = panels_of(rows)
    assert loss.series[0].steps.tolist() == rate.series[0].steps.tolist() == [1, 2, 3, 4, 5]
    assert headline(rows).startswith("step 6,  loss 1.000")


def test_a_wild_point_does_not_flatten_the_loss():
    rows = rows_of(1000)
    rows[500]["loss"] = 1e4
    low, high = limits(panels_of(rows)[0])
    assert 0 <= low < 1
    assert high < 400  # its share in the running mean of 41 points; unclipped it would be 10,000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _path: None, "no such run folder"),
        (lambda path: path.mkdir(), r"no metrics\.jsonl in it"),
        (lambda path: write(path, []), "holds no whole line yet"),
        (lambda path: write(path, [], end='{"step": 1, "lo'), "holds no whole line yet"),
        (lambda path: write(path, rows_of(2), end="{{\n"), r"'\{\{' is not JSON"),
        (lambda path: write(path, [*rows_of(2), {"loss": 1.0}]), r'\{"loss": 1\.0\} has no step'),
        (lambda path: write(path, [*rows_of(2), [1]]), r"\[1\] has no step"),
        (lambda path: write(path, [{"step": 1, "loss": float("inf")}]), "nothing to draw"),
    ],
)
def test_a_bad_run_is_said_and_leaves_no_picture(tmp_path, make, message):
    run = tmp_path / "run"
    make(run)
    with pytest.raises(UserError, match=message):
        curves(CurvesConfig(run))
    assert not (run / PICTURE).exists()


def test_metrics_that_are_not_text_are_said(tmp_path):
    run = write(tmp_path / "run", [])
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(UserError, match=re.escape("not text")):
        run_rows(run)


def test_the_smoothed_line_is_the_mean_of_its_neighbours():
    """4 % of 100 points: two on either side, fewer at the ends."""
    values = np.random.default_rng(0).normal(size=100)
    got = smooth(values)
    for place in (0, 1, 2, 50, 99):
        assert got[place] == pytest.approx(values[max(0, place - 2) : place + 3].mean())
    np.testing.assert_allclose(smooth(values[:10]), values[:10])


def test_ticks_are_round_numbers():
    assert ticks(0.13, 2.4, 5) == [0.5, 1.0, 1.5, 2.0]
    assert ticks(0.0, 2.65e-5, 5) == [0.0, 1e-5, 2e-5]
    assert ticks(1, 1800, 10) == [200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800]
    assert [number(value) for value in (0.0, 0.5, 2e-5, 2.5e-6, 12, 1800, 2e7)] == [
        "0", "0.5", "2e-5", "2.5e-6", "12", "1,800", "2e7",
    ]  # fmt: skip
