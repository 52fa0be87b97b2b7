"""PyTorch works with as many threads as a container has cores, not as its host has."""

import os
from pathlib import Path

import pytest
import torch

from serving import pytorch
from serving.cores import cores, quota
from serving.pytorch import PyTorchWhisper
from serving.vocabulary import read_vocabulary

MINE = len(os.sched_getaffinity(0))


def made(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A folder of control groups with those files, and the list of those that the process is in."""
    for name, says in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(says + "\n")
    (folder / "mine").write_text(groups)
    return folder / "cgroup", folder / "mine"


NONE = float("inf")


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),  # in a container, whose own group is the root it sees
        ("0::/\n", {"cpu.max": "max 100000"}, NONE),
        ("0::/\n", {}, NONE),
        ("0::/app\n", {"app/cpu.max": "50000 100000"}, 0.5),
        ("0::/pod/app\n", {"pod/cpu.max": "150000 100000", "pod/app/cpu.max": "400000 100000"}, 1.5),  # the tightest
        ("0::/../outside\n", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/app\n0::/\n", {"cpu,cpuacct/app/cpu.cfs_quota_us": "250000"}, NONE),  # of what?
        (
            "4:cpu,cpuacct:/app\n3:memory:/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, NONE),
        ("3:cpuset:/\n2:name=systemd:/\n", {"cpuset/cpu.max": "100000 100000"}, NONE),
    ],
)
def test_the_tightest_quota_around_the_process_counts(tmp_path: Path, groups, files, wanted: float) -> None:
    assert quota(*made(tmp_path, groups, files)) == wanted


@pytest.mark.parametrize(
    ("says", "wanted"),
    [("10000 100000", 1), ("100000 100000", 1), ("110000 100000", min(2, MINE)), ("max 100000", MINE)],
)
def test_cores_are_those_bound_to_or_paid_for_and_at_least_one(tmp_path: Path, says: str, wanted: int) -> None:
    assert cores(*made(tmp_path, "0::/\n", {"cpu.max": says})) == wanted
    assert cores(tmp_path / "nothing", tmp_path / "there") == MINE


@pytest.mark.parametrize("by_hand", [False, True])
def test_pytorch_takes_no_more_threads_unless_told(small_model_dir: Path, monkeypatch, by_hand: bool) -> None:
    before = torch.get_num_threads()
    if by_hand:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(pytorch, "cores", lambda: 2)
    try:
        torch.set_num_threads(3)
        PyTorchWhisper(small_model_dir, read_vocabulary(small_model_dir))
        assert torch.get_num_threads() == (3 if by_hand else 2)
    finally:
        torch.set_num_threads(before)
