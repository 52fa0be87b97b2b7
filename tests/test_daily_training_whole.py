"""A day's training by the real commands, called in this process, which spares their start."""

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from daily import training
from daily.registry import MODEL, open_registry
from daily.store import create_store
from daily.training import TrainingConfig, train_day
from data.records import Shards

DAY = "2026-11-23"
OPTIONS = ["--keep-best", "2"]


def in_this_process(monkeypatch: pytest.MonkeyPatch, command: Sequence[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", command[2:])
        importlib.import_module(command[2]).main()


def test_a_day_trains_scores_exports_and_registers_a_model_that_pytorch_proved(
    small_model_dir: Path, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Shards.open(small_shards, "train").manifest
    store = create_store(tmp_path / "store", "it", str(small_model_dir), 80, manifest["tokenizer_sha256"])
    for split, source in ((DAY, "train"), ("test", "test"), ("guard", "test")):
        shutil.copytree(small_shards / source, store.shards / split)
    monkeypatch.setattr(training, "run", lambda command: in_this_process(monkeypatch, command))
    config = TrainingConfig(  # the steps of test_export.py, whose compiled programs are kept
        store.folder, DAY, steps=2, batch_size=8, learning_rate=1e-2, score_windows="whole", score_batch_size=1
    )
    record = train_day(config, OPTIONS)

    registry = open_registry(store.folder)
    base, challenger = registry.versions(MODEL)
    assert record["version"] == 2
    out = store.run(DAY)
    assert json.loads((out / "decision.json").read_text()) == record
    for split, run in (("test", out / "run"), ("guard", out / "run")):
        scores = json.loads((run / f"evaluate-{split}" / "scores.json").read_text())
        assert challenger.metrics[f"{split}_wer"] == scores["wer_normalised"] == record[split]["challenger"]
        assert base.metrics[f"{split}_wer"] == record[split]["champion"]
    logged = registry.client.get_run(challenger.run_id).data.params
    assert (logged["steps"], logged["learning_rate"], logged["keep_best"]) == ("2", "0.01", "2")
    assert {file.path for file in registry.client.list_artifacts(challenger.run_id)} == {
        "model",
        "curves.png",
        "decision.json",
    }

    registry.copy(challenger, tmp_path / "copy")
    assert "fine-tuned for `it` from sussurro-1, 2 steps" in (tmp_path / "copy" / "README.md").read_text()
    assert "| guard |" in (tmp_path / "copy" / "README.md").read_text()
    proved = json.loads((tmp_path / "copy" / "export.json").read_text())  # by PyTorch, which loaded every weight
    assert (proved["step"], proved["transcripts"]["clips"]) == (2, 4)
    in_use = challenger if record["promoted"] else base
    weights = (registry.files(in_use) / "model.safetensors").read_bytes()
    assert (store.champion / "model.safetensors").read_bytes() == weights
