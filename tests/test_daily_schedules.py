"""The schedules: a cron line, a workflow, a Modal app. All of them run `make daily`, once a day, one at a time."""

import fnmatch
import importlib
import re
import socket
import subprocess
import sys
from typing import Any

import modal
import pytest
import yaml

from tests.conftest import REPOSITORY

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    text = (REPOSITORY / ".github" / "workflows" / "daily.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the app asks of Modal for its function, once it is imported."""
    asked: dict[str, Any] = {}
    function = modal.App.function

    def note(app: modal.App, **settings: Any) -> Any:
        asked.update(settings)
        return function(app, **settings)

    monkeypatch.setattr(modal.App, "function", note)
    return asked


@pytest.fixture
def modal_app(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> Any:  # noqa: ARG001 - it listens
    """The module, imported anew where no address can be reached."""

    def unreachable(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.delitem(sys.modules, "daily.modal_app", raising=False)
    return importlib.import_module("daily.modal_app")


def run_here(modal_app: Any) -> None:
    """What the container would run, with Modal's warning that here is no Volume."""
    with pytest.warns(UserWarning, match="will not have access to the mounted Volume"):
        modal_app.daily.local()


def once_a_day(line: str) -> bool:
    """Whether cron's five fields name one minute of every day."""
    minute, hour, *others = line.split()
    return minute.isdigit() and hour.isdigit() and others == ["*", "*", "*"]


def test_the_cron_line_runs_make_daily_once_a_day() -> None:
    (line,) = re.findall(r"^```\n(.*make daily.*)\n```$", OPERATIONS, re.MULTILINE)
    when, command = line.split("  ", 1)
    assert once_a_day(when)
    assert command.startswith("cd /path/to/sussurro && make daily ")


def test_the_workflow_runs_make_daily_once_a_day_where_it_was_asked_for(workflow: dict[Any, Any]) -> None:
    on = workflow[True]  # YAML 1.1 takes the key `on` for a truth value
    (schedule,) = on["schedule"]
    assert once_a_day(schedule["cron"])
    assert "workflow_dispatch" in on
    assert workflow["concurrency"] == {"group": "daily", "cancel-in-progress": False}
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["daily"]
    assert "vars.SUSSURRO_DAILY == 'on'" in job["if"]
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == "make daily"


def test_the_workflow_carries_the_store_on_even_when_a_stage_failed(workflow: dict[Any, Any]) -> None:
    """A key is written once, so each run has its own, and starts from the newest that has its beginning."""
    steps = workflow["jobs"]["daily"]["steps"]
    (restore,) = [step for step in steps if "cache/restore" in step.get("uses", "")]
    (save,) = [step for step in steps if "cache/save" in step.get("uses", "")]
    day = next(number for number, step in enumerate(steps) if step.get("run") == "make daily")
    assert steps.index(restore) < day < steps.index(save)
    assert save["if"] == "always() && steps.restore.outcome == 'success'"
    assert restore["id"] == "restore"
    assert restore["with"]["path"] == save["with"]["path"] == "store"
    assert restore["with"]["key"] == save["with"]["key"]
    assert "github.run_id" in save["with"]["key"]
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])


def test_the_workflow_begins_a_store_only_where_a_person_asked_for_it(workflow: dict[Any, Any]) -> None:
    """A run by schedule has no inputs, so that a store which the cache has lost ends it."""
    (restore,) = [step for step in workflow["jobs"]["daily"]["steps"] if "cache/restore" in step.get("uses", "")]
    assert restore["with"]["fail-on-cache-miss"] == "${{ !inputs.begin }}"
    asked = workflow[True]["workflow_dispatch"]["inputs"]["begin"]
    assert (asked["type"], asked["default"]) == ("boolean", False)


def test_every_make_target_of_the_schedules_exists(workflow: dict[Any, Any]) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    runs = "\n".join(step.get("run", "") for step in workflow["jobs"]["daily"]["steps"])
    assert set(re.findall(r"make ([a-z-]+)", runs)) == {"setup", "weights", "daily"}
    assert {"setup", "weights", "daily"} <= set(targets)


def test_the_modal_app_runs_make_daily_every_day_one_container_at_a_time(
    modal_app: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = modal_app.daily.info()
    assert settings.schedule == "Period(days=1)"
    assert [(where, volume.name) for where, volume in settings.volumes.items()] == [("/store", modal_app.store.name)]
    assert settings.timeout >= modal_app.HOUR
    assert asked["max_containers"] == 1
    did: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: did.append((*command, check)))
    monkeypatch.setattr(modal_app.store, "commit", lambda: did.append("commit"))
    run_here(modal_app)
    assert did == [("make", "-C", modal_app.THERE, "daily", "STORE=/store", True), "commit"]


def test_the_modal_app_commits_what_is_done_when_a_stage_failed(
    modal_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], check: bool) -> None:
        raise subprocess.CalledProcessError(2 if check else 0, command)

    did: list[str] = []
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(modal_app.store, "commit", lambda: did.append("commit"))
    with pytest.raises(subprocess.CalledProcessError):
        run_here(modal_app)
    assert did == ["commit"]


def test_no_file_of_the_project_that_the_container_needs_is_left_here(modal_app: Any) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    tops = {path.split("/")[0] for path in listed.splitlines()}
    assert not [top for top in tops for pattern in modal_app.LEFT_HERE if fnmatch.fnmatch(top, pattern)]


def test_the_volume_that_the_documentation_fetches_from_is_the_apps(modal_app: Any) -> None:
    names = set(re.findall(r"modal volume get (\S+)", OPERATIONS))
    assert names == {modal_app.store.name} == {"sussurro-store"}
