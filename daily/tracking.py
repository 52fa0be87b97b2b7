"""MLflow, opened for the registry: an SQLite file, or the server of MLFLOW_TRACKING_URI; no telemetry.

Decision: imported when it is first needed, as that takes seconds, and after its telemetry was switched off, as it asks
for settings of it over the network where it is imported.
"""

import contextlib
import logging
import os
import sqlite3
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "sussurro"


def server() -> str:
    """The MLflow server to use; empty: none, the store itself."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def connect(folder: Path) -> tuple["MlflowClient", str]:
    """MLflow at the server, or at `folder`/mlflow.db with files in `folder`/artifacts; and its experiment's id.

    Raises:
        UserError: the database or the server cannot be read.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient, MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    folder = folder.resolve()
    if not server():
        folder.mkdir(parents=True, exist_ok=True)
        _check_database(folder / "mlflow.db")
    uri = server() or f"sqlite:///{folder / 'mlflow.db'}"
    try:
        with warnings.catch_warnings():
            # MLflow's tables use an option that the newest SQLAlchemy calls deprecated; it warns as they are imported.
            warnings.filterwarnings("ignore", message=".*``noload`` loader strategy", category=DeprecationWarning)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return client, _experiment(client, None if server() else (folder / "artifacts").as_uri())
    except MlflowException as error:
        raise UserError(f"the registry at {uri} cannot be read: {str(error).splitlines()[0]}") from error


def _check_database(path: Path) -> None:
    """Raises `UserError` where the file is no database: MLflow would try ten times, longer each time."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise UserError(f"{path}: {error}; move it away, or put a copy of it back that is whole") from error


def _experiment(client: "MlflowClient", location: str | None) -> str:
    """The experiment whose runs keep their files at `location` (None: where the server says).

    A store that was moved gets another one, as an experiment's place cannot be changed.
    """
    known = client.search_experiments()
    ours = [e for e in known if e.name.startswith(EXPERIMENT) and location in (None, e.artifact_location)]
    if ours:
        return str(ours[0].experiment_id)
    names = {e.name for e in known}
    candidates = [EXPERIMENT, *(f"{EXPERIMENT}-{number}" for number in range(2, len(names) + 3))]
    return str(client.create_experiment(next(name for name in candidates if name not in names), location))
