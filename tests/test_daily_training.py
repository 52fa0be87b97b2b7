"""The day's challenger: trained once however often the day is killed, and promoted only if it is better."""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import pytest

from daily import registry, training
from daily.commands import CommandError
from daily.registry import MODEL, open_registry
from daily.rollback import RollbackConfig, roll_back
from daily.store import FEATURES, PREDICTIONS, create_store, open_store, write_table
from daily.training import TrainingConfig, train_day
from data.errors import UserError
from tests.scripted_training import Commands, write

DAY, NEXT = "2026-11-23", "2026-11-24"


@pytest.fixture(scope="module")
def first_day(empty_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after two days' features and the first day's inference: its champion is the pretrained model."""
    folder = tmp_path_factory.mktemp("training")
    pretrained, store = folder / "whisper-pretrained", folder / "store"
    write(pretrained / "config.json", {})
    (pretrained / "model.safetensors").write_text("pretrained")
    shutil.copytree(empty_registry, store)
    opened = create_store(store, "it", str(pretrained), 80, "0" * 64)
    for split in (DAY, NEXT, "test", "guard"):
        write(store / "shards" / split / "manifest.json", {})
    for day in (DAY, NEXT, "2026-11-25"):
        write_table(PREDICTIONS, opened.predictions(day), [])
    _, version = training.champion_of(opened)
    assert (version.number, version.key, version.aliases) == (1, "base", ("challenger", "champion"))
    assert version.note == "whisper-pretrained as it was published"
    return store


@pytest.fixture
def store(first_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(first_day, tmp_path / "store")

    def mixed(opened: training.Store, day: str, *_: object) -> None:
        write(opened.run(day) / "shards" / f"train-{day}" / "manifest.json", {})

    monkeypatch.setattr(training, "mix", mixed)
    return tmp_path / "store"


def scripted(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Commands:
    monkeypatch.setattr(training, "run", commands)
    return commands


def champion_weights(store: Path) -> str:
    return (store / "champion" / "model.safetensors").read_text()


def test_a_better_challenger_becomes_champion_and_the_next_day_starts_from_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = scripted(monkeypatch, Commands())
    record = train_day(TrainingConfig(store, DAY), [])
    assert (record["champion"], record["version"], record["promoted"]) == (1, 2, True)
    assert champion_weights(store) == str(store / "runs" / DAY / "run")
    commands.names.clear()
    assert train_day(TrainingConfig(store, NEXT), [])["champion"] == 2
    assert commands.names.count("evaluate") == 2  # the champion was scored on the day it was the challenger
    base, first, second = open_registry(store).versions(MODEL)
    assert (base.metrics["test_wer"], first.metrics["test_wer"], first.metrics["guard_cer_low"]) == (20, 18, 8)
    assert (base.aliases, first.replaced, second.replaced) == ((), 1, 2)
    assert second.note == record["reason"]


def test_every_setting_is_given_to_what_it_is_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next day's champion was scored on other windows than that day's challenger, and is scored anew."""
    commands, mix, mixed = scripted(monkeypatch, Commands(guard_change=0.1)), training.mix, list[object]()
    monkeypatch.setattr(training, "mix", lambda *given: mix(*given) or mixed.append(given[1:]))
    settings = {"replay": 0.5, "steps": 3, "batch_size": 4, "learning_rate": 2e-5, "margin": 0.2, "seed": 7}
    config = TrainingConfig(store, DAY, **settings, score_windows="whole", score_batch_size=5)  # type: ignore[arg-type]
    assert train_day(config, [])["promoted"]
    assert mixed == [(DAY, 0.5, 7)]
    trained, scored = (commands.given[name] for name in ("train", "evaluate"))
    assert [trained[f"--{name}"] for name in ("steps", "batch-size", "learning-rate")] == ["3", "4", "2e-05"]
    assert (scored["--windows"], scored["--batch-size"]) == ("whole", "5")
    commands.names.clear()
    assert not train_day(dataclasses.replace(config, day=NEXT, margin=0.0, score_windows="thinned"), [])["promoted"]
    assert commands.names.count("evaluate") == 4
    seeds = {trained["--seed"], commands.given["train"]["--seed"]}
    training.mix(open_store(store), DAY)  # of whose settings nothing more is asked
    training._train(dataclasses.replace(config, seed=8), store / "runs" / DAY, DAY, store / "champion", [])
    assert len(seeds | {commands.given["train"]["--seed"]}) == 3


def test_a_challenger_that_is_not_better_leaves_the_champion_and_only_its_own_weights_are_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, Commands(change=-0.5))
    assert not train_day(TrainingConfig(store, DAY), [])["promoted"]
    assert not train_day(TrainingConfig(store, NEXT), [])["promoted"]
    versions = open_registry(store).versions(MODEL)
    assert champion_weights(store) == "pretrained"
    assert [version.aliases for version in versions] == [("champion",), (), ("challenger",)]
    assert [version.dropped for version in versions] == [False, True, False]
    left = {str(path.relative_to(store / "runs")) for path in (store / "runs").rglob("*") if path.is_file()}
    assert not [path for path in left if "checkpoints" in path or "safetensors" in path or "shards" in path]
    assert {f"{DAY}/decision.json", f"{DAY}/run/curves.png", f"{DAY}/compare-guard/compare.json"} < left


