"""A stage of the daily loop for tests, `python scripted_stage.py NAME --store STORE --day DAY`: standard library alone.

It keeps the stages' promises: what it makes appears by rename and is made once. `STRIKE=NAME:WHO:N` in the environment
kills, before its N-th change to the store, itself (`self`) or the loop that started it (`loop`; it then waits for the
file `go`, and ends as if nothing had been). `FAIL=NAME` lets it fail, `FAIL=NAME:DAY` on that day alone. Two stages at
work at once are noted.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

CLIPS = 3
CHANGES = ("os.mkdir", "os.rename")


def main() -> None:
    name, store, day = sys.argv[1], Path(sys.argv[3]), sys.argv[5]
    with (store / "at-work").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (store / "overlap").write_text(f"{day} {name}")
        if os.environ.get("FAIL") in (name, f"{name}:{day}"):
            sys.exit("reading the corpus\nerror: no room on the disk")
        listen(name, store)
        STAGES[name](store, day)


def listen(name: str, store: Path) -> None:
    """Strike when it is time."""
    stage, who, number = os.environ.get("STRIKE", "::0").split(":")
    if stage != name:
        return
    changes = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in CHANGES or (event == "open" and "w" in str(arguments[1])):
            changes += 1
            if changes == int(number):
                strike(who, store)

    sys.addaudithook(note)


def strike(who: str, store: Path) -> None:
    (store / "struck").touch()
    if who == "self":
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getppid(), signal.SIGKILL)
    while not (store / "go").exists():
        time.sleep(0.005)


def write(path: Path, text: str) -> None:
    """`text` as `path`, by rename, and whose work it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


def features(store: Path, day: str) -> None:
    target = store / "features" / f"{day}.jsonl"
    if not target.exists():
        rows = [{"id": f"{day}-{number}", "day": day, "by": os.getpid()} for number in range(CLIPS)]
        write(target, "".join(json.dumps(row) + "\n" for row in rows))


def champion(store: Path) -> dict[str, Any]:
    path = store / "champion.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"version": 1, "trained_on": []}


def inference(store: Path, day: str) -> None:
    target = store / "predictions" / f"{day}.jsonl"
    if not target.exists():
        clips = [json.loads(line) for line in (store / "features" / f"{day}.jsonl").read_text().splitlines()]
        write(target, "".join(json.dumps({**clip, "champion": champion(store)}) + "\n" for clip in clips))


def confidence(store: Path, day: str) -> None:
    target = store / "confidence" / day / "confidence.json"
    if not target.exists():
        days = sorted(path.stem for path in (store / "predictions").glob("*.jsonl"))
        write(target, json.dumps({"by": os.getpid(), "days": days}))


def training(store: Path, day: str) -> None:
    before = champion(store)
    if day not in before["trained_on"]:
        write(store / "runs" / day / "decision.json", json.dumps({"promoted": True}))
        after = {"version": before["version"] + 1, "trained_on": [*before["trained_on"], day]}
        write(store / "champion.json", json.dumps(after))


def snapshot(store: Path, day: str) -> None:
    states = {path.stem: json.loads(path.read_text())["stages"] for path in (store / "loop").glob("*.json")}
    failed = [f"{at} {name}" for at, stages in states.items() for name in stages if stages[name]["state"] == "failed"]
    write(store / "monitor" / "monitor.json", json.dumps({"day": day, "failed": failed}))


STAGES = {
    "features": features,
    "inference": inference,
    "confidence": confidence,
    "training": training,
    "snapshot": snapshot,
}

if __name__ == "__main__":
    main()
