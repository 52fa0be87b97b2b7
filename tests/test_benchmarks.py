"""The benchmarks, at their smallest: each runs to its end and says something. What they measure is not looked at."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, THOROUGH
from tests.test_readme import environment

QUICK = {
    "attention": "--windows 1 --repeats 1",
    "augment": "--repeats 1",
    "featurize_memory": "--rows 10 20",
    "input": "--clips 200 --plan-clips 1000 --workers 0 1 --seconds 1",
}
SLOW = {
    "decode": "--model {model} --clips 2 --turns 1 --peer-batches 2 --most-different 2",
    "eight_bits": "--limit 1",
    "featurize": "--corpus {folder}/joined --clips 4 --peer-clips 2 --rounds 1 --workers 1",
    "serve": "--turns 1 --clips 1 --minutes 0 --arms ours pipeline",
    "train": "--clips 10 --batch-size 1 --steps 1 --turns 1 --arms padded peer",
}


@pytest.mark.parametrize("name", [*QUICK, *(SLOW if THOROUGH else ())])
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path, terse_model_dir: Path) -> None:
    options = (QUICK | SLOW)[name].format(folder=tmp_path, model=terse_model_dir)
    words = ["make", f"bench-{name}", f"ARGS={options}"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
