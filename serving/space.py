"""The command that writes a Hugging Face Space: a folder with all it needs, to be pushed as it is.

Decisions: the page's own code goes with it, so that a Space serves what was tested, and its requirements are the
versions installed here, save two: yt-dlp, which has to follow YouTube, and PyTorch on ZeroGPU, which offers some
versions alone. The model is copied, or stays on the hub and is fetched while the Space is built. Everything is written
beside the final name and renamed.

packages.txt is empty: Spaces hand its words to `apt-get install`, comments too, and PyAV brings its own FFmpeg.

    python -m serving.space --model models/tiny-it --out space [--repo NAME]
    python -m serving.space --monitor store/monitor --out space [--repo NAME]
"""

import json
import re
import shutil
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import tyro
import yaml  # type: ignore[import-untyped]
from huggingface_hub import HfApi, SpaceCardData, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_token, validate_repo_id

from serving import space_monitor
from serving.errors import command
from serving.model_folder import FEATURES, GENERATION, TOKENIZER, check_folder
from serving.space_files import PYTHON, SERVING, SpaceError, copy_files, forget_machine, installed, requirements
from serving.space_model import FILES, FOLDER, SETTINGS, HubModelError, reason

NOT_SERVED = {
    "README.md",
    "app.py",
    "batch.py",
    "requirements.txt",
    "space.md",
    "space.py",
    "space_app.py",
    "space_files.py",
    "space_monitor.py",
    "space_monitor_app.py",
    "to_ctranslate2.py",
    "verify.py",
    "verify_ggml.py",
}
"""Files of this package that are not in a Space's `serving`; some are at its top."""
LARGE_FILES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
AGAIN = "run the same command again: what has arrived is not sent twice"
LONGEST = 300  # of what the hub says


@dataclass(frozen=True)
class SpaceConfig:
    """Writes a Hugging Face Space that transcribes with a model, or one that shows the daily loop's monitor."""

    model: str = ""
    """A Hugging Face Whisper folder, such as `make export` writes, or the name of a model on the hub."""
    out: Path = Path("space")
    """Folder to write; an earlier Space there is replaced."""
    title: str = "Sussurro"
    """The Space's title on the hub."""
    hardware: Literal["cpu-basic", "zero-a10g"] = "cpu-basic"
    """What the Space is made for: two CPU cores, or ZeroGPU."""
    repo: str = ""
    """Also push it to this Space on the hub, such as NAME/SPACE, made if it is not there; needs HF_TOKEN."""
    private: bool = False
    """Whether a Space that is made now is seen by its owner alone."""
    monitor: Path | None = None
    """Instead of a model: the folder that `daily.snapshot` writes."""

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise SpaceError("--title: a Space needs one, such as Sussurro")
        if bool(self.model) == (self.monitor is not None):
            raise SpaceError("a Space is a model's or the monitor's: give either --model or --monitor")
        if self.monitor is not None and self.hardware != "cpu-basic":
            raise SpaceError(f"--hardware {self.hardware}: the monitor computes nothing; leave it out")


def write_space(config: SpaceConfig) -> Path:
    """The folder, complete. Raises a `UserError` for a model that is none, or where something else is in its place."""
    out = config.out
    with beside(out) as place:
        space = Path(place) / "space"
        if config.monitor is not None:
            space_monitor.fill(space, config.monitor, config.title)
        else:
            _fill(space, config)
        if out.exists():
            out.rename(Path(place) / "replaced")
        space.rename(out)
    return out


