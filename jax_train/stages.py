"""Commands run one after the other, each in a process of its own, as a user would; they meet in files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from upath import UPath

from data.errors import UserError
from data.set_files import MANIFEST
from data.split_names import folder_name
from data.storage import read_json
from jax_train.runlog import SUMMARY
from jax_train.scores_folder import SCORES_FILE, scores_in, weights_of


def stage(title: str, module: str, *arguments: object) -> str:
    """Run a command, show it, and give the last line of its output. Raises `UserError` where it fails."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n== {title}\n$ python -m {' '.join(words[2:])}", flush=True)
    lines = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode:
        raise UserError(f"stage '{title}' ended with exit code {process.returncode}; its message stands above")
    return lines[-1] if lines else ""


def score_once(title: str, settings: dict[str, object], *more: object) -> dict[str, Any]:
    """The scores that the evaluate command writes into `settings["out"]`, by running it unless they stand there.

    They do if made with the same `settings` (its options by name), of the same clips and the same model: those that
    are there now.
    """
    out = Path(str(settings["out"]))
    found = scores_in(out)
    same = found and all(str(found["settings"].get(name)) == str(value) for name, value in settings.items())
    if not same or _outdated(found, out / SCORES_FILE, settings):
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        stage(f"{title}: score", "jax_train.evaluate", *words, *more)
        found = scores_in(out)
    return found


def _outdated(found: dict[str, Any], path: Path, settings: dict[str, object]) -> bool:
    """Whether shards, run or model folder are others than when the scores `found` at `path` were made.

    A model of the hub is taken for the same: to know, the hub would have to be asked.
    """
    if "shards" in settings:
        manifest = UPath(str(settings["shards"])) / folder_name(str(settings["split"])) / MANIFEST
        if not manifest.is_file() or read_json(manifest)["index_sha256"] != found.get("data", {}).get("index_sha256"):
            return True
    if "run" in settings:
        summary = Path(str(settings["run"])) / SUMMARY
        return summary.is_file() and path.stat().st_mtime < summary.stat().st_mtime
    folder = Path(str(settings.get("model", ""))).expanduser()
    return "weights" in found and folder.is_dir() and weights_of(folder) != found["weights"]
