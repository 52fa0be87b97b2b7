"""Where a registry is: in the store, wherever that is moved, or on a server; and no request leaves the machine."""

import functools
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowException

from daily.registry import MODEL, Registry, open_registry
from daily.tracking import home_of
from data.errors import UserError
from tests.conftest import REPOSITORY
from tests.test_daily_registry import a_model, champion_weights, with_versions


@pytest.fixture
def registry(empty_registry: Path, tmp_path: Path) -> Registry:
    """A new registry; its store was moved, as a person may move one."""
    shutil.copytree(empty_registry, tmp_path / "store")
    return open_registry(tmp_path / "store")


def test_a_store_keeps_to_its_registry_and_says_which_it_is(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@mlflow.example/")
    with pytest.raises(UserError, match=r"in the store, and MLFLOW_TRACKING_URI is https://mlflow\.example: unset it"):
        open_registry(registry.store)
    (registry.store / "registry.json").unlink()  # of an earlier program: what it has is in the store
    with pytest.raises(UserError, match="its registry is in the store"):
        open_registry(registry.store)
    there = home_of(tmp_path / "other")
    assert there.address == "https://mlflow.example"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match=r"is not set: set it to https://mlflow\.example; if the server has moved"):
        open_registry(tmp_path / "other")


def test_a_store_moved_elsewhere_keeps_its_versions_and_takes_new_ones(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, "2026-11-23").promote(MODEL, 1)
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = open_registry(tmp_path / "moved")
    with_versions(moved, "2026-11-24").promote(MODEL, 2)
    assert champion_weights(moved) == "2026-11-24"
    moved.roll_back(MODEL)
    assert champion_weights(moved) == "2026-11-23"
    assert not (tmp_path / "store").exists()


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="file is not a database") as caught:
        open_registry(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_locked_database_is_said_to_be_in_use(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(registry, "2026-11-23")
    in_use = "another program is using it: close it and run again"
    database = registry.store / "registry" / "mlflow.db"
    with monkeypatch.context() as patch, sqlite3.connect(database) as other:
        other.execute("begin exclusive")
        patch.setattr("daily.tracking.sqlite3.connect", functools.partial(sqlite3.connect, timeout=0))
        with pytest.raises(UserError, match=f"mlflow.db: {in_use}"):
            open_registry(registry.store)

    def locked(*_args: object, **_options: object) -> None:  # MLflow itself waits 20 seconds for it
        raise MlflowException("(sqlite3.OperationalError) database is locked\n[SQL: INSERT …]")

    for asked in ("set_registered_model_alias", "search_registered_models"):
        with monkeypatch.context() as patch:
            patch.setattr(type(registry.client), asked, locked)
            with pytest.raises(UserError, match=f"registry: {in_use}$"):
                registry.promote(MODEL, 1)


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_a_path_that_mlflow_would_read_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"no store can be in a place with {re.escape(name[-1:] if '?' in name else '%')}"
    ):
        open_registry(tmp_path / name / "store")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def server(empty_registry: Path, tmp_path: Path) -> Iterator[str]:
    """An MLflow server of its own, as a team would run one."""
    shutil.copyfile(empty_registry / "registry" / "mlflow.db", tmp_path / "server.db")
    files = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        tmp_path / "files",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *place, *files], env=env, stdout=log, stderr=log
        )
    try:
        while process.poll() is None and not answers(f"http://127.0.0.1:{port}/health"):
            time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_server_keeps_versions_and_files_in_the_stores_place(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    (tmp_path / "store").mkdir()
    registry = with_versions(open_registry(tmp_path / "store"), "2026-11-23", "2026-11-24")
    registry.promote(MODEL, 1)
    registry.promote(MODEL, 2)
    assert champion_weights(registry) == "2026-11-24"
    assert registry.roll_back(MODEL).number == 1
    assert champion_weights(registry) == "2026-11-23"
    assert registry.drop_weights(MODEL) == []  # a server's room is not ours to make
    assert not (tmp_path / "store" / "registry").exists()
    assert len(list((tmp_path / "files").rglob("model.safetensors"))) == 2

    # Another store there, with a version for the same day: neither sees the other's.
    other = with_versions(open_registry(tmp_path / "other"), "2026-11-23")
    other.promote(MODEL, 1)
    assert [version.number for version in other.versions(MODEL)] == [1]
    assert [version.aliases for version in registry.versions(MODEL)] == [("champion",), ("challenger",)]
    assert other.experiment != registry.experiment
    assert (champion_weights(other), champion_weights(registry)) == ("2026-11-23", "2026-11-23")
    assert other.client.get_registered_model(other.home.model(MODEL)).aliases == {"challenger": "1", "champion": "1"}


REGISTERS = """
import sys
from pathlib import Path
called = []
def hear(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        called.append((event, args))
sys.addaudithook(hear)
from daily.registry import MODEL, open_registry
registry = open_registry(Path(sys.argv[1]))
registry.promote(MODEL, registry.register(MODEL, "2026-11-23", Path(sys.argv[2])).number)
print(called)
"""


def test_no_request_leaves_the_machine(tmp_path: Path) -> None:
    """Python itself tells of every connection (an audit hook); MLflow holds back in tests, so it is not told of one."""
    telling = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    env = {name: value for name, value in os.environ.items() if name not in telling} | {"HOME": str(tmp_path)}
    arguments = [str(tmp_path / "store"), str(a_model(tmp_path / "a", "one"))]
    done = subprocess.run(
        [sys.executable, "-c", REGISTERS, *arguments], env=env, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
    assert not (tmp_path / ".config").exists()  # where its telemetry would keep an id of this installation
