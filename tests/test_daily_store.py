"""The feature store: days appear whole and stay, readers see them through views, other schemas are refused."""

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daily.store import (
    FEATURES,
    PREDICTIONS,
    Store,
    connect,
    create_store,
    open_store,
    parse_day,
    write_table,
)
from data.errors import UserError

SETTINGS: dict[str, Any] = {"language": "it", "model": "base", "n_mels": 80, "tokenizer_sha256": "0" * 64}


def feature_row(day: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"{day}-{number:04d}.flac",
        "day": day,
        "source": "festival",
        "voice": "lp_diphone",
        "sex": "female",
        "sentence": "Uno due tre.",
        "words": 3,
        "seconds": 1.5,
        "snr_db": 20.0,
        "words_per_second": 2.0,
        "recipe": "none",
        "augmentations": "",
        "file": f"clips/{day}/{day}-{number:04d}.flac",
        "audio_sha256": f"{number:064d}",
    }
    return row | changes


def prediction_row(day: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"{day}-{number:04d}.flac",
        "day": day,
        "model_version": "1",
        "reference": "uno due tre",
        "hypothesis": "uno due te",
        "words": 3,
        "errors": 1,
        "confidence": None,
        "trusted": None,
        "right": False,
    }
    return row | changes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store", **SETTINGS)


def test_a_store_is_opened_with_the_settings_it_was_made_with(store: Store) -> None:
    assert open_store(store.folder) == store
    assert create_store(store.folder, **SETTINGS) == store


