"""Replay: a mixture holds the day and a sample of older days that were heard, made once and drawn by the seed."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from daily.features import FeaturesConfig, make_features
from daily.replay import mix
from daily.store import open_store
from data.errors import UserError
from data.records import Shards, encode
from data.verify import VerifyConfig, verify
from tests.made_features import DAY, NEXT, hear, tree

pytestmark = pytest.mark.usefixtures("stand_ins")


@pytest.fixture
def config(small_day: FeaturesConfig, tmp_path: Path) -> FeaturesConfig:
    return replace(small_day, store=tmp_path / "store")


def test_a_mixture_holds_the_day_and_a_sample_of_older_days_record_for_record(
    config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = ["2026-11-21", "2026-11-22", DAY, NEXT]
    for day in days:
        make_features(replace(config, day=day))
    store = open_store(config.store)
    hear(store, *days)
    sync, synced = os.fsync, set[int]()

    def spied(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", spied)
    shards = mix(store, DAY, replay=1.4)
    assert {path.stat().st_ino for path in (shards / f"train-{DAY}").iterdir()} <= synced
    assert shards == store.run(DAY) / "shards"
    verify(VerifyConfig(str(shards)))
    mixed = Shards.open(shards, f"train-{DAY}")
    found = Counter(str(clip_id)[:10] for clip_id in mixed.index["id"])
    assert found[DAY] == 5
    assert found["2026-11-21"] + found["2026-11-22"] == 7 == len(mixed) - 5
    assert len(set(mixed.index["id"])) == len(mixed)
    assert mixed.manifest["days"] == dict(found)
    for position in range(len(mixed)):
        record = mixed[position]
        source = Shards.open(store.shards, record.id[:10])
        (at,) = np.flatnonzero(source.index["id"] == record.id)
        assert encode(record) == encode(source[int(at)])


def test_a_mixture_is_made_once_and_drawn_by_the_seed(config: FeaturesConfig) -> None:
    for day in ("2026-11-21", "2026-11-22", DAY):
        make_features(replace(config, day=day, clips=8))
    store = open_store(config.store)
    hear(store, "2026-11-21", "2026-11-22")
    before = tree(mix(store, DAY, replay=0.5))
    assert tree(mix(store, DAY, replay=0.5)) == before
    with pytest.raises(UserError, match=r"holds another mixture \(replay is 0.5 there, 1.0 asked"):
        mix(store, DAY, replay=1.0)
    shutil.rmtree(store.run(DAY))
    assert tree(mix(store, DAY, replay=0.5)) == before
    shutil.rmtree(store.run(DAY))
    assert tree(mix(store, DAY, replay=0.5, seed=1)) != before


def test_a_mixture_is_kept_when_an_earlier_day_comes_later_and_when_the_store_is_moved(config: FeaturesConfig) -> None:
    make_features(config)
    mixture = tree(mix(open_store(config.store), DAY))
    make_features(replace(config, day="2026-11-22"))  # made up for
    hear(open_store(config.store), "2026-11-22")
    moved = config.store.rename(config.store.with_name("moved"))
    assert tree(mix(open_store(moved), DAY)) == mixture


def test_a_day_that_was_not_heard_is_not_replayed(config: FeaturesConfig) -> None:
    """Such as one beyond the window of days that the loop makes up for."""
    for day in ("2026-11-21", "2026-11-22", DAY):
        make_features(replace(config, day=day))
    store = open_store(config.store)
    hear(store, "2026-11-22")
    assert Shards.open(mix(store, DAY, replay=100), f"train-{DAY}").manifest["days"] == {DAY: 5, "2026-11-22": 5}


def test_the_first_day_is_mixed_with_nothing_and_more_than_there_is_gives_all(config: FeaturesConfig) -> None:
    for day in (DAY, NEXT):
        make_features(replace(config, day=day))
    store = open_store(config.store)
    hear(store, DAY)
    assert len(Shards.open(mix(store, DAY), f"train-{DAY}")) == 5
    assert len(Shards.open(mix(store, NEXT, replay=100), f"train-{NEXT}")) == 10


def test_days_of_other_features_are_not_mixed(config: FeaturesConfig) -> None:
    for day in (DAY, NEXT):
        make_features(replace(config, day=day))
    store = open_store(config.store)
    hear(store, DAY)
    manifest = store.shards / DAY / "manifest.json"
    changed = json.loads(manifest.read_text()) | {"tokenizer_sha256": "0"}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="cannot be mixed with 2026-11-24"):
        mix(store, NEXT)
    assert not (store.run(NEXT) / "shards" / f"train-{NEXT}").exists()
    with pytest.raises(UserError, match="has no split '2026-11-25'"):
        mix(store, "2026-11-25")
