"""The registry: versions once, one champion, a copy of it that mends itself, and no request that leaves the machine."""

from pathlib import Path

from daily.registry import MODEL, open_registry


def a_model(folder: Path, weights: str) -> Path:
    """A folder such as an export writes, with other weights."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"# {weights}\n")
    return folder


def test_a_version_keeps_its_parameters_metrics_pictures_card_and_folder(tmp_path: Path) -> None:
    store, picture = tmp_path / "store", tmp_path / "curves.png"
    picture.write_bytes(b"picture")
    registry = open_registry(store)
    settings = {"learning_rate": 1e-5, "lora": {"rank": 8}}
    made = registry.register(
        MODEL,
        "2026-11-23",
        a_model(tmp_path / "a", "one"),
        parameters=settings,
        metrics={"test_wer": 8.25},
        files=[picture],
        note="better by 1.2 points",
    )
    run = registry.client.get_run(made.run_id)
    assert run.data.params == {"learning_rate": "1e-05", "lora.rank": "8"}
    assert run.info.status == "FINISHED"
    assert {file.path for file in registry.client.list_artifacts(made.run_id)} == {"model", "curves.png"}
    assert (made.number, made.day, made.aliases, made.metrics) == (1, "2026-11-23", ("challenger",), {"test_wer": 8.25})
    assert made.note == "better by 1.2 points"
    registry.copy(made, tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "# one\n"
