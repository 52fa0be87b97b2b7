"""A Common Voice archive gives the clips its folder gives, whatever the order of what is in it."""

import io
import pickle
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from upath import UPath

from data import archive
from data.audio import decode
from data.clips import CorpusError
from data.errors import UserError
from data.sources import SourceOptions, read_split

CORPUS = "cv-corpus-11.0-2022-09-21/it"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def add(tar, name, content, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    tar.addfile(member, io.BytesIO(content))


def corpus_files(folder, clips=30):
    """Path in the archive → content, of the first clips of dev and the TSV that lists them."""
    lines = (folder / "dev.tsv").read_text(encoding="utf-8").splitlines()[: clips + 1]
    names = [line.split("\t")[1] for line in lines[1:]]
    files = {f"{CORPUS}/clips/{name}": (folder / "clips" / name).read_bytes() for name in names}
    durations = "".join(f"{name}\t{1000 + number}\n" for number, name in enumerate(names))
    files[f"{CORPUS}/clip_durations.tsv"] = f"clip\tduration[ms]\n{durations}".encode()
    return {f"{CORPUS}/dev.tsv": ("\n".join(lines) + "\n").encode()} | files


def write_archive(path, files, more=()):
    with tarfile.open(path, "w" if path.name.endswith("tar") else "w:gz") as tar:
        for name, content in files.items():
            add(tar, name, content)
        for member in more:
            add(tar, *member)
    return path


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar"])
@pytest.mark.parametrize("order", ["tsv first", "tsv last", "mixed"])
def test_an_archive_gives_the_clips_of_its_folder(tmp_path, sample_corpus, monkeypatch, suffix, order):
    monkeypatch.setattr(archive, "SPACING", 100_000)  # several seek points in a small archive
    files = list(corpus_files(sample_corpus).items())
    if order == "tsv last":
        files.reverse()
    elif order == "mixed":
        random.Random(0).shuffle(files)
    path = write_archive(tmp_path / f"cv{suffix}", dict(files))
    got = read_split(path, "dev")
    want = {clip.id: clip for clip in read_split(sample_corpus, "dev").clips[:30]}
    assert [clip.id for clip in got.clips] == [n.split("/")[-1] for n, _ in files if n.endswith(".mp3")]
    assert got.language == "it"
    assert got.random_access == (suffix == ".tar")
    assert sorted(clip.seconds for clip in got.clips) == [1 + number / 1000 for number in range(30)]
    for clip in pickle.loads(pickle.dumps(got.clips)):
        same = want[clip.id]
        assert (clip.sentence, clip.speaker) == (same.sentence, same.speaker)
        assert clip.audio.load() == same.audio.load().read_bytes()
    np.testing.assert_array_equal(decode(clip.audio.load())[0], decode(same.audio.load())[0])


def test_clips_load_in_any_order_and_from_several_threads(tmp_path, sample_corpus, monkeypatch):
    monkeypatch.setattr(archive, "SPACING", 50_000)
    clips = read_split(write_archive(tmp_path / "cv.tar.gz", corpus_files(sample_corpus)), "dev").clips * 4
    random.Random(1).shuffle(clips)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda clip: clip.audio.load(), clips))
    for clip, content in zip(clips, loaded, strict=True):
        assert content == (sample_corpus / "clips" / clip.id).read_bytes()


def test_an_archive_is_listed_once(tmp_path, sample_corpus, monkeypatch):
    path = write_archive(tmp_path / "cv.tar.gz", corpus_files(sample_corpus, 3))
    options = SourceOptions(cache=str(tmp_path / "index"))
    first = read_split(path, "dev", options)
    assert sorted(file.suffix for file in (tmp_path / "index").iterdir()) == [".gzidx", ".json"]
    monkeypatch.setattr(archive, "_scan", None)
    assert read_split(path, "dev", options) == first


def test_a_place_that_cannot_hold_the_index_is_not_blamed_on_the_archive(tmp_path, sample_corpus):
    path = write_archive(tmp_path / "cv.tar.gz", corpus_files(sample_corpus, 3))
    (tmp_path / "file").write_text("")
    places = [(str(tmp_path / "file" / ".archives"), r"file/\.archives: not a directory; nothing is lost: mend that")]
    places += [
        (str(tmp_path / ("a" * 256)), "cannot be read: .*File name too long"),
        ("nope://x", "^nope://x cannot be read: "),
    ]
    for cache, said in places:
        with pytest.raises(UserError, match=said) as problem:
            read_split(path, "dev", SourceOptions(cache=cache))
        assert "cv.tar.gz" not in str(problem.value).removeprefix(cache)


