"""The Colab notebook runs from its first cell to its last: here on the CPU, with a very small model, without Drive."""

import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from jax_train.config import PUBLISHED
from tests.conftest import REPOSITORY
from tests.test_readme import environment

NOTEBOOK = REPOSITORY / "docs" / "colab.ipynb"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs_and_without_anybodys_paths(notebook):
    """Colab's own places are the only absolute ones."""
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        absolute = re.findall(r"(?<![\w.:/}<])/[a-z]\w*", cell.source)
        assert set(absolute) <= {"/content", "/dev"} | ({"/transcribe"} if "api_name" in cell.source else set()), cell


def test_it_offers_sizes_that_there_are(notebook):
    (offered,) = re.findall(r'^SIZE = "auto"  # @param \["auto", (.*)\]$', notebook.cells[2].source, re.MULTILINE)
    assert set(re.findall(r'"([\w-]+)"', offered)) <= PUBLISHED.keys()


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