def beside(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside `out`. Raises `SpaceError` where nothing can be written, or `out` is something else."""
    try:
        if out.exists() and (not (out / SETTINGS).is_file() or (out / ".git").exists()):
            raise SpaceError(
                f"{out}: exists and is no Space that this command wrote; give another --out, or move it away"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        raise SpaceError(f"{out}: cannot be written ({error.strerror}); give another --out") from error


def _fill(space: Path, config: SpaceConfig) -> None:
    """Writes the Space of a model into `space`."""
    folder = Path(config.model).expanduser()
    local = folder.exists()
    files = [] if local else hub_files(config.model)
    name = folder.resolve().name if local else config.model.split("/")[-1]
    if local:
        check_folder(folder, (TOKENIZER, GENERATION, FEATURES))
    copy_files(SERVING, space / "serving", lambda path: path.name not in NOT_SERVED)
    shutil.copyfile(SERVING / "space_app.py", space / "app.py")
    if local:
        copy_files(
            folder,
            space / FOLDER,
            lambda path: path.parent == folder and (path.name == "README.md" or is_model_file(path.name)),
        )
        forget_machine(space / FOLDER, folder)
    texts = {
        "README.md": readme(config, name, files),
        "requirements.txt": requirements(config.hardware),
        "packages.txt": "",
        ".gitattributes": LARGE_FILES,
        SETTINGS: json.dumps({"name": name, "model": FOLDER if local else config.model}),
    }
    for file, text in texts.items():
        (space / file).write_text(text, encoding="utf-8")


def is_model_file(name: str) -> bool:
    """Whether a file of a model is read here: none of those below, such as a training's checkpoints."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in FILES)


def hub_files(name: str) -> list[str]:
    """The files that are read of a model on the hub. Raises `HubModelError` if it has none, or cannot be asked."""
    try:
        validate_repo_id(name)
        files = [file for file in HfApi().list_repo_files(name) if is_model_file(file)]
    except HFValidationError as error:
        raise HubModelError(f"{name}: neither a folder here nor a model's name on the hub; try `make demo`") from error
    except (HTTPError, OSError, ValueError) as error:  # what answers may not be the hub
        raise HubModelError(f"{name}: no folder here, and of a model of that name {reason(error)}") from error
    absent = [file for file in ("config.json", TOKENIZER, GENERATION, FEATURES) if file not in files]
    if not any(file.endswith(".safetensors") for file in files):
        absent.append("*.safetensors")
    if absent:
        raise HubModelError(f"{name}: holds no {', '.join(absent)} on the hub; name a model exported by Sussurro")
    return files


def readme(config: SpaceConfig, name: str, files: list[str]) -> str:
    """The Space's README.md: the front matter that configures it, and what visitors should know.

    `files` are those of a model on the hub, which the Space's build fetches.
    """
    on_hub = bool(files)
    card = SpaceCardData(
        title=config.title,
        emoji="🤫",
        colorFrom="green",
        colorTo="blue",
        sdk="gradio",
        sdk_version=installed("gradio"),
        python_version=PYTHON,
        app_file="app.py",
        models=[config.model] if on_hub else based_on(Path(config.model).expanduser()),
        preload_from_hub=[f"{config.model} {','.join(files)}"] if on_hub else None,
        tags=["automatic-speech-recognition", "whisper", "sussurro"],
        short_description="Speech to text: record, or give a file or a video",
        suggested_hardware=config.hardware,
        license="mit",
    )
    body = string.Template((SERVING / "space.md").read_text(encoding="utf-8"))
    model = f"[{config.model}](https://huggingface.co/{config.model})" if on_hub else f"`{name}`"
    return f"---\n{card.to_yaml()}\n---\n\n{body.substitute(title=config.title, model=model)}"


def based_on(folder: Path) -> list[str] | None:
    """The hub models that a folder's own card says it was made from. Raises `SpaceError` for a card that is none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        base = (metadata_load(card) or {}).get("base_model")
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"{card}: the metadata, between its --- lines, cannot be read ({_line(error)})") from error
    names = [base] if isinstance(base, str) else base or []
    return [name for name in names if name.count("/") == 1] or None


def write_token() -> str:
    """The hub's token of whoever runs this. Raises `SpaceError` where there is none, or what is there cannot be one."""
    token: str | None = get_token()
    if token is None:
        raise SpaceError(
            "no token for the Hugging Face hub: make one that may write at https://huggingface.co/settings/tokens"
            " and set HF_TOKEN, or run `hf auth login`"
        )
    if not re.fullmatch("[!-~]+", token):
        raise SpaceError("HF_TOKEN, or what `hf auth login` kept: has signs that no token has; copy the token again")
    return token


def push(folder: Path, repo: str, private: bool, token: str) -> str:
    """Puts the Space on the hub in one commit; its address. Raises `SpaceError` with the hub's reason."""
    api = HfApi(token=token)
    with asking_hub(repo, api.endpoint):
        made = api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="The page, by Sussurro",
            delete_patterns=["serving/*", f"{FOLDER}/*", f"{space_monitor.FOLDER}/*"],
        )
    return str(made)


@contextmanager
def asking_hub(repo: str, endpoint: str) -> Iterator[None]:
    """Whatever goes wrong at the hub, or on the way to it, in the block raises a `SpaceError` of one line.

    `jax_train.publish` has the same, on purpose: neither package imports the other.
    """
    try:
        yield
    except HFValidationError as error:
        raise SpaceError(f"--repo {repo}: {_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise SpaceError(f"{repo}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it") from error
    except HfHubHTTPError as error:
        raise SpaceError(f"{repo}: the hub refuses ({_line(error)})") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise SpaceError(f"{endpoint}: cannot be reached ({_line(error)}); {AGAIN}") from error
    except json.JSONDecodeError as error:
        said = "what answers there is not the hub, but perhaps a network's page to sign in on"
        raise SpaceError(f"{endpoint}: {said}; see to that and run the same command again") from error
    except (ValueError, RuntimeError) as error:  # the client's own: a file did not arrive, or the card is refused
        cause = f" {_line(error.__cause__)}" if isinstance(error, RuntimeError) and error.__cause__ else ""
        raise SpaceError(f"{repo}: nothing is published ({_line(error)}{cause}); mend that, or {AGAIN}") from error


def _line(error: BaseException) -> str:
    """What an error says, in one line of at most `LONGEST` signs."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


@command
def main() -> None:
    config = tyro.cli(SpaceConfig)
    token = write_token() if config.repo else ""  # asked for before anything is written
    folder = write_space(config)
    print(push(folder, config.repo, config.private, token) if config.repo else folder)


if __name__ == "__main__":
    main()
