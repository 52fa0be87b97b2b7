"""MLflow, opened for the registry: an SQLite file, or the server of MLFLOW_TRACKING_URI; no telemetry.

Decision: imported when it is first needed, as that takes seconds, and after its telemetry was switched off, as it asks
for settings of it over the network where it is imported.

Where a store's registry is stands in STORE/registry.json, with an id of the store's own: on a server each store has
models and an experiment of its own, named with that id, so that several share it. A command that is given another
registry is refused, as it would find no champion there and begin with the pretrained model.
"""

import contextlib
import json
import logging
import os
import re
import sqlite3
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from data.storage import write_text, writing_to

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "sussurro"
HOME = "registry.json"
BUSY = "another program is using it: close it and run again"
UNSAFE = "?%"  # in a path; MLflow takes it for an address, where they mean something else
RETRIES = 3  # of a request to the server, 12 seconds in all; MLflow's own 7 take four minutes


@dataclass(frozen=True)
class Home:
    """Where a store's registry is, and the store's id there."""

    store_id: str
    address: str
    """The server's, without user and password; empty: it is in the store."""

    def model(self, name: str) -> str:
        """What a registered model is called there."""
        return f"{name}-{self.store_id}" if self.address else name


def server() -> str:
    """The MLflow server to use; empty: none, the store itself."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def home_of(store: Path) -> Home:
    """Where the registry of the store is, settled when it is first asked for. Raises `UserError` for another one."""
    path, asked = store / HOME, _public(server()).rstrip("/")
    if not path.is_file():
        is_here = (store / "registry" / "mlflow.db").is_file()
        with writing_to(store):
            store.mkdir(parents=True, exist_ok=True)
            made = Home(uuid.uuid4().hex[:12], "" if is_here else asked)
            write_text(path, json.dumps(asdict(made), indent=1) + "\n")
    try:
        home = Home(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not what this program wrote ({error}): bring it back from a copy") from None
    if home.address != asked:
        is_so, mend = (
            f"is {asked}" if asked else "is not set",
            f"set it to {home.address}" if home.address else "unset it",
        )
        raise UserError(
            f"{store}: its registry is {home.address or 'in the store'}, and MLFLOW_TRACKING_URI {is_so}: {mend}; "
            f"if the server has moved, write its new address into {path}; to begin there anew, delete that file"
        )
    return home


def connect(folder: Path, home: Home) -> tuple["MlflowClient", str]:
    """MLflow at the server, or at `folder`/mlflow.db with files in `folder`/artifacts; and its experiment's id.

    Raises:
        UserError: the database or the server cannot be read, or the store's path is not fit for MLflow.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(RETRIES))
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints the traces of what it raises
    folder = folder.resolve()
    if not home.address:
        if unsafe := [letter for letter in UNSAFE if letter in str(folder)]:
            raise UserError(
                f"{folder.parent}: no store can be in a place with {unsafe[0]} in its path; move it elsewhere"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _check_database(folder / "mlflow.db")
    uri = server() if home.address else f"sqlite:///{folder / 'mlflow.db'}"
    with answering(home.address or uri):
        with warnings.catch_warnings():
            # MLflow's tables use an option that the newest SQLAlchemy calls deprecated; it warns as they are imported.
            warnings.filterwarnings("ignore", message=".*``noload`` loader strategy", category=DeprecationWarning)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if home.address:
            return client, _experiment_of(client, f"{EXPERIMENT}-{home.store_id}")
        return client, _experiment_at(client, (folder / "artifacts").as_uri())


@contextlib.contextmanager
def answering(place: str) -> Iterator[None]:
    """What MLflow, opened by `connect`, cannot do inside becomes a `UserError` that names the registry at `place`."""
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as error:
        said = str(error).splitlines()[0]
        if "is locked" in said:
            raise UserError(_public(f"the registry at {place}: {BUSY}")) from error
        raise UserError(_public(f"the registry at {place} cannot be read: {said}")) from error


def log(client: "MlflowClient", run_id: str, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    """Note parameters, nested ones under dotted names, and metrics at a run."""
    from mlflow.entities import Metric, Param

    now = int(1000 * time.time())
    client.log_batch(
        run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
        params=[Param(key, str(value)) for key, value in flat(parameters).items()],
    )


def flat(nested: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """{"lora": {"rank": 8}} → {"lora.rank": 8}."""
    found: dict[str, object] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def log_folder(client: "MlflowClient", run_id: str, folder: Path, name: str) -> None:
    """Keep the files of `folder` at a run, under `name`; one by one, so that a full disk's error has its errno."""
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        client.log_artifact(run_id, str(path), (name / path.parent.relative_to(folder)).as_posix())


def _public(text: str) -> str:
    """`text` without the users and passwords of its addresses: the monitor shows it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _check_database(path: Path) -> None:
    """Raises `UserError` where the file is no database, or locked: MLflow would try ten times, longer each time."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UserError(f"{path}: {BUSY}") from error
        raise UserError(f"{path}: {error}; move it away, or put a copy of it back that is whole") from error


def _experiment_of(client: "MlflowClient", name: str) -> str:
    """The experiment of that name on a server, which knows where its runs keep their files."""
    known = client.get_experiment_by_name(name)
    return str(known.experiment_id if known else client.create_experiment(name))


def _experiment_at(client: "MlflowClient", location: str) -> str:
    """The experiment whose runs keep their files at `location`.

    A store that was moved gets another one, as an experiment's place cannot be changed.
    """
    known = client.search_experiments()
    ours = [e for e in known if e.name.startswith(EXPERIMENT) and location == e.artifact_location]
    if ours:
        return str(ours[0].experiment_id)
    names = {e.name for e in known}
    candidates = [EXPERIMENT, *(f"{EXPERIMENT}-{number}" for number in range(2, len(names) + 3))]
    return str(client.create_experiment(next(name for name in candidates if name not in names), location))