def test_a_store_of_other_settings_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="n_mels is 80 there, 128 asked"):
        create_store(store.folder, **SETTINGS | {"n_mels": 128})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no store: .* `make daily-features STORE="),
        ("{", "is not a store's settings"),
        ("[]", "is not a store's settings"),
        ('{"format": 2}', "format 2, this program reads 1"),
        ('{"format": 1, "language": "it"}', "is not a store's settings"),
    ],
)
def test_a_folder_that_is_no_store_is_refused_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "store.json").write_text(content)
    with pytest.raises(UserError, match=said) as refused:
        open_store(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_empty_store_has_empty_views(store: Store) -> None:
    connection = connect(store)
    for view in ("features", "fixed", "predictions", "history"):
        assert connection.execute(f"select count(*) from {view}").fetchone() == (0,)
    assert {*FEATURES.columns} <= {column[0] for column in connection.sql("from features").description}
    assert store.days() == []


def test_views_hold_every_day_once_and_the_fixed_splits_apart(store: Store) -> None:
    for day in ("2026-11-23", "2026-11-22"):
        write_table(FEATURES, store.features(day), [feature_row(day, number) for number in range(3)])
    write_table(FEATURES, store.features("test"), [feature_row("test", 0)])
    connection = connect(store)
    counts = connection.execute("select day, count(*) from features group by day order by day").fetchall()
    assert counts == [("2026-11-22", 3), ("2026-11-23", 3)]
    assert connection.execute("select id from fixed").fetchall() == [("test-0000.flac",)]
    assert store.days() == ["2026-11-22", "2026-11-23"]


def test_history_joins_what_was_said_with_what_was_heard(store: Store) -> None:
    """Signals that a prediction adds come along; a column of both tables has prediction_ before it."""
    write_table(FEATURES, store.features("2026-11-23"), [feature_row("2026-11-23", number) for number in range(2)])
    heard = [prediction_row("2026-11-23", 1, mean_log_probability=-0.25, words_per_second=2.5, words=4)]
    write_table(PREDICTIONS, store.predictions("2026-11-23"), heard)
    columns = "sentence, hypothesis, mean_log_probability, words_per_second, prediction_words_per_second, words"
    rows = connect(store).execute(f"select {columns}, prediction_words from history").fetchall()
    assert rows == [("Uno due tre.", "uno due te", -0.25, 2.0, 2.5, 3, 4)]


def test_days_with_and_without_a_signal_are_read_together(store: Store) -> None:
    """A day before the confidence model has null where later ones have a number, also in a column of its own."""
    write_table(PREDICTIONS, store.predictions("2026-11-22"), [prediction_row("2026-11-22", 0, snr_db=None)])
    later = prediction_row("2026-11-23", 0, confidence=0.75, trusted=True, snr_db=12.5, tokens=9)
    write_table(PREDICTIONS, store.predictions("2026-11-23"), [later])
    rows = connect(store).execute("select confidence, trusted, snr_db, tokens from predictions order by day").fetchall()
    assert rows == [(None, None, None, None), (0.75, True, 12.5, 9)]


def test_a_day_once_written_is_not_written_again(store: Store) -> None:
    target = store.features("2026-11-23")
    write_table(FEATURES, target, [feature_row("2026-11-23", 0)])
    before = target.read_bytes()
    with pytest.raises(UserError, match="a day is written once"):
        write_table(FEATURES, target, [feature_row("2026-11-23", 1)])
    assert target.read_bytes() == before


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_write_a_day_at_once_the_second_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The other one's file appears after the first look for it. Not every file system has links."""
    target = store.features("2026-11-23")
    write = pq.write_table

    def write_beside_another(*arguments: Any) -> None:
        write(*arguments)
        target.write_text("the other's")

    monkeypatch.setattr("daily.store.pq.write_table", write_beside_another)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.link("/proc/version", "/proc/link"))
    with pytest.raises(UserError, match="a day is written once"):
        write_table(FEATURES, target, [feature_row("2026-11-23", 0)])
    assert target.read_text() == "the other's"
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    target.unlink()
    monkeypatch.setattr("daily.store.pq.write_table", write)
    write_table(FEATURES, target, [feature_row("2026-11-23", 0)])
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_day_is_quiet_if_its_table_is_there_and_empty(store: Store) -> None:
    assert not store.is_quiet("2026-11-22")
    write_table(FEATURES, store.features("2026-11-22"), [])
    write_table(FEATURES, store.features("2026-11-23"), [feature_row("2026-11-23", 0)])
    assert (store.is_quiet("2026-11-22"), store.is_quiet("2026-11-23")) == (True, False)


@pytest.mark.parametrize("row", [{"id": "a"}, feature_row("2026-11-23", 0) | {"colour": "red"}])
def test_rows_of_another_schema_are_not_written(store: Store, row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are none of features"):
        write_table(FEATURES, store.features("2026-11-23"), [row])
    assert not store.features("2026-11-23").exists()


@pytest.mark.parametrize("damage", ["version", "no label", "column", "type", "not Parquet"])
def test_a_file_of_another_schema_is_refused_by_name(store: Store, damage: str) -> None:
    path = store.features("2026-11-23")
    write_table(FEATURES, path, [feature_row("2026-11-23", 0)])
    table = pq.read_table(path)
    if damage == "not Parquet":
        path.write_text("id,day\n")
    else:
        label = json.dumps({"table": "features", "version": 2}).encode()
        changed = {
            "version": table.replace_schema_metadata({b"sussurro_table": label}),
            "no label": table.replace_schema_metadata(None),
            "column": table.drop_columns(["voice"]),
            "type": table.set_column(6, "words", table["words"].cast(pa.int64())),
        }
        pq.write_table(changed[damage], path)
    with pytest.raises(UserError, match=r"2026-11-23\.parquet") as refused:
        connect(store)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(f"delete it and run `make daily-features STORE={store.folder} DAY=2026-11-23`")


def test_a_damaged_file_s_error_names_the_command_that_makes_it_again(store: Store) -> None:
    """Not `make daily`, to which the day is done."""
    for path, command in (
        (store.features("guard"), f"`make daily-features STORE={store.folder}`"),
        (store.predictions("2026-11-23"), f"`make daily-inference STORE={store.folder} DAY=2026-11-23`"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text("damaged")
        with pytest.raises(UserError) as refused:
            connect(store)
        assert str(refused.value).endswith(command)
        path.unlink()


def test_a_store_s_path_may_hold_quotes_and_spaces(tmp_path: Path) -> None:
    store = create_store(tmp_path / 'l\'archivio di "oggi"', **SETTINGS)
    write_table(FEATURES, store.features("2026-11-23"), [feature_row("2026-11-23", 0)])
    assert connect(store).execute("select count(*) from features").fetchone() == (1,)


@pytest.mark.parametrize("name", ["day=2026-11-01", "id=7", "store[12]", "store*", "stor?1"])
def test_a_store_s_path_is_a_path_and_no_pattern_or_partition(tmp_path: Path, name: str) -> None:
    """Beside a store whose files a pattern would match."""
    stores = [create_store(tmp_path / folder / "store", **SETTINGS) for folder in (name, "store1")]
    for store, clips in zip(stores, (2, 3), strict=True):
        write_table(FEATURES, store.features("2026-11-23"), [feature_row("2026-11-23", clip) for clip in range(clips)])
    rows = connect(stores[0]).execute("select id, day::varchar from features order by id").fetchall()
    assert rows == [(f"2026-11-23-{clip:04d}.flac", "2026-11-23") for clip in range(2)]


def test_a_file_that_is_no_day_s_is_not_read(store: Store) -> None:
    for name in ("2026-11-23", "2026-11-23 (copy)", "guard (copy)"):
        write_table(FEATURES, store.features(name), [feature_row("2026-11-23", 0)])
    connection = connect(store)
    assert [connection.execute(f"select count(*) from {view}").fetchone() for view in ("features", "fixed")] == [
        (1,),
        (0,),
    ]


@pytest.mark.parametrize("text", ["20261123", "2026-11-31", "oggi", "2026-W48-1", "../2026-11-23"])
def test_a_day_is_an_iso_date_and_nothing_else(text: str) -> None:
    with pytest.raises(UserError, match="write it like 2026-11-23"):
        parse_day(text)
    assert parse_day("2026-11-23") == "2026-11-23"


def test_without_a_day_it_is_todays_in_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half past eleven in the evening, an hour behind UTC."""
    here = timezone(timedelta(hours=-1))
    late = datetime(2026, 11, 23, 23, 30, tzinfo=here)
    monkeypatch.setattr("daily.store.datetime", SimpleNamespace(now=lambda zone=here: late.astimezone(zone)))
    assert parse_day("") == "2026-11-24"
