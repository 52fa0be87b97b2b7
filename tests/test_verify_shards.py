"""The verify command: whatever byte of a set is damaged, it names the file, the record and that byte."""

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.corruption import find_fault, single_byte_changes
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.records import Record, ShardWriter
from data.set_files import write_index
from data.tfrecord import frame
from data.verify import VerifyConfig, verify

FIRST, SECOND = (f"train-{number:05d}-of-00002.tfrecord" for number in range(2))
RECORDS = 5  # in a shard


def make_record(number: int, frames: int = 0) -> Record:
    """A record of `frames` frames; by default each of another length, as real ones are."""
    rng = np.random.default_rng(number)
    log_mel_q = rng.integers(0, 256, (frames or 30 + number, 80), dtype=np.uint8)
    return Record(f"clip_{number}.mp3", number % 2, log_mel_q, 0.5, "Perché?", (220, number), "anna", 0.3)


def write_set(folder: Path, frames: int = 0) -> None:
    """A finished set of ten records in two shards."""
    folder.mkdir(parents=True)
    parts, entries = [], []
    for shard, name in enumerate((FIRST, SECOND)):
        with ShardWriter(folder / name) as writer:
            for number in range(RECORDS):
                writer.write(make_record(RECORDS * shard + number, frames))
        entries.append({"file": name, "records": RECORDS, "bytes": writer.size, "sha256": writer.sha256})
        parts.append(writer.rows | {"shard": [shard] * RECORDS})
    manifest = {
        "format_version": 1,
        "features": {"n_mels": 80},
        "records": 2 * RECORDS,
        "bytes": sum(entry["bytes"] for entry in entries),
        "frames": sum(sum(part["frames"]) for part in parts),
        "seconds": round(sum(sum(part["seconds"]) for part in parts), 3),
        "index_sha256": write_index(folder, parts),
        "shards": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "shards" / "train")
    return tmp_path / "shards" / "train"


def damage_found(folder: Path) -> list[str]:
    """The lines about damaged files, without the folder's name."""
    with pytest.raises(UserError) as error:
        verify(VerifyConfig(str(folder.parent)))
    first, *lines = str(error.value).splitlines()
    assert first == f"{folder.parent}: {len(lines)} damaged:"
    return [line.replace(f"{folder}/", "") for line in lines]


def place(folder: Path, number: int) -> tuple[int, int]:
    """Offset and length of record `number` by the index."""
    index = pq.read_table(folder / "index.parquet")
    return index["offset"][number].as_py(), index["length"][number].as_py()


def change(path: Path, position: int, xor: int) -> tuple[int, int]:
    """Damage one byte; what it is now, and what it was."""
    content = bytearray(path.read_bytes())
    content[position] ^= xor
    path.write_bytes(content)
    return content[position], content[position] ^ xor


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


def test_a_whole_set_is_said_to_be_so(folder, capsys):
    verify(VerifyConfig(str(folder.parent), "train"))
    said = capsys.readouterr().out
    assert f"{folder}: 2 shards, 10 records, 0.00 h, " in said
    assert "all as written" in said


@pytest.mark.parametrize("xor", [1, 0x80, 0xFF, 0x5A])
@pytest.mark.parametrize(
    ("inside", "byte", "part"),
    [
        ("header", 0, "in its length"),
        ("header", 7, "in its length"),
        ("header", 8, "in its length's checksum"),
        ("header", 11, "in its length's checksum"),
        ("payload", 0, "in its payload"),
        ("payload", 1300, "in its payload"),
        ("payload", -1, "in its payload"),
        ("footer", 0, "in its payload's checksum"),
        ("footer", 3, "in its payload's checksum"),
    ],
)
def test_one_damaged_byte_is_named_with_what_it_was(folder, inside, byte, part, xor):
    offset, length = place(folder, 7)
    start, size = {"header": (0, 12), "payload": (12, length), "footer": (12 + length, 4)}[inside]
    position = offset + start + byte % size
    is_now, was = change(folder / SECOND, position, xor)
    assert damage_found(folder) == [
        f"{SECOND}: record clip_7.mp3 copy 1 (bytes {offset} to {offset + length + 15}): byte {position} is "
        f"0x{is_now:02x}, not 0x{was:02x}, {part}; "
        f"delete {folder / SECOND} and run the same featurize command again".replace(f"{folder}/", "")
    ]


