"""Shards: what goes in comes out, and damage is named."""

import json
import pickle
import zlib

import google_crc32c
import numpy as np
import pytest

from data.records import Record, Shards, ShardWriter, decode, encode
from data.set_files import write_index
from data.tfrecord import masked_crc32c


def make_record(number: int) -> Record:
    rng = np.random.default_rng(number)
    return Record(
        id=f"clip_{number}.mp3",
        copy=number % 2,
        log_mel_q=rng.integers(0, 256, (30 + number, 80), dtype=np.uint8),
        log_mel_max=1.0 / 3.0,
        text="Perché no? È già «così».",
        tokens=(220, 50_000, number),
        speaker=f"speaker {number}",
        seconds=0.3,
    )


def assert_same(got: Record, want: Record) -> None:
    np.testing.assert_array_equal(got.log_mel_q, want.log_mel_q)
    for name in ("id", "copy", "text", "tokens", "speaker"):
        assert getattr(got, name) == getattr(want, name), name
    assert got.log_mel_max == np.float32(want.log_mel_max)
    assert got.seconds == np.float32(want.seconds)


@pytest.fixture
def shards_dir(tmp_path):
    """A finished set of ten records in two shards."""
    folder = tmp_path / "shards" / "train"
    folder.mkdir(parents=True)
    parts, shards = [], []
    for shard in range(2):
        with ShardWriter(folder / f"train-{shard:05d}-of-00002.tfrecord") as writer:
            for number in range(5):
                writer.write(make_record(5 * shard + number), augmentations=f'{{"number": {number}}}')
        shards.append({"file": writer.path.name, "records": 5, "bytes": writer.size, "sha256": writer.sha256})
        parts.append(writer.rows | {"shard": [shard] * 5})
    write_index(folder, parts)
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "records": 10, "shards": shards}))
    return tmp_path / "shards"


def test_a_record_survives_encoding():
    assert_same(decode(encode(make_record(3))), make_record(3))


def test_encoding_is_the_same_every_time():
    assert encode(make_record(3)) == encode(make_record(3))


def test_the_checksum_is_crc32c_masked_as_tensorflow_does():
    """The value of the standard check string 123456789 is in RFC 3720's appendix; the masking is worked out by hand."""
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert masked_crc32c(b"123456789") == (0x2507C60D + 0xA282EAD8) % 2**32
    assert masked_crc32c(b"123456789") != zlib.crc32(b"123456789")


def test_records_are_read_by_position_in_any_order(shards_dir):
    shards = Shards.open(shards_dir, "train")
    assert len(shards) == 10
    for position in (9, 0, 4, 5, -1, np.int64(7)):
        assert_same(shards[position], make_record(position % 10))
    with pytest.raises(IndexError):
        shards[10]


def test_the_index_tells_what_the_records_hold(shards_dir):
    shards = Shards.open(shards_dir, "train")
    for position in range(len(shards)):
        record = shards[position]
        row = {name: column[position] for name, column in shards.index.items()}
        assert (row["id"], row["copy"], row["speaker"]) == (record.id, record.copy, record.speaker)
        assert (row["frames"], row["tokens"]) == (len(record.log_mel_q), len(record.tokens))
        assert row["seconds"] == np.float32(record.seconds)
        assert row["augmentations"] == f'{{"number": {position % 5}}}'


def test_shards_travel_to_other_processes_as_a_path(shards_dir):
    shards = Shards.open(shards_dir, "train")
    shards[0]
    pickled = pickle.dumps(shards)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled)[6], make_record(6))


@pytest.mark.parametrize("where", ["length", "its checksum", "payload", "checksum"])
def test_one_flipped_bit_is_refused_by_file_record_and_offset(shards_dir, where):
    index = Shards.open(shards_dir, "train").index
    offset, length = int(index["offset"][7]), int(index["length"][7])
    path = shards_dir / "train" / "train-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[offset + {"length": 1, "its checksum": 8, "payload": 500, "checksum": 12 + length}[where]] ^= 4
    path.write_bytes(content)
    shards = Shards.open(shards_dir, "train")
    assert_same(shards[6], make_record(6))
    with pytest.raises(
        Exception, match=rf"train-00001-of-00002.tfrecord: record clip_7.mp3 copy 1 at byte {offset}: its"
    ):
        shards[7]


def test_a_truncated_shard_is_refused_when_opened(shards_dir):
    path = shards_dir / "train" / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Exception, match=r"train-00001-of-00002.tfrecord has \d+ bytes, its manifest says \d+: run"):
        Shards.open(shards_dir, "train")


def test_a_shard_truncated_after_opening_is_refused_when_read(shards_dir):
    shards = Shards.open(shards_dir, "train")
    path = shards_dir / "train" / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Exception, match=r"record clip_9.mp3 copy 1 .* would end at byte"):
        shards[9]


def test_a_missing_shard_folder_or_split_is_named_with_what_is_there(shards_dir):
    with pytest.raises(Exception, match=r"nowhere is not a folder"):
        Shards.open(shards_dir / "nowhere", "train")
    with pytest.raises(Exception, match=r"has no split 'dev'; there are: train"):
        Shards.open(shards_dir, "dev")
    (shards_dir / "train" / "train-00000-of-00002.tfrecord").unlink()
    with pytest.raises(Exception, match=r"train-00000-of-00002.tfrecord is missing"):
        Shards.open(shards_dir, "train")


def test_a_shard_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.tfrecord"

    def write_and_fail() -> None:
        with ShardWriter(path) as writer:
            writer.write(make_record(0))
            assert not path.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []
