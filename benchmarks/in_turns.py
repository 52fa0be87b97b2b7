"""Medians of what is timed in turns: a machine whose speed moves then moves it for all."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(runs: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Each run's median time over so many turns, after one that compiles and is not timed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(of_run) for name, of_run in times.items()}
