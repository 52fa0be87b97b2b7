"""The page runs where only `serving/requirements.txt` is installed: no JAX, none of the other packages."""

import json
import os
import subprocess
from pathlib import Path

import jiwer

from tests.page_process import REPOSITORY, free_port

PROGRAM = """
import json, sys
from pathlib import Path
import serving.app, serving.verify
others = {"jax", "jaxlib", "flax", "tensorflow", "data", "jax_train"} & {name.split(".")[0] for name in sys.modules}
from gradio_client import Client, handle_file
model, port, clip = sys.argv[1:]
page = serving.app.build_page(serving.app.Transcriber(Path(model)))
with serving.app.serve(page, "127.0.0.1", int(port)) as url:
    client = Client(url, verbose=False, analytics_enabled=False)
    text = client.predict(handle_file(clip), api_name="/transcribe")
print(json.dumps({"others": sorted(others), "text": text}))
"""


def serving_python() -> Path:
    """The interpreter of the environment `make test` builds, or the one named by SUSSURRO_SERVING_PYTHON."""
    return Path(os.environ.get("SUSSURRO_SERVING_PYTHON", REPOSITORY / ".venv-serving" / "bin" / "python"))


def test_the_page_answers_in_an_environment_of_its_requirements_alone(
    base_model_dir: Path, sample_corpus: Path
) -> None:
    python = serving_python()
    assert python.is_file(), f"{python} is not there: `make test` makes it; or name one in SUSSURRO_SERVING_PYTHON"
    lines = (sample_corpus / "test.tsv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split("\t")
    row = dict(zip(columns, lines[1].split("\t"), strict=True))
    clip = sample_corpus / "clips" / row["path"]
    done = subprocess.run(
        [python, "-c", PROGRAM, str(base_model_dir), str(free_port()), str(clip)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["others"] == []
    assert jiwer.wer(row["sentence"].lower(), answer["text"].lower()) < 0.5


def test_the_environment_holds_nothing_else_of_the_project() -> None:
    """Otherwise the test above would prove little."""
    listed = (
        "import importlib.util as u; print([n for n in ('jax', 'flax', 'grain', 'pyarrow', 'jiwer') if u.find_spec(n)])"
    )
    done = subprocess.run([serving_python(), "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
