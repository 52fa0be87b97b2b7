"""The command that puts an export on the Hugging Face hub: the model, its card and the run's TensorBoard logs.

Decision: one commit with all of it, so that the hub never shows a part; only what `export` proved is published. The
logs go to `runs/`, where the hub looks for them. The card is given the repository's name for the folder's, and
export.json loses this machine's path.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from data.errors import UserError, command
from jax_train.export import RECORD
from jax_train.model_card import FILE as CARD
from jax_train.model_card import renamed
from jax_train.run_folder import SETTINGS

LOGS = "runs"


@dataclasses.dataclass(frozen=True)
class PublishConfig:
    """Puts an export, its model card and its run's TensorBoard logs on the Hugging Face hub."""

    repo: str
    """Name on the hub, such as NAME or ORGANISATION/NAME; made if it is not there."""
    model_dir: Path
    """Folder that `make export` wrote."""
    run: Path | None = None
    """The run whose TensorBoard logs go with it; by default the one that was exported."""
    private: bool = False
    """Whether a repository that is made now is seen by its owner alone."""


def publish(config: PublishConfig) -> str:
    """Make the repository if need be and commit everything to it; the commit's address.

    Raises:
        UserError: no export of ours, no token, or the hub's refusal.
    """
    files, record = files_to_add(config), _record(config.model_dir)
    token = get_token()
    if token is None:
        raise UserError(
            "no token for the Hugging Face hub: make one that may write at https://huggingface.co/settings/tokens"
            " and set HF_TOKEN, or run `hf auth login`"
        )
    api = HfApi(token=token)
    try:
        repo = api.create_repo(config.repo, private=config.private or None, exist_ok=True).repo_id
        operations = [CommitOperationAdd(name, published(name, path, record, repo)) for name, path in files.items()]
        message = f"Step {record['step']}, by Sussurro"
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)
    except HFValidationError as error:
        raise UserError(f"REPO={config.repo}: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{config.repo}: the hub refuses ({_first_line(error)})") from error
    except HTTPError as error:
        raise UserError(f"{api.endpoint}: cannot be reached ({_first_line(error)}); try again") from error


def files_to_add(config: PublishConfig) -> dict[str, Path]:
    """Every file of the export, and the run's event files under `runs/`. Raises `UserError` if there is no export."""
    folder = config.model_dir
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: is no export; make it with `make export`")
    logs = logs_of(config.run or Path(_record(folder)["run"]))
    if config.run and not logs.is_dir():
        raise UserError(f"{logs}: no such folder; give the run that was exported")
    chosen = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return chosen | {f"{LOGS}/{path.name}": path for path in sorted(logs.glob("*tfevents*"))}


def logs_of(run: Path) -> Path:
    """The folder of a run's event files; an average has those of the run behind it."""
    settings = json.loads((run / SETTINGS).read_text(encoding="utf-8")) if (run / SETTINGS).is_file() else {}
    return logs_of(Path(settings["averaged_run"])) if "averaged_run" in settings else run / "tensorboard"


def published(name: str, path: Path, record: dict[str, Any], repo: str) -> Path | bytes:
    """The file `name` of the repository: as it is on the disk, but for the card and the record."""
    if name == CARD:
        exported_as = record.get("name") or path.resolve().parent.name
        return renamed(path.read_text(encoding="utf-8"), record, exported_as, repo).encode()
    if name == RECORD:
        return (json.dumps(record | {"run": Path(record["run"]).name}, indent=2) + "\n").encode()
    return path


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@command
def main() -> None:
    print(publish(tyro.cli(PublishConfig)))


if __name__ == "__main__":
    main()
