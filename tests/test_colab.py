"""The Colab notebook runs from its first cell to its last: here on the CPU, with a very small model, without Drive."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from safetensors.numpy import load_file, save_file

from jax_train.config import PUBLISHED
from tests.conftest import REPOSITORY
from tests.test_readme import environment

END_OF_TEXT = 50_257
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


def write_terse_model(source: Path, folder: Path) -> None:
    """A copy whose transcripts end at once: a random model would go on to the last of 448 tokens, again and again."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    embeddings_VD = tensors["model.decoder.embed_tokens.weight"]
    embeddings_VD[END_OF_TEXT] *= 10  # so that no other token's lies further along it
    tensors["model.decoder.layer_norm.bias"] += 10 * embeddings_VD[END_OF_TEXT]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_it_runs_to_its_end(notebook, small_model_dir, tmp_path):
    write_terse_model(small_model_dir, tmp_path / "whisper")
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
