"""Days of the real stages with a small model, crashes between their steps: what the store and the registry hold then.

Two days; `make test-thorough ARGS=tests/test_daily_lived.py` lives sixty, for about half an hour, and a day more by
`make daily` in processes of its own. tests/test_daily_simulation.py strikes between any two steps, with stages that
only keep the real ones' promises. Then README's `make daily STORE=store` and `make monitor STORE=store PORT=7861` on
the store. Festival's stand-in speaks, and what the model hears is nonsense; that each stage finds what the one before
it wrote is not.
"""

import json
import os
import subprocess
import sys
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from transformers import WhisperForConditionalGeneration

from daily.day_progress import days_begun, read_progress
from daily.registry import CONFIDENCE, MODEL, Registry, open_registry
from daily.store import Store, connect, open_store
from daily.takes import read_metadata
from tests import lived_days
from tests.conftest import REPOSITORY, THOROUGH
from tests.festival import path_with_stand_in
from tests.page_process import free_port
from tests.test_readme import environment

NUMBER = 60 if THOROUGH else 2
DAYS = [(lived_days.FIRST + timedelta(number)).isoformat() for number in range(NUMBER)]
CLIPS = 6


def settings() -> dict[str, str]:
    return environment() | {"PATH": path_with_stand_in(), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def lived(terse_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    """The store after the days, and what struck."""
    folder = tmp_path_factory.mktemp("lived") / "store"
    command = [sys.executable, "-m", "tests.lived_days", str(folder), str(terse_model_dir), str(NUMBER)]
    found = subprocess.run(command, cwd=REPOSITORY, env=settings(), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-5000:]
    return open_store(folder), json.loads(found.stdout)


@pytest.fixture(scope="module")
def registry(lived: tuple[Store, dict[str, Any]]) -> Registry:
    return open_registry(lived[0].folder)


def test_crashes_struck_every_stage_that_changes_the_store(lived: tuple[Store, dict[str, Any]]) -> None:
    """A stage that was done makes no changes any more, so that some strikes find nothing to strike."""
    found = lived[1]
    assert {stage for stage, count in found["changes"].items() if count} == set(lived_days.STAGES) - {"confidence"}
    assert 0.8 * found["tried"] <= len(found["struck"]) <= found["tried"]
    assert found["tried"] >= 0.85 * (NUMBER - 1)
    pairs = {(strike["stage"], strike["who"]) for strike in found["struck"]}
    assert len(pairs) >= min(10, len(found["struck"])), pairs


def test_the_history_has_every_clip_of_every_day_exactly_once(lived: tuple[Store, dict[str, Any]]) -> None:
    """Of the six sentences of a day the stand-in may refuse one, which is left out."""
    store = lived[0]
    spoken = [(day, len(read_metadata(store.clips(day)))) for day in DAYS]
    assert all(CLIPS - 1 <= clips <= CLIPS for _, clips in spoken)
    for view in ("history", "features"):
        with connect(store) as connection:
            rows = connection.execute(f"select day, count(*), count(distinct id) from {view} group by day").fetchall()
        assert sorted(rows) == [(day, clips, clips) for day, clips in spoken], view
    assert days_begun(store.folder) == DAYS
    for day in DAYS:
        assert all(read_progress(store.folder, day).done(stage) for stage in lived_days.STAGES[:-1]), day


def test_every_day_has_one_challenger_in_the_registry(lived: tuple[Store, dict[str, Any]], registry: Registry) -> None:
    """Each was decided upon once, against the champion of its time; later days may come before a failed training."""
    versions = registry.versions(MODEL)
    assert versions[0].key == "base"
    assert sorted(version.key for version in versions[1:]) == DAYS
    champion = 1
    for version in versions[1:]:
        decision = json.loads((lived[0].run(version.key) / "decision.json").read_text())
        assert (decision["day"], decision["version"]) == (version.key, version.number)
        assert decision["champion"] == champion, version.key
        champion = version.number if decision["promoted"] else champion
        assert bool(version.promoted) == decision["promoted"]
    now = registry.champion(MODEL)
    assert now is not None
    assert now.number == champion
    weights = (registry.files(now) / "model.safetensors").read_bytes()
    assert (lived[0].champion / "model.safetensors").read_bytes() == weights
    keys = [version.key for version in registry.versions(CONFIDENCE)]
    assert len(keys) == len(set(keys))


def test_each_day_was_heard_by_the_champion_of_the_day_before(
    lived: tuple[Store, dict[str, Any]], registry: Registry
) -> None:
    """Before anything was trained on it."""
    with connect(lived[0]) as connection:
        heard = dict(connection.execute("select distinct day, model_version from history").fetchall())
    assert len(heard) == len(DAYS)
    champions = {version.key: version.number for version in registry.versions(MODEL) if version.promoted}
    for number, day in enumerate(DAYS):
        before = [champions[key] for key in ("base", *DAYS[:number]) if key in champions]
        assert heard[day] == str(before[-1]), day


def test_nothing_that_was_killed_is_left_beside_the_results(lived: tuple[Store, dict[str, Any]]) -> None:
    folder = lived[0].folder
    assert sorted(path.stem for path in (folder / "features").glob("[!.]*")) == sorted([*DAYS, "guard", "test"])
    assert not list(folder.glob("runs/*/run/checkpoints"))
    shown = json.loads((folder / "monitor" / "monitor.json").read_text())
    assert shown["days"][-1]["day"] == DAYS[-1]


def test_a_challenger_has_its_parameters_scores_and_card_and_transformers_loads_it(
    lived: tuple[Store, dict[str, Any]], registry: Registry, tmp_path: Path
) -> None:
    store = lived[0]
    base, *_, challenger = registry.versions(MODEL)
    out = store.run(challenger.key)
    record = json.loads((out / "decision.json").read_text())
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
    assert "| guard |" in card
    loaded, told = WhisperForConditionalGeneration.from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert loaded.config.d_model == 16
    assert not told["missing_keys"]


def test_make_daily_finds_everything_done_and_begins_another_day(
    lived: tuple[Store, dict[str, Any]], terse_model_dir: Path
) -> None:
    folder = lived[0].folder
    options = [f'--{stage}="{said.format(model=terse_model_dir)}"' for stage, said in lived_days.OPTIONS.items()]

    def make_daily(day: str) -> str:
        words = ["make", "daily", f"STORE={folder}", f"DAY={day}", f"ARGS={' '.join(options)}"]
        done = subprocess.run(words, cwd=REPOSITORY, env=settings(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.splitlines()[-1]

    assert make_daily(DAYS[-1]) == f"{DAYS[-1]}: everything is done"
    if THOROUGH:
        another = (lived_days.FIRST + timedelta(NUMBER)).isoformat()
        make_daily(another)
        assert all(read_progress(folder, another).done(stage) for stage in lived_days.STAGES)


def test_make_monitor_answers(lived: tuple[Store, dict[str, Any]]) -> None:
    port = str(free_port())
    monitor = ["make", "monitor", f"STORE={lived[0].folder}", f"PORT={port}"]
    with subprocess.Popen(
        monitor, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as page:
        try:
            assert page.stdout is not None
            assert any(line.startswith("ready: ") for line in page.stdout), "the monitor ended before it was ready"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.status == 200
        finally:
            os.killpg(page.pid, 15)
