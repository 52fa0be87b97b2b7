"""A confidence model's two pictures: whether its estimates come true, and what is trusted rightly and wrongly."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.figure import Figure
from scipy.stats import binomtest

MOST_BINS, CLIPS_A_BIN = 10, 10
TRUSTED, DOUBTED = "trusted", "doubted"


def draw_calibration(path: Path, estimate_C: Float64[np.ndarray, "C"], right_C: Bool[np.ndarray, "C"]) -> None:
    """Of transcripts with about the same estimate the share that is right, with 95 % intervals (Wilson)."""
    order = np.argsort(estimate_C, kind="stable")
    bins = np.array_split(order, max(1, min(MOST_BINS, len(order) // CLIPS_A_BIN)))
    estimates = np.array([estimate_C[places].mean() for places in bins])
    shares = np.array([right_C[places].mean() for places in bins])
    found = [binomtest(int(right_C[p].sum()), len(p)).proportion_ci(method="wilson") for p in bins]
    below, above = (np.array([limit[side] for limit in found]) for side in (0, 1))
    figure = Figure((4.8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="as estimated")
    axes.errorbar(
        estimates, shares, [shares - below, above - shares], fmt="o-", capsize=3, label="held-out transcripts"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="estimate", ylabel="share that is right", title="Do estimates come true?")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def draw_confusion(path: Path, confusion: dict[str, dict[str, int]]) -> None:
    """The four counts: trusted or not, right or wrong."""
    rows, columns = (TRUSTED, DOUBTED), ("right", "wrong")
    counts = np.array([[confusion[row][column] for column in columns] for row in rows])
    figure = Figure((4.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(counts / max(1, counts.max()), cmap="Blues", vmin=0, vmax=1.6)
    for (row, column), count in np.ndenumerate(counts):
        share = f"{100 * count / max(1, counts[row].sum()):.0f} % of the {rows[row]}"
        axes.text(column, row, f"{count}\n{share}", ha="center", va="center")
    axes.set_xticks((0, 1), columns)
    axes.set_yticks((0, 1), rows)
    axes.set_title("Held-out transcripts")
    figure.savefig(path, dpi=120)
