"""Commands run one after the other, each in a process of its own, as a user would; they meet in files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data.errors import UserError
from jax_train.runlog import SUMMARY


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

    They do if made with the same `settings` (its options by name) and, where a run is scored, after its end.
    """
    path = Path(str(settings["out"])) / "scores.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": {}}
    summary = Path(str(settings.get("run"))) / SUMMARY
    same = all(str(found["settings"].get(name)) == str(value) for name, value in settings.items())
    if not same or (summary.is_file() and path.stat().st_mtime < summary.stat().st_mtime):
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        stage(f"{title}: score", "jax_train.evaluate", *words, *more)
        found = json.loads(path.read_text(encoding="utf-8"))
    return found