def test_every_damaged_file_is_named_by_its_first_corrupt_byte(folder):
    for name, number in ((FIRST, 1), (SECOND, 6)):
        offset, _ = place(folder, number)
        change(folder / name, offset + 100, 2)
        change(folder / name, offset + 5000, 2)
    first, second = damage_found(folder)
    assert first.startswith(f"{FIRST}: record clip_1.mp3 copy 1 ")
    assert second.startswith(f"{SECOND}: record clip_6.mp3 copy 0 ")


def test_a_stretch_of_corrupt_bytes_is_bounded_by_its_record(folder):
    offset, length = place(folder, 6)
    content = bytearray((folder / SECOND).read_bytes())
    content[offset + 700 : offset + 800] = bytes(100)
    (folder / SECOND).write_bytes(content)
    (line,) = damage_found(folder)
    assert (
        f"clip_6.mp3 copy 0 (bytes {offset} to {offset + length + 15}): more than one byte of its payload and "
        f"checksum, among bytes {offset + 12} to {offset + length + 15};" in line
    )


@pytest.mark.parametrize("length", [1, 2, 1000, 384_400])
def test_any_single_change_is_found_by_the_checksum_alone(length):
    """384,400 bytes: the largest record there is, 30 s in 128 mel bins."""
    chance = random.Random(length)
    payload = chance.randbytes(length)
    framed = frame(payload)
    for _ in range(5):
        position, xor = chance.randrange(length), chance.randrange(1, 256)
        damaged = bytearray(framed)
        damaged[12 + position] ^= xor
        fault = find_fault(bytes(damaged), length)
        assert fault is not None
        assert (12 + position, payload[position]) in fault.mended
    assert find_fault(framed, length) is None


