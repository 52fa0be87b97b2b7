"""The registry: versions once, one champion, and a copy of it that mends itself."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from daily.champion import champion_of
from daily.registry import CONFIDENCE, MODEL, Registry, open_registry
from daily.registry_files import CONFIDENCE_FILE, PLACED
from daily.registry_version import KEY
from daily.store import create_store
from data.errors import UserError


def a_model(folder: Path, weights: str) -> Path:
    """A folder such as an export writes, with other weights."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"# {weights}\n")
    return folder


@pytest.fixture
def registry(empty_registry: Path, tmp_path: Path) -> Registry:
    """A new registry; its store was moved, as a person may move one."""
    shutil.copytree(empty_registry, tmp_path / "store")
    return open_registry(tmp_path / "store")


def with_versions(registry: Registry, *days: str) -> Registry:
    """The registry with a version for each day, whose weights are the day."""
    for day in days:
        registry.register(MODEL, day, a_model(registry.store / "made" / day, day))
    return registry


def champion_weights(registry: Registry) -> str:
    return (registry.store / "champion" / "model.safetensors").read_text()


def test_a_version_keeps_its_parameters_metrics_pictures_card_and_folder(registry: Registry, tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"picture")
    made = registry.register(
        MODEL,
        "2026-11-23",
        a_model(tmp_path / "a", "one"),
        parameters={"learning_rate": 1e-5, "lora": {"rank": 8}},
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


def test_a_day_is_registered_once_however_often_it_is_run(registry: Registry, tmp_path: Path) -> None:
    first = with_versions(registry, "2026-11-23").versions(MODEL)
    registry.register(MODEL, "2026-11-23", a_model(tmp_path / "other", "other"))
    assert registry.versions(MODEL) == first
    registry.register(MODEL, "2026-11-23", a_model(tmp_path / "base", "base"), key="base")
    assert [(version.number, version.key) for version in registry.versions(MODEL)] == [(1, "2026-11-23"), (2, "base")]


def test_a_registration_that_was_killed_leaves_no_files_of_it_behind(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_model(tmp_path / "a", "one")
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.client), "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.register(MODEL, "2026-11-23", folder)
    assert registry.versions(MODEL) == []
    made = registry.register(MODEL, "2026-11-23", folder)
    runs = registry.client.search_runs([registry.experiment])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert [path.name for path in (registry.store / "registry" / "artifacts").iterdir()] == [made.run_id]


def killed(*_args: object, **_kwargs: object) -> None:
    raise KeyboardInterrupt


def test_a_version_whose_command_was_killed_before_it_was_the_challenger_becomes_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_versions(registry, "2026-11-22")
    folder = a_model(tmp_path / "a", "one")
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.client), "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.register(MODEL, "2026-11-23", folder)
    assert registry.register(MODEL, "2026-11-23", folder).aliases == ("challenger",)
    registry.register(MODEL, "2026-11-22", folder)  # an older one is not
    assert [version.aliases for version in registry.versions(MODEL)] == [(), ("challenger",)]


def test_a_version_that_a_person_registered_is_passed_over(registry: Registry) -> None:
    with_versions(registry, "2026-11-23").promote(MODEL, 1)
    registry.client.create_model_version(MODEL, str(registry.store), description="by hand")
    with_versions(registry, "2026-11-24").promote(MODEL, 3)
    assert [version.number for version in registry.versions(MODEL)] == [1, 3]
    assert champion_weights(registry) == "2026-11-24"


def test_versions_stand_in_the_order_of_their_numbers_which_a_server_gives_as_text(registry: Registry) -> None:
    given = [SimpleNamespace(version=number, tags={KEY: number}) for number in ("10", "9", "2")]
    client = SimpleNamespace(search_model_versions=lambda _: given)
    found = dataclasses.replace(registry, client=client)._found(MODEL)  # type: ignore[arg-type]
    assert [version.version for version in found] == ["2", "9", "10"]


def test_the_copy_is_made_again_when_another_registry_gives_the_same_number(registry: Registry) -> None:
    """As a store had that was given another registry: version 1 of both."""
    with_versions(registry, "2026-11-23").promote(MODEL, 1)
    (registry.store / "champion" / "model.safetensors").write_text("the other's")
    registry.place()
    assert champion_weights(registry) == "the other's"
    (registry.store / "champion" / PLACED).write_text(f"{MODEL} 1 {'0' * 32}\n")
    registry.place()
    assert champion_weights(registry) == "2026-11-23"


def test_a_champion_stands_in_the_store_with_the_confidence_model_and_is_replaced_whole(
    registry: Registry, tmp_path: Path
) -> None:
    assert registry.place() is None
    with_versions(registry, "2026-11-23", "2026-11-24").promote(MODEL, 1)
    assert champion_weights(registry) == "2026-11-23"
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / CONFIDENCE_FILE).write_text('{"trees": 1}')
    registry.register(CONFIDENCE, "2026-11-23", tmp_path / "trusted")
    assert not (registry.store / "champion" / CONFIDENCE_FILE).exists()
    registry.promote(CONFIDENCE, 1)
    registry.promote(MODEL, 2)
    assert champion_weights(registry) == "2026-11-24"
    assert json.loads((registry.store / "champion" / CONFIDENCE_FILE).read_text()) == {"trees": 1}
    assert [version.aliases for version in registry.versions(MODEL)] == [(), ("challenger", "champion")]
    assert {path.name for path in registry.store.iterdir()} == {
        *("champion", "made", "registry", "registry.json", ".champion.lock"),
    }


