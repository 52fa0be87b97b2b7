"""A day's features: partitions whole or not there, tables that say what they hold, bad input that leaves nothing."""

import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from daily import features as features_module
from daily import takes as takes_module
from daily.features import FeaturesConfig, make_features
from daily.lock import LockedError, locked
from daily.sentences import is_held_back, key
from daily.store import open_store
from daily.takes import Take, take_id, write_takes
from data.errors import UserError
from data.records import Shards
from data.snr import snr_db
from data.verify import VerifyConfig, verify
from tests.conftest import REPOSITORY
from tests.made_features import DAY, NEXT, metadata_folder, table, tree

pytestmark = pytest.mark.usefixtures("stand_ins")


@pytest.fixture
def corpus(small_day: FeaturesConfig) -> Path:
    return Path(small_day.corpus)


@pytest.fixture
def config(small_day: FeaturesConfig, tmp_path: Path) -> FeaturesConfig:
    return replace(small_day, store=tmp_path / "store")


def test_a_machine_without_festival_is_told_what_to_install(
    tmp_path: Path, config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install festival festvox-italp16k festvox-itapc16k"):
        make_features(config)
    assert not (config.store / "clips" / "test").exists()


def test_the_first_day_makes_the_store_its_fixed_splits_and_the_partition(
    config: FeaturesConfig, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(config)
    store = open_store(config.store)
    assert (store.language, store.n_mels, store.days()) == ("it", 80, [DAY])
    verify(VerifyConfig(str(store.shards)))
    rows, fixed = table(store), table(store, "fixed")
    assert [row["id"] for row in rows] == [take_id(DAY, number) for number in range(5)]
    assert Counter(row["day"] for row in fixed) == {"test": 4, "guard": 3}
    assert all(is_held_back(row["sentence"]) == (row["day"] == "test") for row in [*rows, *fixed] if row["sex"])
    said = [line.split("\t")[2] for line in (corpus / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert sorted(row["sentence"] for row in fixed if row["day"] == "guard") == sorted(said)
    assert not {key(sentence) for sentence in said} & {key(row["sentence"]) for row in rows}
    assert "2026-11-23: 5 clips" in capsys.readouterr().out


def test_the_feature_table_says_what_the_records_and_the_audio_say(config: FeaturesConfig) -> None:
    """Half a sample of 16-bit audio: seconds are of the same samples, so they agree to their rounding."""
    make_features(replace(config, clips=12))
    store = open_store(config.store)
    shards = Shards.open(store.shards, DAY)
    records = {shards[position].id: shards[position] for position in range(len(shards))}
    rows = table(store)
    assert records.keys() == {row["id"] for row in rows}
    for row in rows:
        info = soundfile.info(store.folder / row["file"])
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
        assert row["seconds"] == pytest.approx(info.duration, abs=1e-4)
        assert row["snr_db"] == snr_db(records[row["id"]].log_mel_q)
        assert row["words"] == len(key(row["sentence"]).split())
        assert row["words_per_second"] == pytest.approx(row["words"] / row["seconds"], rel=1e-3)
        assert {"lp_diphone": "female", "pc_diphone": "male"}[row["voice"]] == row["sex"]
        assert row["recipe"] in config.recipes
        assert bool(row["augmentations"]) <= (row["recipe"] != "none")
    assert len({row["voice"] for row in rows}) == 2
    assert len({row["recipe"] for row in rows}) > 1


def test_a_second_run_of_a_day_changes_nothing_and_says_so(
    config: FeaturesConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(config)
    before = tree(config.store)
    capsys.readouterr()
    make_features(replace(config, clips=9, seed=3))
    assert tree(config.store) == before
    assert capsys.readouterr().out == f"{DAY} is in {config.store} already, 5 clips, 0.3 minutes; nothing to do\n"
    for split in ("guard", DAY):
        (config.store / "features" / f"{split}.parquet").write_bytes(b"")  # as a power cut leaves it
    make_features(config)
    assert tree(config.store) == before


def test_the_next_day_leaves_the_days_before_as_they_are(config: FeaturesConfig) -> None:
    make_features(config)
    before = tree(config.store)
    make_features(replace(config, day=NEXT, model=""))
    after = tree(config.store)
    assert {name: after[name] for name in before} == before
    store = open_store(config.store)
    assert store.days() == [DAY, NEXT]
    spoken = [row["sentence"] for row in table(store)]
    assert len(set(spoken)) == len(spoken) == 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a store that no run was killed on is kept, once there is one."""
    return tmp_path_factory.mktemp("undisturbed") / "store"


class KilledError(BaseException):
    """What ends a run at a chosen moment."""


@pytest.mark.parametrize(
    ("split", "moment"),
    [("guard", "table"), ("test", "shards"), *((DAY, moment) for moment in ("third clip", "clips", "shards", "table"))],
)
def test_a_day_killed_between_two_steps_ends_as_one_that_was_not(
    config: FeaturesConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, moment: str, split: str
) -> None:
    def killed(name: str, matches: str) -> None:
        """`name` of a module dies, once, when one of its arguments names the split."""
        module, _, function = name.rpartition(".")
        changed = {"features": features_module, "takes": takes_module}[module]
        original = getattr(changed, function)

        def dying(*arguments: Any, **named: Any) -> Any:
            if matches in str(arguments):
                raise KilledError
            return original(*arguments, **named)

        patch.setattr(changed, function, dying)

    with monkeypatch.context() as patch:
        killed(
            *{
                "third clip": ("takes.write_clip", take_id(split, 2)),
                "clips": ("features.featurize", f"clips/{split}/"),
                "shards": ("features._rows", f"'{split}'"),
                "table": ("features.write_table", f"{split}.parquet"),
            }[moment]
        )
        with pytest.raises(KilledError):
            make_features(config)
    assert not (config.store / "features" / f"{split}.parquet").exists()
    make_features(config)
    if not undisturbed.exists():
        make_features(replace(config, store=undisturbed))
    here, there = tree(config.store), tree(undisturbed)
    # A manifest names the folder that its clips were in.
    differ = {Path(name).name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    assert differ <= {"manifest.json"}
    assert not list(config.store.rglob(".*"))


def test_takes_are_on_the_disk_before_their_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, found = Take(np.zeros(1600, np.float32), "Sì.", "recorded", "io", "", "0"), list[bool]()
    monkeypatch.setattr(os, "sync", lambda: found.append((tmp_path / DAY).exists()))
    assert write_takes(tmp_path / DAY, [("a.flac", take)], "it", [], seed=0) == 1
    assert found == [False]


def test_the_command_that_begins_a_store_has_its_lock(config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = config.store

    def at_work(_: FeaturesConfig) -> None:
        with pytest.raises(LockedError), locked(store):
            pass
        (store / "was-locked").touch()

    monkeypatch.setattr(features_module, "make_features", at_work)
    monkeypatch.setattr(sys, "argv", ["features", "--store", str(store), "--day", DAY, "--model", config.model])
    features_module.main()
    assert (store / "was-locked").exists()


def test_a_disk_that_is_full_when_a_clip_is_written_is_one_line(
    config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day goes on once there is room: the limit is of a file's size, and above that of an empty table's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = takes_module.write_clip

    def write_to_full_disk(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patch:
        patch.setattr(takes_module, "write_clip", write_to_full_disk)
        with pytest.raises(UserError, match="file too large; nothing is lost: mend that") as full:
            make_features(config)
    assert "\n" not in str(full.value)
    make_features(config)
    assert open_store(config.store).days() == [DAY]


def test_a_day_without_anything_to_take_from_is_an_error_and_leaves_nothing(config: FeaturesConfig) -> None:
    with pytest.raises(UserError, match="2026-11-23 would be empty"):
        make_features(replace(config, clips=0))
    assert not list((config.store / "clips").glob("*2026*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clips": -1}, "--clips -1"),
        ({"day": "domani"}, "write it like 2026-11-23"),
        ({"recipes": ("loud",)}, "no recipe 'loud'"),
        ({"recipes": ()}, "no recipe given"),
        ({"corpus": "nowhere"}, "no corpus: nowhere"),
        ({"sentences": Path("nowhere.txt")}, "nowhere.txt cannot be read"),
        ({"language": "de"}, "no synthetic voice speaks 'de'"),
        ({"recorded": "nowhere"}, "no corpus: nowhere"),
        ({"clips": 100_000}, "100000 clips a day"),
    ],
)
def test_bad_input_is_one_line_and_no_day(config: FeaturesConfig, changes: dict[str, Any], said: str) -> None:
    if "language" in changes:  # the corpus says its own
        config = replace(config, corpus=str(metadata_corpus(config)))
    with pytest.raises(UserError, match=said) as refused:
        make_features(replace(config, **changes))
    assert "\n" not in str(refused.value)
    assert not (config.store / "features" / f"{DAY}.parquet").exists()


def test_the_command_ends_with_one_line_and_code_2_on_bad_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daily.features", "--store", str(tmp_path), "--day", "domani"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: day 'domani' is not a date; write it like 2026-11-23\n"
    assert not list(tmp_path.iterdir())


def test_a_store_keeps_its_language_and_model(config: FeaturesConfig) -> None:
    make_features(config)
    for changes, said in (
        ({"language": "de"}, "language is 'it' there, 'de' asked"),
        ({"model": "./m"}, "no model: ./m"),
    ):
        with pytest.raises(UserError, match=said):
            make_features(replace(config, day=NEXT, **changes))
    assert open_store(config.store).days() == [DAY]


def metadata_corpus(config: FeaturesConfig) -> Path:
    """The corpus as folders of metadata, which name no language."""
    folder = config.store.with_name("corpus")
    clip = next((Path(config.corpus) / "clips").iterdir())
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        metadata_folder(folder / split, [(clip, "Frase.")])
    return folder


def test_two_runs_never_write_one_store_at_once(config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: Any) -> None:
        with pytest.raises(UserError, match=r"another daily\.features is writing"):
            make_features(config)
        raise KilledError

    monkeypatch.setattr(features_module, "_featurize", second)
    with pytest.raises(KilledError):
        make_features(config)