def test_flips_of_one_bit_come_first_among_changes_that_look_alike():
    """About one in a hundred at this length looks like a wider change elsewhere."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        position, bit = int(rng.integers(50_000)), int(rng.integers(8))
        zeros, flipped = frame(bytes(50_000)), bytearray(50_000)
        flipped[position] = 1 << bit
        fault = find_fault(zeros[:12] + bytes(flipped) + zeros[-4:], 50_000)
        assert fault is not None
        assert fault.start == 12 + position
    assert single_byte_changes(50_000, 0) == []


def test_the_whole_file_decides_between_changes_that_look_alike(folder, monkeypatch):
    offset, _ = place(folder, 7)
    is_now, was = change(folder / SECOND, offset + 500, 0x7F)

    def two_changes(*_: object) -> list[tuple[int, int]]:
        return [(3, 1), (500 - 12, 0x7F)]

    monkeypatch.setattr("data.corruption.single_byte_changes", two_changes)
    assert f"byte {offset + 500} is 0x{is_now:02x}, not 0x{was:02x}, in its payload;" in damage_found(folder)[0]
    change(folder / SECOND, place(folder, 9)[0] + 500, 1)
    assert f": probably byte {offset + 15}, in its payload;" in damage_found(folder)[0]


@pytest.mark.parametrize("kept", [5, 12, 13, 1000, -1])
def test_a_shard_that_ends_inside_a_record_is_named_there(folder, kept):
    offset, length = place(folder, 8)
    size = offset + (kept % (length + 16))
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:size])
    (line,) = damage_found(folder)
    assert f"record clip_8.mp3 copy 0 (bytes {offset} to {offset + length + 15}): byte {size}, the file ends" in line


def test_appended_bytes_are_named_by_the_first_of_them(folder):
    size = (folder / FIRST).stat().st_size
    with (folder / FIRST).open("ab") as file:
        file.write(b"more")
    (line,) = damage_found(folder)
    assert line.startswith(f"{FIRST}: byte {size} and what follows: 4 bytes too many; delete")


@pytest.mark.parametrize("frames", [0, 40])
def test_swapped_shards_are_told_from_damaged_ones(tmp_path, frames):
    """Also where all records are equally long, so that the framing of one shard fits the other."""
    other = tmp_path / "other" / "train"
    write_set(other, frames)
    (other / FIRST).rename(other / "kept")
    (other / SECOND).rename(other / FIRST)
    (other / "kept").rename(other / SECOND)
    assert [line.split(";")[0] for line in damage_found(other)] == [
        f"{FIRST}: byte 0 and what follows: these are the bytes of {SECOND}",
        f"{SECOND}: byte 0 and what follows: these are the bytes of {FIRST}",
    ]


def test_a_record_that_is_whole_but_another_is_named(tmp_path):
    """All records are equally long, so only their content tells."""
    other = tmp_path / "other" / "train"
    write_set(other, frames=40)
    offset, length = place(other, 6)
    content = bytearray((other / SECOND).read_bytes())
    content[offset : offset + length + 16] = frame((other / FIRST).read_bytes()[offset + 12 : offset + 12 + length])
    (other / SECOND).write_bytes(content)
    (line,) = damage_found(other)
    assert f"{SECOND}: record clip_6.mp3 copy 0 (bytes {offset} to " in line
    assert "its id is 'clip_1.mp3', its row in the index says 'clip_6.mp3', among bytes" in line


def test_a_missing_shard_is_named_and_the_others_are_read(folder):
    (folder / FIRST).unlink()
    offset, _ = place(folder, 7)
    change(folder / SECOND, offset + 20, 1)
    missing, damaged = damage_found(folder)
    assert missing == f"{FIRST}: is missing; run the same featurize command again"
    assert damaged.startswith(f"{SECOND}: record clip_7.mp3 copy 1 ")


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


def test_all_splits_are_read_and_one_damaged_split_hides_no_other(folder, capsys):
    write_set(folder.parent / "dev")
    change(folder / FIRST, 100, 1)
    assert damage_found(folder)[0].startswith(f"{FIRST}: record clip_0.mp3 copy 0 ")
    assert f"{folder.parent / 'dev'}: 2 shards, 10 records" in capsys.readouterr().out
    verify(VerifyConfig(str(folder.parent), "dev"))


def test_nothing_to_verify_is_said_with_what_is_there(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        verify(VerifyConfig(str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="has no finished split 'test'; there are: train; run featurize"):
        verify(VerifyConfig(str(folder.parent), "test"))
    with pytest.raises(UserError, match="has no finished split; there are: none"):
        verify(VerifyConfig(str(folder)))


def test_the_command_ends_with_2_on_damage_and_0_without(folder):
    command = [sys.executable, "-m", "data.verify", "--shards", str(folder.parent)]
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "all as written" in whole.stdout
    change(folder / FIRST, 100, 1)
    damaged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert damaged.returncode == 2
    assert f"{folder / FIRST}: record clip_0.mp3 copy 0" in damaged.stderr
    assert "Traceback" not in damaged.stderr


def test_what_featurize_wrote_is_whole_and_what_verify_advises_mends_it(base_model_dir, sample_corpus, tmp_path):
    config = FeaturizeConfig(
        str(sample_corpus), str(tmp_path / "shards"), str(base_model_dir), split="test[:60]", workers=1
    )
    featurize(config)
    (folder,) = (tmp_path / "shards").iterdir()
    files = {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}
    verify(VerifyConfig(config.shards))
    damaged = folder / min(files)
    change(damaged, 10_000, 1)
    (line,) = damage_found(folder)
    assert line.startswith(f"{damaged.name}: record ")
    damaged.unlink()
    featurize(config)
    verify(VerifyConfig(config.shards, "test[:60]"))
    assert {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")} == files
