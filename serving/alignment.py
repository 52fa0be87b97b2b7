"""When each word was said: the decoder's attention to the sound, warped into order (as openai/whisper, timing.py).

H heads, L tokens, S encoder positions (20 ms each).
"""

import numpy as np
from numpy.typing import NDArray

SECONDS_A_POSITION = 0.02
MEDIAN_WIDTH = 7  # positions
# What to put in order, and when, until the fourth is the median (N. Devillard, "Fast median search", 1998).
MEDIAN_PAIRS = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))


def token_times(weights_HLS: NDArray[np.float32]) -> list[float]:
    """Seconds at which each token begins; the last row's is where the text ends."""
    deviation = weights_HLS.std(axis=1, keepdims=True)
    normal_HLS = (weights_HLS - weights_HLS.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-10)
    path = warp(-_median(normal_HLS).mean(axis=0))
    starts, seconds = [], SECONDS_A_POSITION
    for (token, position), (before, _) in zip(path, [(-1, 0), *path[:-1]], strict=True):
        if token != before:
            starts.append(round(position * seconds, 2))
    return starts


def _median(x_HLS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each seven neighbours the median, by comparing them in pairs: a seventh of the time of `np.median`."""
    half = MEDIAN_WIDTH // 2
    if x_HLS.shape[-1] <= half:
        return x_HLS
    padded = np.pad(x_HLS, ((0, 0), (0, 0), (half, half)), mode="reflect")
    seven = [padded[..., shift : shift + x_HLS.shape[-1]] for shift in range(MEDIAN_WIDTH)]
    for low, high in MEDIAN_PAIRS:
        seven[low], seven[high] = np.minimum(seven[low], seven[high]), np.maximum(seven[low], seven[high])
    return seven[half]


def warp(cost_LS: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The cheapest way from the first token at the first position to the last at the last, stepping forward in either
    or both: dynamic time warping."""
    rows, columns = cost_LS.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # Along an anti-diagonal nothing depends on anything else, so a whole one is computed at a time.
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        best = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = cost_LS[i, j] + best
    i, j, path = rows, columns, []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        steps = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
        step = int(np.argmin(steps))
        i, j = i - (step != 2), j - (step != 1)
    return path[::-1]
