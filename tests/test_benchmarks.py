"""The benchmarks, at their smallest: each ends with a line of results. What they measure is not looked at."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accelerator import run_one
from benchmarks.result import result_line
from tests.conftest import REPOSITORY, THOROUGH
from tests.test_readme import environment

QUICK = {
    "accelerator": "--runs 'input --clips 50 --plan-clips 100 --workers 0 --seconds 0.5' --out {folder}/found.json",
    "augment": "--repeats 1",
    "featurize_memory": "--rows 10 20",
    "input": "--clips 200 --plan-clips 1000 --workers 0 1 --seconds 1",
    **({"tpu": "--schedule --chips 2"} if sys.platform == "linux" and platform.machine() == "x86_64" else {}),
}
SLOW = {
    "attention": "--windows 1 --repeats 1",
    "decode": "--model {model} --clips 2 --turns 1 --peer-batches 2 --most-different 2",
    "eight_bits": "--limit 1",
    "featurize": "--corpus {folder}/joined --clips 4 --peer-clips 2 --rounds 1 --workers 1",
    "improving": "--arms 'no timestamps' --test-clips 2 --steps 1 --folder {folder}",
    "load": "--clients 2 --minutes 0.1 --clips 2",
    "products": "--windows 1 --repeats 1",
    "scan": "--layers 2 --d-model 64 --positions 20 --repeats 1",
    "scoring": "--turns 1",
    "serve": "--turns 1 --clips 1 --minutes 0 --arms ours pipeline",
    "serve_memory": "--minutes 1",
    "serve_rounding": "--clips 1 --strides 8",
    "step": "--model tiny --clips 10 --batch-size 1 --steps 1 --compute-dtype float32 --profile",
    "train": "--clips 10 --batch-size 1 --steps 1 --turns 1 --arms padded peer",
    "windows": "--clips 8 --test-clips 2 --epochs 1",
}


@pytest.mark.parametrize("name", [*QUICK, *(SLOW if THOROUGH else ())])
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path, terse_model_dir: Path) -> None:
    options = (QUICK | SLOW)[name].format(folder=tmp_path, model=terse_model_dir)
    words = ["make", f"bench-{name}", f"ARGS={options}"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"name", "unit", "ours", "peer", "ratio"} <= found.keys()
    assert found["ours"] > 0


@pytest.mark.parametrize(
    ("peer", "less_is_better", "ratio"), [(4.0, False, 0.5), (4.0, True, 2.0), (None, True, None), (0.0, True, None)]
)
def test_a_ratio_above_1_means_that_ours_is_better(peer, less_is_better, ratio):
    found = json.loads(result_line("a name", "s", 2.0, peer, less_is_better=less_is_better, more={"more": [1]}))
    assert found == {"name": "a name", "unit": "s", "ours": 2.0, "peer": peer, "ratio": ratio, "more": [1]}


def test_a_benchmark_that_is_ended_leaves_nothing_running(tmp_path, monkeypatch):
    """A process of a process would hold the accelerator, and be in the next one's way."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/started\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert run_one("train --model tiny", 1.0)["failed"] == "not done within 1 s"
    state = Path("/proc", (tmp_path / "started").read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
