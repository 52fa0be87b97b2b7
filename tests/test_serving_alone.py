"""A Space's folder runs where only its requirements are installed: no JAX, none of the other packages."""

import csv
import importlib.util
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jiwer
import pytest
from gradio_client import Client, handle_file

from serving.space import SpaceConfig, write_space
from serving.space_model import SETTINGS
from tests.hub_server import hub_server
from tests.page_process import REPOSITORY, START_SECONDS, free_port

STAND_INS = REPOSITORY / "tests" / "stand_ins"


def serving_python() -> Path:
    """The interpreter of the environment `make test` builds, or the one named by SUSSURRO_SERVING_PYTHON."""
    python = Path(os.environ.get("SUSSURRO_SERVING_PYTHON", REPOSITORY / ".venv-serving" / "bin" / "python"))
    assert python.is_file(), f"{python} is not there: `make test` makes it; or name one in SUSSURRO_SERVING_PYTHON"
    return python


@contextmanager
def running_space(space: Path, tmp: Path, **settings: str) -> Iterator[str]:
    """The address of a Space that said `ready`, started as Spaces do: `python app.py`, in its own folder."""
    port = str(free_port())
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment = clean | {"GRADIO_SERVER_PORT": port, "TMPDIR": str(tmp), "HF_HOME": str(tmp / "hf")} | settings
    with (
        (tmp / "errors").open("w") as errors,
        subprocess.Popen(
            [serving_python(), "app.py"], cwd=space, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        lines: queue.Queue[str] = queue.Queue()
        said_then_nothing = itertools.chain(process.stdout, [""])  # a process that ends is not waited for
        reader = threading.Thread(target=lambda: [lines.put(line) for line in said_then_nothing], daemon=True)
        reader.start()
        try:
            said = lines.get(timeout=START_SECONDS)
            assert said.startswith("ready: http://"), said + (tmp / "errors").read_text()
            yield said.split()[1]
        finally:
            process.terminate()
            process.wait(timeout=60)
            reader.join()
    assert process.returncode == 0, (tmp / "errors").read_text()
    assert (tmp / "errors").read_text() == ""


@pytest.fixture(scope="module")
def clip(sample_corpus: Path) -> tuple[Path, str]:
    """A test clip and its sentence."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return sample_corpus / "clips" / row["path"], row["sentence"]


@pytest.fixture(scope="module")
def space(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Space with real Whisper base in it."""
    return write_space(SpaceConfig(str(base_model_dir), tmp_path_factory.mktemp("spaces") / "space"))


def ask(url: str, recording: Path) -> str:
    client = Client(url, verbose=False, analytics_enabled=False)
    return client.predict(handle_file(str(recording)), api_name="/transcribe")


def test_a_space_answers_in_an_environment_of_its_requirements_alone(
    space: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    """Half of the words: base itself errs on some."""
    recording, sentence = clip
    with running_space(space, tmp_path) as url:
        text = ask(url, recording)
    assert jiwer.wer(sentence.lower(), text.lower()) < 0.5


def test_the_same_app_works_on_zerogpu_with_a_model_on_the_hub(
    space: Path, base_model_dir: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    """`spaces` is a stand-in, which forks and pickles as the real one does."""
    recording, sentence = clip
    hub, from_hub, log = tmp_path / "hub", tmp_path / "space", tmp_path / "log"
    (hub / "anna/base-it/checkpoint-9").mkdir(parents=True)
    for path in base_model_dir.iterdir():
        (hub / "anna/base-it" / path.name).symlink_to(path)
    (hub / "anna/base-it/checkpoint-9/config.json").write_text("{}")
    from_hub.mkdir()
    shutil.copy(space / "app.py", from_hub)  # no link: it looks for its model where it lies
    (from_hub / "serving").symlink_to(space / "serving")
    (from_hub / SETTINGS).write_text(json.dumps({"name": "base-it", "model": "anna/base-it"}))
    zerogpu = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": str(STAND_INS), "SPACES_LOG": str(log)}
    with (
        hub_server(hub) as (endpoint, asked),
        running_space(from_hub, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_PROGRESS_BARS="1", **zerogpu) as url,
    ):
        assert [json.loads(line) for line in log.read_text().splitlines()] == [
            {"decorated": True, "before_torch": True}  # and no GPU was asked for while nobody was there
        ]
        client = Client(url, verbose=False, analytics_enabled=False)
        text = client.predict(handle_file(str(recording)), api_name="/transcribe")
        assert client.config["title"] == "Sussurro · base-it"
    assert jiwer.wer(sentence.lower(), text.lower()) < 0.5
    assert any("/anna/base-it/resolve/" in request and "model.safetensors" in request for request in asked)
    assert not any("checkpoint-9" in request for request in asked)
    _, *loans = [json.loads(line) for line in log.read_text().splitlines()]
    assert loans == [{"seconds": 15}, {"ended": True}]  # a clip of a few seconds asks for the least


def test_the_environment_is_that_of_the_spaces_requirements_and_holds_nothing_else_of_the_project(space: Path) -> None:
    """Otherwise the tests above would prove little. The proof of an export runs there, too."""
    program = """
import importlib.metadata as m, importlib.util as u, json, sys
import serving.verify
lines = [line for line in open(sys.argv[1]) if "==" in line]
print(json.dumps([
    [n for n in ("jax", "flax", "grain", "pyarrow", "jiwer") if u.find_spec(n)],
    [line for line in lines if m.version(line.split("==")[0]).split("+")[0] != line.split("==")[1].strip()]
]))
"""
    done = subprocess.run(
        [serving_python(), "-c", program, str(space / "requirements.txt")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]
    assert importlib.util.find_spec("jax") is not None  # which is how one would be found
