"""The verify command: an index or a manifest that was edited, damaged or is gone is told from damaged shards."""

import hashlib
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.made_shards import SECOND, change, damage_found, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "shards" / "train")
    return tmp_path / "shards" / "train"


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def edit_index(folder: Path, column: str, row: int, value: object, as_written: bool = False) -> None:
    """Change a cell; `as_written`: and the manifest with it."""
    table = pq.read_table(folder / "index.parquet")
    columns = table.to_pydict()
    columns[column][row] = value
    pq.write_table(table.from_pydict(columns, table.schema), folder / "index.parquet")
    if as_written:
        edit_manifest(folder, index_sha256=hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest())


@pytest.mark.parametrize("as_written", [False, True])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("id", "other", "its id is 'clip_7.mp3', its row in the index says 'other'"),
        ("copy", 5, "its copy is 1, its row in the index says 5"),
        ("speaker", "carla", "its speaker is 'anna', its row in the index says 'carla'"),
        ("tokens", 9, "its tokens is 2, its row in the index says 9"),
        ("features_crc32c", 9, "its features_crc32c is "),
    ],
)
def test_an_edited_cell_of_the_index_is_told_from_a_damaged_shard(folder, column, value, said, as_written):
    edit_index(folder, column, 7, value, as_written)
    (line,) = damage_found(folder)
    assert line.startswith(f"index.parquet: {SECOND} is as written, yet record ")
    assert said in line
    assert line.endswith(f"; delete {folder} and run the same featurize command again")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("frames", 9, r"index.parquet: frames is \d+ by the manifest, \d+ by the index"),
        ("seconds", 9.0, r"index.parquet: seconds is 3.0 by the manifest, 11.7 by the index"),
        ("length", 9, r"index.parquet: bytes is \d+ by the manifest, \d+ by the index \(and \d more\)"),
        ("length", -9, r"index.parquet: bytes is \d+ by the manifest, -?\d+ by the index \(and \d more\)"),
        ("length", 10**15, r"index.parquet: bytes is \d+ by the manifest, \d+ by the index \(and \d more\)"),
        ("offset", 9, r"index.parquet: row 7 \(record clip_7.mp3 copy 1\) is at 9, the one before ends at \d+"),
        ("shard", 0, r"index.parquet: its rows are not in the order of the shards"),
        ("shard", 2, r"index.parquet: its rows are not in the order of the shards"),
    ],
)
def test_an_edited_place_in_the_index_is_named(folder, column, value, said):
    edit_index(folder, column, 7, value)
    (line,) = damage_found(folder)
    assert re.match(said, line), line


def test_an_index_that_cannot_be_read_or_is_gone_is_named_and_the_shards_are_still_read(folder):
    content = (folder / "index.parquet").read_bytes()
    for damaged in (content[:-30], b"", content[:4] + bytes(len(content) - 8) + content[-4:]):
        (folder / "index.parquet").write_bytes(damaged)
        (line,) = damage_found(folder)
        assert line.startswith("index.parquet: cannot be read (")
    (folder / "index.parquet").unlink()
    change(folder / SECOND, 100, 1)
    missing, damaged_shard = damage_found(folder)
    assert missing == "index.parquet: is missing; run the same featurize command again"
    assert damaged_shard.startswith(f"{SECOND}: its SHA-256 is ")


def test_an_index_with_one_flipped_bit_is_never_taken_for_whole(folder):
    """Wherever the bit is: Parquet itself would not notice most of them."""
    path = folder / "index.parquet"
    for position in range(0, path.stat().st_size, 997):
        change(path, position, 4)
        (line,) = damage_found(folder)
        assert line.startswith("index.parquet: ")
        change(path, position, 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"records": 11}, "records is 11 by the manifest, 10 by the index"),
        ({"bytes": 11}, "bytes is 11 by the manifest, "),
        ({"frames": 11}, "frames is 11 by the manifest, "),
        ({"seconds": 11}, "seconds is 11 by the manifest, 3.0 by the index"),
        ({"format_version": 2}, "format version 2, this program reads 1"),
        ({"seconds": None}, "seconds is None"),
        ({"shards": [{"file": "a"}]}, "records is None (and 2 more)"),
        ({"shards": [5]}, "holds 5 where file, records, bytes, sha256 should be"),
        (
            {"features": {"n_mels": 128}},
            "manifest.json: n_mels is 128, train-00000-of-00002.tfrecord has {80} (and 1 more)",
        ),
    ],
)
def test_an_edited_manifest_is_named(folder, changes, said):
    edit_manifest(folder, **changes)
    assert said in damage_found(folder)[0]


@pytest.mark.parametrize(
    ("key", "value", "file", "said"),
    [
        ("bytes", 11, "manifest.json", rf"{SECOND} has 5 records in 11 bytes by the manifest, 5 in \d+ by the index"),
        ("records", 4, "manifest.json", rf"{SECOND} has 4 records in \d+ bytes by the manifest, 5 in \d+ by the index"),
        ("sha256", "0" * 64, SECOND, r"every record is whole, yet its SHA-256 is \w+, the manifest says 0+;"),
        ("file", "../x", "manifest.json", "'../x' is not a file name"),
    ],
)
def test_an_edited_entry_of_a_shard_is_named(folder, key, value, file, said):
    entries = json.loads((folder / "manifest.json").read_text())["shards"]
    entries[1][key] = value
    edit_manifest(folder, shards=entries)
    (line,) = damage_found(folder)
    assert re.match(f"{file}: {said}", line), line


def test_a_manifest_that_is_no_json_or_gone_is_named(folder):
    (folder / "manifest.json").write_text("{")
    assert damage_found(folder)[0].startswith("manifest.json: cannot be read (")
    (folder / "manifest.json").write_text("[]")
    assert damage_found(folder)[0].startswith("manifest.json: holds [] where format_version, ")
    (folder / "manifest.json").unlink()
    assert damage_found(folder) == ["manifest.json: is missing; run the same featurize command again"]
