"""When the page says that it is ready, Whisper has heard and written speech in the page's own thread; what the page
offers of languages; and a yt-dlp that cannot be used keeps it from nothing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import serving.app
import serving.running
from serving.engine_thread import EngineThread
from serving.pytorch import PyTorchWhisper
from serving.words import ENGLISH
from tests.page_process import REPOSITORY, free_port


def test_whisper_has_heard_and_written_in_the_pages_thread_before_the_page_is_ready(
    terse_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, int]] = []

    def recorded(name: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            did.append((name, threading.get_ident()))
            return done(*given)

        return call

    def build(*given: Any) -> None:
        compute: EngineThread = given[-1]
        did.append(("ready", compute(threading.get_ident)))

    for name in ("hear", "write"):
        monkeypatch.setattr(PyTorchWhisper, name, recorded(name, getattr(PyTorchWhisper, name)))
    monkeypatch.setattr(serving.running, "build_page", build)
    monkeypatch.setattr(serving.running, "serve_to_the_end", lambda build, *_, **__: build())
    monkeypatch.setattr(sys, "argv", ["app", "--model", str(terse_model_dir), "--port", str(free_port())])
    serving.app.main()
    assert [name for name, _ in did][:2] == ["hear", "write"]
    assert did[-1][0] == "ready"
    assert len({thread for _, thread in did}) == 1
    assert did[0][1] != threading.get_ident()


OFFERED = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from serving.page import build_page
from tests.scripted_page import ScriptedTranscriber
found = []
for language in (None, "it"):
    transcriber = ScriptedTranscriber(Path(sys.argv[1]))
    transcriber.language = language
    page = build_page(transcriber)
    dropdown = next(block for block in page.blocks.values() if type(block).__name__ == "Dropdown")
    (labels,) = [event.fn for event in page.fns.values() if getattr(event.fn, "__name__", "") == "labels"]
    *_, said = labels({"it": "Italian"}, SimpleNamespace(headers={"accept-language": "en"}))
    found.append([[code for _, code in dropdown.choices], [name for name, _ in said["choices"]]])
print(json.dumps(found))
"""


def test_that_a_language_is_detected_is_only_offered_where_it_is(tmp_path: Path) -> None:
    """A model with a language of its own takes that one where none is named. Before and after it says so in words."""
    command = [sys.executable, "-c", OFFERED, tmp_path / "log"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        [["", "en", "it"], [ENGLISH["detect"], "Italian", "en"]],
        [["en", "it"], ["Italian", "en"]],
    ]


ASKED = """
import serving.running
from serving.errors import AudioError
from serving.youtube import look_up
try:
    look_up("https://youtu.be/abcdefghijk")
except AudioError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("fault", ["", "raise AttributeError('globals')", "import nothing_of_that_name"])
def test_a_yt_dlp_that_cannot_be_used_fails_who_asks_for_a_video_and_not_the_page(tmp_path: Path, fault: str) -> None:
    (tmp_path / "yt_dlp").mkdir()
    (tmp_path / "yt_dlp" / "__init__.py").write_text(fault)
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("LinkFailedError abcdefghijk: this server's yt-dlp cannot be used")
