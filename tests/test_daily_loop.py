"""A run of the loop: the order of stages, failures and what they take along, days made up for."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from daily.commands import module
from daily.day_progress import DayProgress, days_begun, progress_file, read_progress, window, write_progress
from daily.loop import LoopConfig, StageOptions, daily_stages, run_loop, snapshot_stage
from daily.store import create_store
from daily.undone import DAYS_TRIED, left_undone
from data.errors import UserError
from tests.conftest import REPOSITORY
from tests.simulated_days import LAST, STAGES
from tests.test_readme import environment

DAY, NEXT = "2026-11-23", "2026-11-24"
NAMES = [stage.name for stage in STAGES]


def run(store: Path, day: str, catch_up: int = 7) -> list[str]:
    return run_loop(store, day, catch_up, STAGES, LAST)


def states(store: Path, day: str) -> dict[str, str]:
    return {name: stage.state for name, stage in read_progress(store, day).stages.items()}


def run_of_commands(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m daily.loop` as cron starts it."""
    command = module("daily.loop", "--store", str(store), *arguments)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_stages_are_commands_of_the_package() -> None:
    real = [*daily_stages(StageOptions()), snapshot_stage(StageOptions())]
    assert [stage.command[1:] for stage in real] == [("-m", f"daily.{name}") for name in [*NAMES, "snapshot"]]


@pytest.mark.parametrize("name", [*NAMES, "snapshot"])
def test_every_stage_takes_the_store_and_the_day_that_the_loop_gives_it(name: str) -> None:
    config = getattr(importlib.import_module(f"daily.{name}"), f"{name.capitalize()}Config")
    found = tyro.cli(config, args=["--store", "elsewhere", "--day", DAY])
    assert (found.store, found.day) == (Path("elsewhere"), DAY)


def test_a_run_does_every_stage_of_its_day_in_order_and_says_so(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(store, DAY) == []
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith(f"{DAY} ")]
    assert [line.split(":")[0].split()[-1] for line in said[1:]] == [*NAMES, "snapshot"]
    assert set(states(store, DAY).values()) == {"done"}
    assert json.loads((store / "monitor" / "monitor.json").read_text()) == {"day": DAY, "failed": []}


def test_a_second_run_of_a_day_starts_no_process_and_changes_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(store, DAY)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "loop.lock"}
    monkeypatch.setattr(subprocess, "Popen", None)
    assert run(store, DAY) == []
    assert capfd.readouterr().out.endswith(f"{DAY}: everything is done\n")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("failed", "waiting"),
    [
        ("features", {"inference": "features", "confidence": "inference", "training": "features and inference"}),
        ("inference", {"confidence": "inference", "training": "inference"}),
        ("confidence", {}),
        ("training", {}),
    ],
)
def test_a_failed_stage_takes_along_those_that_need_it_alone_shows_on_the_monitor_and_is_tried_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, failed: str, waiting: dict[str, str]
) -> None:
    monkeypatch.setenv("FAIL", failed)
    failures = run(store, DAY)
    assert f"{DAY} {failed}: " in failures[0]
    assert failures[0].endswith("no room on the disk (exit code 1)")
    assert failures[1:] == [f"{DAY} {name}: waits for {needs}" for name, needs in waiting.items()]
    want = {name: "waiting" if name in waiting else "done" for name in NAMES} | {failed: "failed", "snapshot": "done"}
    assert states(store, DAY) == want
    assert json.loads((store / "monitor" / "monitor.json").read_text())["failed"] == [f"{DAY} {failed}"]
    monkeypatch.delenv("FAIL")
    assert run(store, NEXT) == []
    for day in (DAY, NEXT):
        assert set(states(store, day).values()) == {"done"}
    attempts = {name: stage.attempts for name, stage in read_progress(store, DAY).stages.items()}
    assert attempts == dict.fromkeys([*NAMES, "snapshot"], 1) | {failed: 2}
    assert json.loads((store / "monitor" / "monitor.json").read_text()) == {"day": NEXT, "failed": []}
    assert json.loads((store / "champion.json").read_text())["trained_on"] == [DAY, NEXT]


