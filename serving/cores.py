"""How many cores this process may use, which in a container are fewer than the machine has.

Decision: PyTorch starts a thread for every core it sees, and knows neither `taskset` nor a control group's quota: on a
host with 64 cores and a container with 2 it works with 64 threads that wait for each other.
"""

import math
import os
from pathlib import Path

SET_BY_HAND = "OMP_NUM_THREADS"  # who has set it knows better


def cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """The cores that the process is bound to, or as many as its control groups give it time for, rounded up."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), quota(root, groups))))


def quota(root: Path, groups: Path) -> float:
    """Cores' worth of processor time of the tightest control group around the process; infinite where none is limited.

    Version 2 says it in `cpu.max`, version 1 in two files of its controller `cpu`. In a container a group's own path is
    often not to be seen, and `root` is the container's.
    """
    found = [math.inf]
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / controllers if controllers else root
        here = mounted / path.lstrip("/")
        for group in (here, *here.parents):
            if group.is_relative_to(mounted):
                found.append(_version_1(group) if controllers else _version_2(group))
    return min(found)


def _version_2(group: Path) -> float:
    file = group / "cpu.max"
    most, period = file.read_text().split() if file.is_file() else ("max", "1")
    return math.inf if most == "max" else int(most) / int(period)


def _version_1(group: Path) -> float:
    most, period = group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"
    if not (most.is_file() and period.is_file()) or int(most.read_text()) < 0:  # −1: no limit
        return math.inf
    return int(most.read_text()) / int(period.read_text())