def test_a_slice_is_taken_in_the_order_of_the_tsv(tmp_path, sample_corpus):
    files = dict(reversed(corpus_files(sample_corpus).items()))
    got = read_split(write_archive(tmp_path / "cv.tar", files), "dev[:5]").clips
    want = [clip.id for clip in read_split(sample_corpus, "dev[:5]").clips]
    assert [clip.id for clip in got] == want[::-1]


def test_a_remote_archive_is_read_as_a_local_one(tmp_path, sample_corpus):
    for name in ("cv.tar.gz", "cv.tar"):
        path = write_archive(tmp_path / name, corpus_files(sample_corpus, 5))
        remote = UPath(f"memory://archives/{name}")
        remote.write_bytes(path.read_bytes())
        got, want = read_split(str(remote), "dev").clips, read_split(path, "dev").clips
        assert [clip.audio.load() for clip in got] == [clip.audio.load() for clip in want]


def test_names_that_lead_elsewhere_links_and_devices_are_never_followed(tmp_path, sample_corpus):
    secret = tmp_path / "secret.mp3"
    secret.write_bytes(b"secret")
    files = corpus_files(sample_corpus, 2)
    header = files[f"{CORPUS}/dev.tsv"].decode()
    names = ["link.mp3", "device.mp3", "up.mp3", "missing.mp3"]
    files[f"{CORPUS}/dev.tsv"] = (header + "".join(f"s\t{name}\tCiao.\t\t\t\t\t\tit\n" for name in names)).encode()
    more = [
        (f"{CORPUS}/clips/link.mp3", b"", tarfile.SYMTYPE, str(secret)),
        (f"{CORPUS}/clips/hard.mp3", b"", tarfile.LNKTYPE, f"{CORPUS}/dev.tsv"),
        (f"{CORPUS}/clips/device.mp3", b"", tarfile.CHRTYPE),
        (f"{CORPUS}/clips/../clips/up.mp3", b"up"),
        ("../../clips/x.mp3", b"up"),
        ("/etc/clips/x.mp3", b"up"),
    ]
    for name in ("cv.tar.gz", "cv.tar"):
        split = read_split(write_archive(tmp_path / name, files, more), "dev")
        assert len(split.clips) == 2
        assert [(row.id, row.reason) for row in split.rejected] == [(name, "no such file") for name in names]


def test_an_archive_of_several_languages_or_of_none_is_named(tmp_path):
    several = {"cv/it/clips/a.mp3": b"a", "cv/de/clips/a.mp3": b"a"}
    with pytest.raises(CorpusError, match=r"cv.tar.gz holds several languages: cv/de, cv/it; give an archive of one"):
        read_split(write_archive(tmp_path / "cv.tar.gz", several), "dev")
    with pytest.raises(CorpusError, match=r"not a Common Voice archive: it has no clips/ folder"):
        read_split(write_archive(tmp_path / "other.tar", {"a.txt": b"a"}), "dev")


def test_a_damaged_archive_is_to_be_downloaded_again(tmp_path, sample_corpus):
    content = write_archive(tmp_path / "cv.tar.gz", corpus_files(sample_corpus, 5)).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x55
    plain = write_archive(tmp_path / "whole.tar", corpus_files(sample_corpus, 5)).read_bytes()
    header = plain.rindex(f"{CORPUS}/clips/".encode())  # cut where the last clip's header begins
    for name, damaged in {
        "half.tar.gz": content[: len(content) // 2],
        "tail.tar.gz": content[:-600],
        "checksum.tar.gz": content[:-8] + bytes(8),
        "flipped.tar.gz": bytes(flipped),
        "junk.tar.gz": b"<html>404</html>" * 99,
        "empty.tar.gz": b"",
        "half.tar": plain[: len(plain) // 2],
        "header.tar": plain[:header],
        "in-header.tar": plain[: header + 100],
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CorpusError, match=rf"{name} is .*: download it again"):
            read_split(tmp_path / name, "dev")


def test_an_archive_that_changes_or_goes_away_later_is_named(tmp_path, sample_corpus):
    for name in ("cv.tar.gz", "cv.tar"):
        path = write_archive(tmp_path / name, corpus_files(sample_corpus, 3))
        clip = read_split(path, "dev").clips[0]
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(UserError, match=rf"{name} has changed: .* bytes now"):
            clip.audio.load()
        path.unlink()
        with pytest.raises(UserError, match=rf"{name} is gone"):
            clip.audio.load()
