"""The monitor's Space: a folder with a snapshot in it, which installs Gradio and no PyTorch.

It is a Space of its own, so that a new snapshot every day restarts the monitor and nobody's transcription.
"""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import SpaceCardData

from serving.monitor_folder import MONITOR, SHOWN_FILES, read_snapshot
from serving.space_files import PYTHON, SERVING, copy_files, installed, requirements
from serving.space_model import SETTINGS

FOLDER = "monitor"
SERVED = (
    *("__init__.py", "errors.py", "gate.py", "languages.py", "port.py", "server.py", "uploads.py"),
    *("page.css", "monitor*"),
)
INSTALLED = ("gradio", "tyro")
LARGE_FILES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in SHOWN_FILES)
BODY = """# $title

New speech every day, and what the model makes of it: today's clip, the last predictions, word errors by day with their
intervals, whether its confidence can be trusted, the registry's versions. It is written by Sussurro's daily loop.

Ogni giorno parlato nuovo, e quello che il modello ne capisce.

On your own machine: `pip install -r requirements.txt && python app.py`.
"""


def fill(space: Path, folder: Path, title: str) -> None:
    """Writes the Space of the snapshot `folder` into `space`. Raises `MonitorError` where it is none."""
    read_snapshot(folder)
    copy_files(SERVING, space / "serving", lambda path: any(fnmatch(path.name, name) for name in SERVED))
    copy_files(folder, space / FOLDER, lambda path: path.name == MONITOR or path.suffix in SHOWN_FILES)
    shutil.copyfile(SERVING / "space_monitor_app.py", space / "app.py")
    card = SpaceCardData(
        title=title,
        emoji="📈",
        colorFrom="green",
        colorTo="blue",
        sdk="gradio",
        sdk_version=installed("gradio"),
        python_version=PYTHON,
        app_file="app.py",
        tags=["automatic-speech-recognition", "whisper", "sussurro", "monitoring"],
        short_description="How well a speech model hears, day by day",
        suggested_hardware="cpu-basic",
        license="mit",
    )
    texts = {
        "README.md": f"---\n{card.to_yaml()}\n---\n\n{BODY.replace('$title', title)}",
        "requirements.txt": requirements("cpu-basic", INSTALLED),
        "packages.txt": "",
        ".gitattributes": LARGE_FILES,
        SETTINGS: json.dumps({"monitor": FOLDER}),
    }
    for file, text in texts.items():
        (space / file).write_text(text, encoding="utf-8")
