"""The verify command: whatever byte of a set is damaged, it names the file, the record and that byte."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.corruption import find_fault, single_byte_changes
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.tfrecord import frame
from data.verify import VerifyConfig, verify
from tests.made_shards import FIRST, SECOND, change, damage_found, place, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "shards" / "train")
    return tmp_path / "shards" / "train"


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