def test_nothing_is_trained_while_an_earlier_day_could_not_be_heard(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training replays earlier days; what was replayed can no longer be heard honestly."""
    monkeypatch.setenv("FAIL", f"inference:{DAY}")
    run(store, DAY)
    failures = run(store, NEXT)
    assert f"{NEXT} training: waits for inference of {DAY}" in failures
    assert states(store, NEXT)["inference"] == "done"
    assert not (store / "champion.json").exists()
    monkeypatch.delenv("FAIL")
    assert run(store, NEXT) == []
    assert json.loads((store / "champion.json").read_text())["trained_on"] == [DAY, NEXT]


def test_a_failed_snapshot_is_a_failure_and_is_tried_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "snapshot")
    assert len(run(store, DAY)) == 1
    monkeypatch.delenv("FAIL")
    assert run(store, DAY) == []
    assert states(store, DAY)["snapshot"] == "done"
    assert read_progress(store, DAY).attempts("features") == 1


def test_days_missed_are_made_up_for_within_the_bound_and_left_beyond_it(store: Path) -> None:
    run(store, "2026-11-20")
    assert run(store, "2026-11-26", catch_up=2) == []
    assert days_begun(store) == ["2026-11-20", "2026-11-24", "2026-11-25", "2026-11-26"]


def test_no_day_is_made_up_for_before_the_first_of_a_store(store: Path) -> None:
    assert window(store, DAY, 7) == [DAY]
    run(store, DAY)
    assert window(store, "2026-11-25", 7) == [DAY, NEXT, "2026-11-25"]
    assert window(store, "2026-12-03", 1) == ["2026-12-02", "2026-12-03"]


@pytest.mark.parametrize("catch_up", [7, 10**12])
def test_no_day_is_made_up_for_before_the_calendar_begins(store: Path, catch_up: int) -> None:
    assert window(store, DAY, catch_up) == [DAY]
    write_progress(store, DayProgress("0001-01-01").note("features", "done"))
    assert window(store, "0001-01-03", catch_up) == ["0001-01-01", "0001-01-02", "0001-01-03"]
    assert left_undone([], "0001-01-03") == []


def test_an_older_day_run_again_leaves_the_monitor_at_the_newest_day_that_is_not_to_come(store: Path) -> None:
    to_come, older, newest = (DayProgress(day) for day in ("9999-12-31", DAY, "2026-11-25"))
    for day in (to_come, newest):
        write_progress(store, day.note("features", "failed"))
    assert run_loop(store, older.day, 0, STAGES[:1], LAST) == []
    assert json.loads((store / "monitor" / "monitor.json").read_text())["day"] == newest.day
    assert states(store, older.day) == {"features": "done"}


def test_a_day_whose_run_was_killed_shows_the_stage_it_was_at(store: Path) -> None:
    store.mkdir()
    day = read_progress(store, DAY).note("features", "started")
    write_progress(store, day)
    assert states(store, DAY) == {"features": "started"}
    assert run(store, DAY) == []
    assert read_progress(store, DAY).attempts("features") == 2


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2, "stages": {}}', '{"format": 1, "stages": {"features": {"state": "well"}}}']
)
def test_progress_that_no_run_wrote_is_named_and_nothing_is_run(store: Path, content: str) -> None:
    path = progress_file(store, DAY)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path} is not what a run writes: delete it"):
        run(store, DAY)
    path.unlink()
    assert run(store, DAY) == []


def test_what_a_stage_wrote_is_on_the_disk_before_it_is_noted_as_done(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power failure leaves a day that is done and has no files."""
    synced: list[str] = []

    def sync() -> None:
        (stage,) = [name for name, stage in read_progress(store, DAY).stages.items() if stage.state == "started"]
        synced.append(stage)

    monkeypatch.setattr(os, "sync", sync)
    monkeypatch.setenv("FAIL", "confidence")
    run(store, DAY)
    assert synced == [name for name in (*NAMES, "snapshot") if name != "confidence"]


def test_a_stage_that_hangs_has_failed_and_the_others_go_on(store: Path) -> None:
    hanging = (sys.executable, "-c", "import time; time.sleep(60)")
    stages = [replace(stage, command=hanging) if stage.name == "confidence" else stage for stage in STAGES]
    assert len(failures := run_loop(store, DAY, 7, stages, LAST, longest=3)) == 1
    assert failures[0].endswith("had not ended after 3 seconds, and was ended")
    assert states(store, DAY)["training"] == "done"


def test_what_stages_say_on_standard_error_is_no_complaint_of_the_run(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cron mails what stands there."""
    said = (sys.executable, "-c", "import sys; print('a warning', file=sys.stderr)")
    assert run_loop(store, DAY, 7, [replace(stage, command=said) for stage in STAGES], LAST) == []
    shown = capfd.readouterr()
    assert (shown.out.count("a warning\n"), shown.err) == (len(STAGES), "")


def test_what_killed_commands_left_is_removed_by_the_next_run(store: Path) -> None:
    left = (
        *(
            "clips/.2026-11-20.partial/metadata.csv",
            "confidence/.partial-a/new/confidence.json",
            ".base-0a1b2c3d/config.json",
        ),
        *(
            "runs/2026-11-20/.start-c/model",
            "features/.2026-11-20.parquet.7-a.partial",
            "monitor/.monitor.json.partial",
        ),
        *("runs/2026-11-20/shards/.train-2026-11-20.partial/a", "loop/.2026-11-20.json.7-a.partial"),
    )
    kept = ("clips/2026-11-20/metadata.csv", "runs/2026-11-20/run/.partial", ".champion.lock", "champion/config.json")
    create_store(store, "it", "base", 80, "0" * 64)
    for name in (*left, *kept):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).touch()
    run(store, DAY)
    assert [name for name in left if (store / name).exists()] == []
    assert not [path for path in store.rglob(".*") if path.name not in (".partial", ".champion.lock")]
    assert all((store / name).exists() for name in kept)


def test_options_go_to_the_stage_that_they_name() -> None:
    options = StageOptions(training="--steps 20 --name 'two words'")
    commands = {stage.name: stage.command for stage in daily_stages(options)}
    assert commands["training"][-4:] == ("--steps", "20", "--name", "two words")
    assert commands["features"][-1] == "daily.features"
    with pytest.raises(UserError, match=r"""^--training "--steps '3": no closing quotation"""):
        daily_stages(StageOptions(training="--steps '3"))


def test_bad_input_is_one_line_and_exit_code_2(store: Path) -> None:
    for arguments, said in (
        (["--day", "23.11.2026"], "'23.11.2026'"),
        (["--catch-up", "-1"], "--catch-up -1"),
        (["--stage-timeout", "0"], "--stage-timeout 0"),
    ):
        found = run_of_commands(store, *arguments)
        assert found.returncode == 2
        assert found.stderr.startswith("error: ")
        assert said in found.stderr
        assert len(found.stderr.splitlines()) == 1
    assert not store.exists()


def test_make_daily_gives_store_day_and_arguments() -> None:
    command = ["make", "-n", "daily", "BIN=/bin", "STORE=my store", f"DAY={DAY}", "ARGS=--catch-up 3"]
    settings = environment()
    shown = subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, check=True).stdout
    assert shown == f"/bin/python -m daily.loop --store 'my store' --day {DAY} --catch-up 3\n"


def test_the_bound_is_a_week_and_the_store_is_store() -> None:
    assert (LoopConfig().store, LoopConfig().catch_up) == (Path("store"), DAYS_TRIED) == (Path("store"), 7)