def test_a_day_killed_before_any_of_its_commands_is_continued_where_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, done = scripted(monkeypatch, Commands()), list[str]()
    for kills in range(99):
        commands.names, commands.kill_at = [], kills
        try:
            record = train_day(TrainingConfig(store, DAY), [])
            break
        except KeyboardInterrupt:
            done += commands.names
    assert kills == 5  # at most four quick commands are run again, so a kill that comes later each time ends
    assert (record["version"], record["promoted"]) == (2, True)
    assert (done.count("evaluate"), done.count("export")) == (4, 1)  # what takes long is not done again
    assert champion_weights(store) == str(store / "runs" / DAY / "run")


@pytest.mark.parametrize(
    ("place", "act"),
    [
        (registry.Registry, "register"),
        (registry.Registry, "promote"),
        (registry, "_now"),  # the alias is set, the time is not
        (registry.Registry, "drop_weights"),
    ],
)
def test_a_day_killed_in_the_registry_is_registered_and_promoted_once(
    store: Path, monkeypatch: pytest.MonkeyPatch, place: object, act: str
) -> None:
    scripted(monkeypatch, Commands())

    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, act, killed)
        with pytest.raises(KeyboardInterrupt):
            train_day(TrainingConfig(store, DAY), [])
    assert train_day(TrainingConfig(store, DAY), [])["promoted"]
    versions = open_registry(store).versions(MODEL)
    assert [(version.key, bool(version.promoted)) for version in versions] == [("base", True), (DAY, True)]
    assert champion_weights(store) == str(store / "runs" / DAY / "run")


def test_a_day_is_trained_once(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    commands = scripted(monkeypatch, Commands())
    record = train_day(TrainingConfig(store, DAY), [])
    commands.names.clear()
    roll_back(RollbackConfig(store))
    assert train_day(TrainingConfig(store, DAY), []) == record
    assert commands.names == []
    assert "already decided" in capsys.readouterr().out
    assert champion_weights(store) == "pretrained"  # a roll-back stands


def test_a_roll_back_while_a_challenger_trains_stands_and_the_next_day_starts_from_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = scripted(monkeypatch, Commands())
    train_day(TrainingConfig(store, DAY), [])
    commands.before["export"] = lambda: roll_back(RollbackConfig(store))
    record = train_day(TrainingConfig(store, NEXT), [])
    assert not record["promoted"]
    assert record["reason"].startswith("not promoted: the champion was changed while this ran, from version 2")
    assert champion_weights(store) == "pretrained"


def test_rolling_back_to_a_version_whose_weights_are_gone_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, Commands(change=0.0))
    train_day(TrainingConfig(store, DAY), [])
    train_day(TrainingConfig(store, NEXT), [])
    with pytest.raises(UserError, match="version 2: its weights were deleted"):
        roll_back(RollbackConfig(store, version=2))
    assert roll_back(RollbackConfig(store, version=3)).number == 3
    assert champion_weights(store) == str(store / "runs" / NEXT / "run")


def test_wrong_input_is_refused_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    for settings, said in [
        ({"store": tmp_path / "none"}, "no store"),
        ({"day": "2026-11-31"}, "not a date"),
        ({"day": "2026-11-26"}, "was not heard yet, .*: run `make daily-inference DAY=2026-11-26` first"),
        ({"day": "2026-11-25"}, "has no 2026-11-25: run `make daily-features DAY=2026-11-25` first"),
    ]:
        config = dataclasses.replace(TrainingConfig(store, DAY), **settings)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=said):
            train_day(config, [])
    for numbers in ({"replay": math.inf}, {"replay": -1.0}, {"margin": math.nan}, {"learning_rate": math.inf}):
        with pytest.raises(UserError, match=f"--{next(iter(numbers)).replace('_', '-')} "):
            TrainingConfig(store, DAY, **numbers)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--steps"):
        TrainingConfig(store, DAY, steps=0)
    assert not (store / "runs").exists()


def test_a_broken_decision_is_named_with_the_command_that_makes_it_again(store: Path) -> None:
    (store / "runs" / DAY).mkdir(parents=True)
    (store / "runs" / DAY / "decision.json").touch()
    with pytest.raises(
        UserError, match=f"decision.json is not JSON .*delete this file .* `make daily-train DAY={DAY}`"
    ):
        train_day(TrainingConfig(store, DAY), [])


def test_the_champions_copy_is_on_the_disk_before_it_has_its_name(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, found = store / "runs" / DAY, list[list[str]]()
    monkeypatch.setattr(os, "sync", lambda: found.append([path.parent.name for path in out.rglob("*.safetensors")]))
    _, folder = training._start(open_store(store), out)
    assert found == [["model"]]
    assert (folder / "model.safetensors").is_file()


def test_a_quiet_day_is_not_trained_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = scripted(monkeypatch, Commands())
    write_table(FEATURES, open_store(store).features("2026-11-25"), [])
    assert train_day(TrainingConfig(store, "2026-11-25"), []) == {}
    assert commands.names == []
    assert [version.key for version in open_registry(store).versions(MODEL)] == ["base"]


def test_a_training_that_was_asked_to_stop_is_not_scored(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = scripted(monkeypatch, Commands())
    monkeypatch.setattr(commands, "train", lambda **_: None)  # SIGTERM: the trainer saves and ends well
    with pytest.raises(UserError, match="was stopped; run the same command again"):
        train_day(TrainingConfig(store, DAY), [])
    assert commands.names == ["train"]


def test_a_failed_command_ends_the_day_with_its_line(store: Path) -> None:
    with pytest.raises(CommandError, match=r"jax_train\.train: --batch-size 7 does not divide by 8 devices"):
        train_day(TrainingConfig(store, DAY, batch_size=7), [])  # conftest.py gives every process eight
    assert not (store / "runs" / DAY / "decision.json").exists()
