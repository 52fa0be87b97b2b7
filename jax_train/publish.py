"""The command that puts an export on the Hugging Face hub: the model, its card and the run's TensorBoard logs.

Decision: one commit with all of it, so that the hub never shows a part; only what `export` proved is published. The
logs go to `runs/`, where the hub looks for them. The card is given the repository's name for the folder's, and
export.json loses this machine's path.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from data.errors import UserError, command
from jax_train.export import RECORD
from jax_train.export_folder import read_object
from jax_train.model_card import FILE as CARD
from jax_train.model_card import renamed
from jax_train.run_settings import read_settings

LOGS = "runs"
AGAIN = "run the same command again: what has arrived is not sent twice"
LONGEST = 300  # of what the hub says


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
    api = HfApi(token=_token())
    with asking_hub(config.repo, api.endpoint):
        repo = api.create_repo(config.repo, private=config.private or None, exist_ok=True).repo_id
    operations = [CommitOperationAdd(name, published(name, path, record, repo)) for name, path in files.items()]
    with asking_hub(config.repo, api.endpoint):
        commit = api.create_commit(repo, operations, commit_message=f"Step {record['step']}, by Sussurro")
    return str(commit.commit_url)


def _token() -> str:
    """The hub's token. Raises `UserError` where there is none, or what is there cannot be one."""
    token: str | None = get_token()
    if token is None:
        raise UserError(
            "no token for the Hugging Face hub: make one that may write at https://huggingface.co/settings/tokens"
            " and set HF_TOKEN, or run `hf auth login`"
        )
    if not re.fullmatch("[!-~]+", token):
        raise UserError("HF_TOKEN, or what `hf auth login` kept: has signs that no token has; copy the token again")
    return token


@contextmanager
def asking_hub(repo: str, endpoint: str) -> Iterator[None]:
    """Whatever goes wrong at the hub, or on the way to it, in the block raises a `UserError` of one line.

    `serving.space` has the same, on purpose: neither package imports the other.
    """
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"REPO={repo}: {_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it") from error
    except HfHubHTTPError as error:
        raise UserError(f"{repo}: the hub refuses ({_line(error)})") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"{endpoint}: cannot be reached ({_line(error)}); {AGAIN}") from error
    except json.JSONDecodeError as error:
        said = "what answers there is not the hub, but perhaps a network's page to sign in on"
        raise UserError(f"{endpoint}: {said}; see to that and run the same command again") from error
    except (ValueError, RuntimeError) as error:  # the client's own: a file did not arrive, or the card is refused
        cause = f" {_line(error.__cause__)}" if isinstance(error, RuntimeError) and error.__cause__ else ""
        raise UserError(f"{repo}: nothing is published ({_line(error)}{cause}); mend that, or {AGAIN}") from error


def files_to_add(config: PublishConfig) -> dict[str, Path]:
    """Every file of the export, and the run's event files under `runs/`. Raises `UserError` if there is no export."""
    folder = config.model_dir
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: is no export; make it with `make export`")
    logs = logs_of(config.run or Path(_record(folder)["run"]))
    if config.run and not logs.is_dir():
        raise UserError(f"{logs}: no such folder; give the run that was exported")
    events = sorted(logs.glob("*tfevents*"))
    if not events:
        print(f"{logs}: no TensorBoard logs there, so none are published; give the run with RUN=", file=sys.stderr)
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shown = {name.as_posix(): path for name, path in files.items() if not any(part[0] == "." for part in name.parts)}
    return shown | {f"{LOGS}/{path.name}": path for path in events}


def logs_of(run: Path) -> Path:
    """The folder of a run's event files; an average has those of the run behind it."""
    settings = read_settings(run)
    return logs_of(Path(settings["averaged_run"])) if "averaged_run" in settings else run / "tensorboard"


def published(name: str, path: Path, record: dict[str, Any], repo: str) -> Path | bytes:
    """The file `name` of the repository: as it is on the disk, but for the card and the record."""
    if name == CARD:
        exported_as = record.get("name") or path.resolve().parent.name
        return renamed(path.read_text(encoding="utf-8-sig"), record, exported_as, repo).encode()
    if name == RECORD:
        return (json.dumps(record | {"run": Path(record["run"]).name}, indent=2) + "\n").encode()
    return path


def _record(folder: Path) -> dict[str, Any]:
    again = "export it again"
    record = read_object(folder / RECORD, again)
    if missing := [name for name in ("run", "step") if name not in record]:
        raise UserError(f"{folder / RECORD}: lacks {', '.join(missing)}; {again}")
    record.setdefault("format", "huggingface")
    return record


def _line(error: BaseException) -> str:
    """What an error says, in one line of at most `LONGEST` signs."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


@command
def main() -> None:
    print(publish(tyro.cli(PublishConfig)))


if __name__ == "__main__":
    main()