def test_a_promotion_killed_before_the_copy_is_mended_by_the_next_command(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_versions(registry, "2026-11-23", "2026-11-24").promote(MODEL, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "copy", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(MODEL, 2)
    assert champion_weights(registry) == "2026-11-23"  # the old one, whole
    registry.place()
    assert champion_weights(registry) == "2026-11-24"
    (registry.store / ".champion-left").mkdir()
    (registry.store / "champion").rename(registry.store / ".champion-left" / "old")  # a kill between the two renames
    registry.place()
    assert not (registry.store / ".champion-left").exists()
    assert champion_weights(registry) == "2026-11-24"


def test_roll_back_goes_to_the_champion_before_and_again_to_the_one_before_that(registry: Registry) -> None:
    with_versions(registry, "2026-11-23", "2026-11-24", "2026-11-25")
    for number in (1, 2, 3):
        registry.promote(MODEL, number)
    assert registry.roll_back(MODEL).number == 2
    assert champion_weights(registry) == "2026-11-24"
    assert registry.roll_back(MODEL).number == 1
    with pytest.raises(UserError, match="version 1 is the first champion"):
        registry.roll_back(MODEL)
    assert registry.roll_back(MODEL, 3).number == 3
    assert [registry.roll_back(MODEL).number for _ in range(2)] == [2, 1]  # as before 3 was chosen again
    with pytest.raises(UserError, match="no version 4: there are 1, 2, 3"):
        registry.roll_back(MODEL, 4)
    assert champion_weights(registry) == "2026-11-23"


def test_a_roll_back_to_a_version_without_files_changes_nothing(registry: Registry) -> None:
    with_versions(registry, "2026-11-23", "2026-11-24", "2026-11-25")
    for number in (1, 2, 3):
        registry.promote(MODEL, number)
    first, second, _ = registry.versions(MODEL)
    shutil.rmtree(registry.files(first))
    (registry.files(second) / "model.safetensors").unlink()
    for number in (1, 2, None):
        with pytest.raises(UserError, match="is gone; roll back to another"):
            registry.roll_back(MODEL, number)
    assert [version.number for version in registry.versions(MODEL) if "champion" in version.aliases] == [3]
    registry.place()
    assert champion_weights(registry) == "2026-11-25"


def test_a_champion_that_a_person_deleted_is_not_replaced_by_the_pretrained_model(
    registry: Registry, tmp_path: Path
) -> None:
    with_versions(registry, "2026-11-23", "2026-11-24", "2026-11-25").promote(MODEL, 1)
    registry.promote(MODEL, 2)
    registry.client.delete_model_version(MODEL, "2")
    store = create_store(registry.store, "it", str(a_model(tmp_path / "base", "base")), 80, "0")
    for lost in (lambda: champion_of(store), lambda: registry.roll_back(MODEL)):
        with pytest.raises(UserError, match="is gone from the registry; choose one of those before it, 1: `make roll"):
            lost()
    assert champion_weights(registry) == "2026-11-24"
    registry.roll_back(MODEL, 1)
    assert champion_of(store)[1].number == 1


def test_a_pretrained_model_without_safetensors_is_refused(registry: Registry, tmp_path: Path) -> None:
    (a_model(tmp_path / "base", "base") / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    store = create_store(registry.store, "it", str(tmp_path / "base"), 80, "0")
    with pytest.raises(UserError, match=r"base: has no \*\.safetensors"):
        champion_of(store)
    assert registry.versions(MODEL) == []


def test_a_full_disk_is_said_to_be_that(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its errno, by which `data.errors.command` knows it."""

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_versions(registry, "2026-11-23")
    (tmp_path / "a").mkdir()
    for act, fails in (
        (lambda: registry.promote(MODEL, 1), "copyfile"),
        (lambda: registry.register(MODEL, "2026-11-24", registry.files(registry.version(MODEL, 1))), "copyfileobj"),
    ):
        with monkeypatch.context() as patch:
            for name in {fails, "copy2"}:
                patch.setattr(shutil, name, full)
            with pytest.raises(OSError, match="No space left") as caught:
                act()
        assert caught.value.errno == errno.ENOSPC


def test_metrics_of_all_versions_are_asked_for_at_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in with_versions(registry, "2026-11-23", "2026-11-24").versions(MODEL):
        registry.measure(version, {"test_wer": 10.0 + version.number})
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.client), "get_run", None)
        assert [version.metrics for version in registry.versions(MODEL)] == [{"test_wer": 11.0}, {"test_wer": 12.0}]


def test_only_weights_that_never_were_champion_are_deleted_and_they_are_refused_as_champion(registry: Registry) -> None:
    with_versions(registry, "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26")
    registry.promote(MODEL, 1)
    registry.promote(MODEL, 3)
    assert registry.drop_weights(MODEL) == [2]
    assert registry.drop_weights(MODEL) == []
    there = [(registry.files(version) / "model.safetensors").exists() for version in registry.versions(MODEL)]
    assert there == [True, False, True, True]
    with pytest.raises(UserError, match="version 2: its weights were deleted"):
        registry.promote(MODEL, 2)
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.number == 3


def test_weights_are_deleted_before_they_are_noted_as_gone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command killed between the two would leave them lying there for good."""
    with_versions(registry, "2026-11-23", "2026-11-24")
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_tag", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.drop_weights(MODEL)
    assert registry.drop_weights(MODEL) == [1]
    there = [(registry.files(version) / "model.safetensors").exists() for version in registry.versions(MODEL)]
    assert there == [False, True]
