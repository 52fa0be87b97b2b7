"""What every Space's folder is made of: copies of files, and requirements of the versions installed here."""

import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.errors import UserError

SERVING = Path(__file__).resolve().parent
PYTHON = "3.12"  # ZeroGPU has 3.10 and 3.12, this code needs 3.11
OF_THIS_MACHINE = {
    "export.json": ("run",),
    "config.json": ("_name_or_path",),
    "tokenizer_config.json": ("name_or_path", "special_tokens_map_file", "tokenizer_file"),
}
"""Settings of a model's files that say where something lay on the machine that wrote them."""
ZEROGPU_TORCH = "torch>=2.8,<2.12"


class SpaceError(UserError):
    """A Space cannot be written there, or not pushed."""


def copy_files(source: Path, target: Path, wanted: Callable[[Path], bool]) -> None:
    """Copies the files below `source` that are wanted, without hidden ones and caches."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_file() and wanted(path) and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)


def forget_machine(copied: Path, source: Path) -> None:
    """Takes what is of this machine out of the copy of a model. Raises `SpaceError` for a file of `source` not JSON."""
    for file, names in OF_THIS_MACHINE.items():
        if not (copied / file).is_file():
            continue
        try:
            found = json.loads((copied / file).read_text(encoding="utf-8"))
            kept = {name: value for name, value in found.items() if name not in names}
        except (ValueError, AttributeError) as error:
            raise SpaceError(f"{source / file}: is no JSON object ({error}); export the model again") from error
        if kept != found:
            (copied / file).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def requirements(hardware: str, only: tuple[str, ...] = ()) -> str:
    """What the Space installs: the tested versions of what serving/requirements.txt names, or of `only` some of it."""
    lines = ["# Written by `make space`: the versions the page was tested with."]
    for line in (SERVING / "requirements.txt").read_text(encoding="utf-8").splitlines():
        wish = line.split("#")[0].strip()
        if not wish:
            continue
        name = re.split(r"[^\w.-]", wish)[0]
        if only and name not in only:
            continue
        if name == "torch" and hardware == "zero-a10g":
            lines.append(ZEROGPU_TORCH)
        elif name == "yt-dlp":
            lines.append(wish)
        else:
            lines.append(f"{name}=={installed(name)}")
    return "\n".join(lines) + "\n"


def installed(name: str) -> str:
    """The version of a package that is installed here. Raises `SpaceError` where there is none."""
    try:
        return version(name).split("+")[0]  # without the build's name, such as torch's +cpu
    except PackageNotFoundError as error:
        raise SpaceError(f"{name}: not installed, so there is no tested version; run `make setup`") from error
