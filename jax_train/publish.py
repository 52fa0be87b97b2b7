"""The command that puts an export on the Hugging Face hub: the model, its card and the run's TensorBoard logs.

Decision: one commit with all of it, so that the hub never shows a part; only what `export` proved is published. The
logs go to `runs/`, where the hub looks for them.
"""

import dataclasses
import json
from pathlib import Path

import tyro
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from data.errors import UserError, command
from jax_train.export import RECORD

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
    operations = files_to_add(config)
    token = get_token()
    if token is None:
        raise UserError(
            "no token for the Hugging Face hub: make one that may write at https://huggingface.co/settings/tokens"
            " and set HF_TOKEN, or run `hf auth login`"
        )
    api = HfApi(token=token)
    try:
        repo = api.create_repo(config.repo, private=config.private or None, exist_ok=True).repo_id
        message = f"Step {_record(config.model_dir)['step']}, by Sussurro"
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)
    except HFValidationError as error:
        raise UserError(f"REPO={config.repo}: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{config.repo}: the hub refuses ({_first_line(error)})") from error
    except HTTPError as error:
        raise UserError(f"{api.endpoint}: cannot be reached ({_first_line(error)}); try again") from error


def files_to_add(config: PublishConfig) -> list[CommitOperationAdd]:
    """Every file of the export, and the run's event files under `runs/`. Raises `UserError` if there is no export."""
    folder = config.model_dir
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: is no export; make it with `make export`")
    logs = (config.run or Path(str(_record(folder)["run"]))) / "tensorboard"
    if config.run and not logs.is_dir():
        raise UserError(f"{logs}: no such folder; give the run that was exported")
    chosen = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    chosen |= {f"{LOGS}/{path.name}": path for path in sorted(logs.glob("*tfevents*"))}
    return [CommitOperationAdd(name, path) for name, path in chosen.items()]


def _record(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@command
def main() -> None:
    print(publish(tyro.cli(PublishConfig)))


if __name__ == "__main__":
    main()
