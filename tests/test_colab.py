"""The Colab notebook runs from its first cell to its last: here on the CPU, with a very small model, without Drive."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import nbformat
import pytest
from nbclient import NotebookClient

from jax_train.config import PUBLISHED
from jax_train.presets import from_command_line
from jax_train.run_folder import prepare_run
from tests.conftest import REPOSITORY
from tests.test_readme import environment

NOTEBOOK = REPOSITORY / "docs" / "colab.ipynb"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs_and_without_anybodys_paths(notebook):
    """Colab's own places and Linux's are the only absolute ones."""
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        absolute = re.findall(r"(?<![\w.:/}<])/[a-z]\w*", cell.source)
        assert set(absolute) <= {"/content", "/dev", "/proc"} | (
            {"/transcribe"} if "api_name" in cell.source else set()
        ), cell


def test_it_offers_sizes_that_there_are(notebook):
    (offered,) = re.findall(r'^SIZE = "auto"  # @param \["auto", (.*)\]$', notebook.cells[2].source, re.MULTILINE)
    assert set(re.findall(r'"([\w-]+)"', offered)) <= PUBLISHED.keys()


@dataclasses.dataclass
class Chip:
    """A device as the notebook's question sees it."""

    platform: str
    device_kind: str
    gigabytes: float
    compute_capability: str = "0"

    def memory_stats(self) -> dict:
        return {"bytes_limit": int(self.gigabytes * 1e9)}


V5E = Chip("tpu", "TPU v5 lite", 16)
T4 = Chip("gpu", "Tesla T4", 14, "7.5")
L4 = Chip("gpu", "NVIDIA L4", 21, "8.9")


def trained_on(notebook: nbformat.NotebookNode, chip: Chip, place: Path, size: str = "auto") -> list[str]:
    """The words for the train command that the notebook comes to on a machine with one such chip.

    Its own cells run, and its question; of the train command only the part that says whether RUN may be continued.
    """
    words: list[str] = []

    def asked(arguments, **_):
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
            patch.setattr(jax, "devices", lambda: [chip])
            patch.setattr(jax, "device_count", lambda: 1)
            patch.setattr(sys, "argv", arguments[2:])
            exec(arguments[2], {})
        return SimpleNamespace(stdout=said.getvalue())

    def make(target, PRESET, MODEL, SHARDS, RUN, ARGS):
        assert target == "train"
        words.extend(["--preset", PRESET, "--model", MODEL, "--shards", str(SHARDS), "--run", str(RUN), *ARGS.split()])
        folder = place / PRESET
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps({"model_type": "whisper", **dataclasses.asdict(PUBLISHED[PRESET])})
        )
        prepare_run(from_command_line(words, None), folder, SimpleNamespace(manifest={"shards": []}))

    environment: dict[str, str] = {}
    names = {
        "SMALL": None, "SIZE": size, "EPOCHS": 3, "PLACE": place, "RUN": place / "run", "LOCAL": place / "shards",
        "subprocess": SimpleNamespace(run=asked, PIPE=None), "sys": sys, "make": make, "Path": Path,
        "os": SimpleNamespace(environ=environment),
    }  # fmt: skip
    starts = ("import json\n\nbegun", "preset = ", "options = ")
    for start in starts:
        (cell,) = (cell for cell in notebook.cells if cell.source.startswith(start))
        exec(cell.source, names)
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(place / "compiled")
    return words


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(("first", "then"), [(V5E, T4), (T4, V5E), (L4, T4), (T4, L4)])
def test_a_run_is_continued_on_another_machine_with_its_size_and_number_type(notebook, tmp_path, first, then):
    before = trained_on(notebook, first, tmp_path)
    after = trained_on(notebook, then, tmp_path)  # raises where train would refuse
    for option in ("--preset", "--compute-dtype", "--batch-size"):
        assert value(after, option) == value(before, option)
    dtypes = {"tpu": "bfloat16", "7.5": "float16", "8.9": "bfloat16"}
    assert value(before, "--compute-dtype") == dtypes["tpu" if first is V5E else first.compute_capability]


def test_a_kernel_for_attention_leaves_room_for_more_windows_at_once(notebook, tmp_path):
    """The same memory with and without it."""
    parts = []
    for capability in ("7.5", "8.9"):
        chip = dataclasses.replace(L4, compute_capability=capability)
        place = tmp_path / capability
        place.mkdir()
        parts.append(int(value(trained_on(notebook, chip, place, "small"), "--gradient-accumulation-steps")))
    assert parts[1] < parts[0]


def test_it_runs_to_its_end(notebook, terse_model_dir, tmp_path):
    shutil.copytree(terse_model_dir, tmp_path / "whisper")
    env = environment() | {"SUSSURRO_SMALL": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": REPOSITORY}}).execute(env=env)
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Whisper tiny, 2 windows a step in 1 part(s)" in said
    assert "equals PyTorch: logits differ" in said
    assert re.search(r"^said:  \w.*\nheard: ", said, re.MULTILINE)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"image/png", "text/markdown"} <= kinds
    for file in ("run/curves.png", "before/scores.json", "after/scores.json", "model-exported/model.safetensors"):
        assert (tmp_path / file).is_file()
