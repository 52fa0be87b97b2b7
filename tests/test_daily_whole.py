"""README's `make daily STORE=store` and `make monitor STORE=store PORT=7861`, as they stand but for small settings.

Every stage is the real command in a process of its own: Festival's stand-in, a small random Whisper that writes
little, four real clips as the guard. What it hears is nonsense; that each stage finds what the one before it wrote is
not.
"""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from transformers import WhisperForConditionalGeneration

from daily.registry import MODEL, open_registry
from daily.store import Store, connect, open_store
from tests.conftest import REPOSITORY
from tests.festival import path_with_stand_in
from tests.page_process import free_port
from tests.test_readme import environment

DAY = "2026-11-23"
STAGES = {
    "features": "--clips 6 --test-clips 3 --guard-split test[:4] --recipes none --workers 1 --model {model}",
    "training": "--steps 2 --batch-size 1 --learning-rate 1e-2 --score-windows whole --score-batch-size 1",
}


def make(*words: str) -> subprocess.CompletedProcess[str]:
    settings = environment() | {"PATH": path_with_stand_in()}
    return subprocess.run(["make", *words], cwd=REPOSITORY, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(terse_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """After its first day, on which everything was done, and a second call, which found nothing to do."""
    folder = tmp_path_factory.mktemp("daily") / "store"
    options = [f'--{stage}="{said.format(model=terse_model_dir)}"' for stage, said in STAGES.items()]
    words = ["daily", f"STORE={folder}", f"DAY={DAY}", f"ARGS={' '.join(options)}"]
    done = make(*words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == ""  # cron would mail it
    again = make(*words)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"{DAY}: everything is done")
    return open_store(folder)


def test_every_clip_of_the_day_is_heard_once_and_shown(store: Store) -> None:
    with connect(store) as connection:
        heard = connection.execute("select count(*), count(distinct id), max(day) from history").fetchone()
    assert heard == (6, 6, DAY)
    shown = json.loads((store.folder / "monitor" / "monitor.json").read_text())
    assert [day["day"] for day in shown["days"]] == [DAY]


def test_the_registry_holds_a_challenger_with_its_scores_that_transformers_loads(store: Store, tmp_path: Path) -> None:
    registry, out = open_registry(store.folder), store.run(DAY)
    base, challenger = registry.versions(MODEL)
    record = json.loads((out / "decision.json").read_text())
    assert (record["champion"], record["version"]) == (base.number, challenger.number) == (1, 2)
    for split in ("test", "guard"):
        scores = json.loads((out / "run" / f"evaluate-{split}" / "scores.json").read_text())
        assert challenger.metrics[f"{split}_wer"] == scores["wer_normalised"] == record[split]["challenger"]
        assert base.metrics[f"{split}_wer"] == record[split]["champion"]
    logged = registry.client.get_run(challenger.run_id)
    assert (logged.data.params["steps"], logged.data.params["learning_rate"]) == ("2", "0.01")
    artifacts = {file.path for file in registry.client.list_artifacts(challenger.run_id)}
    assert artifacts == {"model", "curves.png", "decision.json"}

    registry.copy(challenger, tmp_path / "copy")
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "fine-tuned for `it` from sussurro-1, 2 steps" in card
    assert ", guard" in card  # the corpus before it
    loaded, told = WhisperForConditionalGeneration.from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert loaded.config.d_model == 16
    assert not told["missing_keys"]
    in_use = challenger if record["promoted"] else base
    weights = (registry.files(in_use) / "model.safetensors").read_bytes()
    assert (store.champion / "model.safetensors").read_bytes() == weights


def test_make_monitor_answers(store: Store) -> None:
    port = str(free_port())
    monitor = ["make", "monitor", f"STORE={store.folder}", f"PORT={port}"]
    with subprocess.Popen(
        monitor, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as page:
        try:
            assert any(line.startswith("ready: ") for line in page.stdout), "the monitor ended before it was ready"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.status == 200
        finally:
            os.killpg(page.pid, 15)
