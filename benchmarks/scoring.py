"""What the first scores of a process cost, by our metric as it is loaded and by a plain `import evaluate`.

Seconds and memory from before the metric is imported to two scores of one clip; each in a process of its own, in turns.

    make bench-scoring [ARGS="--turns 3"]
"""

import dataclasses
import json
import statistics
import subprocess
import sys

import tyro

from benchmarks.result import result_line
from data.errors import command

PROGRAM = """
import json, resource, sys, time
import jax_train.scores
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
started, before = time.perf_counter(), memory()
if sys.argv[1] == "peer":
    import evaluate
jax_train.scores.scores(["uno due"], ["uno"])
print(json.dumps([time.perf_counter() - started, memory() - before]))
"""


@dataclasses.dataclass(frozen=True)
class ScoringBenchmark:
    """Seconds and megabytes of the first scores."""

    turns: int = 3
    """Processes of each kind, after one that is not counted; the median counts."""


def cost(arm: str) -> tuple[float, float]:
    """Seconds and megabytes in a fresh process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, arm], capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


@command
def main() -> None:
    config = tyro.cli(ScoringBenchmark)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for _ in range(config.turns + 1):
        for arm, costs in found.items():
            costs.append(cost(arm))
    medians = {arm: [statistics.median(side) for side in zip(*costs[1:], strict=True)] for arm, costs in found.items()}
    for name, arm in (("as scores.py loads it", "ours"), ("import evaluate", "peer")):
        print(f"{name:24}{medians[arm][0]:6.2f} s {medians[arm][1]:6.0f} MB")
    more = {"megabytes": {arm: median[1] for arm, median in medians.items()}}
    print(result_line("scoring", "s", medians["ours"][0], medians["peer"][0], less_is_better=True, more=more))


if __name__ == "__main__":
    main()
