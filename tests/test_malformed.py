"""Every bad input ends as a used clip with the right features, as a row of rejected.tsv, or as one clear error."""

import gzip
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import data.featurize
from data.audio import decode, resample
from data.clips import CorpusError
from data.featurize import FeaturizeConfig, featurize
from data.finish import reopen
from data.log_mel import log_mel, restore
from data.prepare import prepare
from data.records import Shards
from data.shard_jobs import write_shard
from data.sources import SourceOptions, read_split
from tests.malformed import AUDIO, AudioCase, plain, sound
from tests.malformed_archives import ARCHIVES, ArchiveCase
from tests.malformed_text import TEXT, TextCase

SECONDS_AT_MOST = 60  # for a test: what hangs, hangs for good
USED = [case for case in AUDIO if not case.reason]
opened: set[str] | None = None


@pytest.fixture(autouse=True)
def _no_hanging():
    def stop(*_):
        raise AssertionError(f"not done after {SECONDS_AT_MOST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_AT_MOST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def note_opened(event: str, arguments: tuple) -> None:
    """Note which files Python opens, while `opened` is a set."""
    if event == "open" and opened is not None and isinstance(arguments[0], str | bytes | Path):
        opened.add(str(Path(arguments[0] if isinstance(arguments[0], str | Path) else arguments[0].decode()).resolve()))


def name_of(case: AudioCase, folder: Path) -> str:
    """The path that the table gives for `case`."""
    return case.name.replace("{outside}", str(folder / "outside"))


@pytest.fixture(name="done", scope="module")
def featurized(base_model_dir, tmp_path_factory):
    """A folder with `corpus` (AUDIO, in one split), `outside` (a recording that no case may reach), and `shards`."""
    global opened
    folder = tmp_path_factory.mktemp("malformed")
    clips = folder / "corpus" / "clips"
    clips.mkdir(parents=True)
    (folder / "outside").mkdir()
    plain(folder / "outside" / "secret.wav", sound("secret"))
    rows = ["client_id\tpath\tsentence\tlocale"]
    for case in AUDIO:
        case.write(clips / case.name, sound(case.name))
        rows.append(f"s\t{name_of(case, folder)}\t{case.sentence}\tit")
    (folder / "corpus" / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="")

    def run_here(jobs, *_):
        for number, job in jobs.items():
            yield number, write_shard(job, lambda *_: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.featurize, "run_in_processes", run_here)
        sys.addaudithook(note_opened)
        opened = set()
        try:
            featurize(config(folder, base_model_dir))
            (folder / "opened").write_text("\n".join(sorted(opened)))
        finally:
            opened = None
    return folder


def config(folder: Path, model: Path) -> FeaturizeConfig:
    """All of AUDIO, clean."""
    corpus, shards = str(folder / "corpus"), str(folder / "shards")
    return FeaturizeConfig(corpus, shards, str(model), recipe="none", workers=1, max_rejected="100%")


def rejected_rows(folder: Path) -> list[list[str]]:
    """Id, reason and detail of each row, after the first line."""
    text = (folder / "shards" / "train" / "rejected.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.split("\n")[1:-1]]


def used_id(case: AudioCase) -> str:
    return case.name if "." in case.name else f"{case.name}.mp3"


def test_there_are_more_than_forty_cases():
    assert len(AUDIO) + len(TEXT) + len(ARCHIVES) >= 150
    for cases in (AUDIO, TEXT, ARCHIVES):
        assert len({case.name for case in cases}) == len(cases)


def test_every_clip_is_used_or_left_out_for_the_reason_that_is_expected(done):
    shards = Shards.open(done / "shards", "train")
    got = dict.fromkeys(shards.index["id"], "")
    got |= {row[0]: row[1] for row in rejected_rows(done)}
    assert got == {used_id(case) if not case.reason else name_of(case, done): case.reason for case in AUDIO}
    assert len(shards.index["id"]) + len(rejected_rows(done)) == len(AUDIO)
    assert all(len(row) == 3 for row in rejected_rows(done))
    assert shards.manifest["rejected"] == Counter(case.reason for case in AUDIO if case.reason)


@pytest.mark.parametrize("case", USED, ids=lambda case: case.name)
def test_a_harmless_oddity_changes_neither_features_nor_text(done, case, tmp_path):
    shards = Shards.open(done / "shards", "train")
    (position,) = np.flatnonzero(shards.index["id"] == used_id(case))
    record = shards[int(position)]
    assert record.text == case.sentence
    if case.like is None:
        return
    case.like(tmp_path / "like", sound(case.name))
    want_FM = log_mel(resample(*decode(tmp_path / "like")), 80)
    got_FM = restore(record.log_mel_q, record.log_mel_max)
    got_FM = got_FM + (want_FM.max() - got_FM.max())  # louder is brighter by a constant
    frames = min(len(got_FM), len(want_FM))
    assert abs(len(got_FM) - len(want_FM)) <= 4
    assert np.abs(got_FM[:frames] - want_FM[:frames]).mean() < case.within


def test_the_lengths_that_libsndfile_would_get_wrong_are_right(done):
    """0.1 s: what an MP3 encoder adds at both ends."""
    shards = Shards.open(done / "shards", "train")
    seconds = dict(zip(shards.index["id"], shards.index["seconds"], strict=True))
    assert seconds["joined.mp3"] == pytest.approx(2, abs=0.2)
    assert seconds["variable without header.mp3"] == pytest.approx(16, abs=0.1)
    assert seconds["headless.mp3"] == pytest.approx(2, abs=0.1)
    assert seconds["29.999 s.wav"] == pytest.approx(29.999, abs=1e-3)


def test_no_file_outside_the_corpus_is_opened_and_its_sound_is_in_no_record(done):
    files = (done / "opened").read_text().split("\n")
    secret = done / "outside" / "secret.wav"
    assert str((done / "corpus" / "clips" / "stereo.wav").resolve()) in files
    assert str(secret.resolve()) not in files
    assert not [file for file in files if file.startswith(("/dev/zero", "/etc/passwd"))]
    shards = Shards.open(done / "shards", "train")
    secret_FM = log_mel(resample(*decode(secret)), 80)
    for position in range(len(shards)):
        record = shards[position]
        got_FM = restore(record.log_mel_q, record.log_mel_max)
        frames = min(len(got_FM), len(secret_FM))
        assert np.abs(got_FM[:frames] - secret_FM[:frames]).mean() > 0.1


def test_a_lost_shard_is_made_again_whatever_its_clips_are_called(base_model_dir, tmp_path):
    names = ["a  b.mp3", "c\nd.mp3", "e\tf.mp3", "g\\h.mp3", "i.mp3"]
    text = "".join(json.dumps({"file_name": name, "text": "Uno.", "lang": "it"}) + "\n" for name in names)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.jsonl").write_text(text)
    plain(tmp_path / "corpus" / "i.mp3", sound("i"))
    featurize(config(tmp_path, base_model_dir))
    folder = tmp_path / "shards" / "train"
    before = (folder / "rejected.tsv").read_bytes()
    assert [row[0] for row in rejected_rows(tmp_path)] == ["a  b.mp3", "c\\nd.mp3", "e\\tf.mp3", "g\\\\h.mp3"]
    manifest = json.loads((folder / "manifest.json").read_text())
    reopen(folder, manifest, prepare(config(tmp_path, base_model_dir)).jobs)
    featurize(config(tmp_path, base_model_dir))
    assert (folder / "rejected.tsv").read_bytes() == before


def make(folder: Path, case: TextCase) -> Path:
    """The corpus of `case`."""
    folder.mkdir()
    for name, inside in case.files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir()
        elif callable(inside):
            inside(path)
        else:
            path.write_bytes(inside if isinstance(inside, bytes) else inside.encode("utf-8"))
    return folder / case.source


@pytest.mark.parametrize("case", TEXT, ids=lambda case: case.name)
def test_odd_text_is_read_as_it_is_or_named(tmp_path, case):
    (tmp_path / "outside").mkdir()
    plain(tmp_path / "outside" / "secret.wav", sound("secret"))
    source = make(tmp_path / "corpus", case)
    if case.error:
        with pytest.raises(CorpusError, match=case.error):
            read_split(source, "train")
        return
    split = read_split(source, "train")
    assert {clip.id: clip.sentence for clip in split.clips} == case.clips
    assert [(row.id, row.reason) for row in split.rejected] == case.rejected
    for row in split.rejected:
        row.detail.encode()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("case", ARCHIVES, ids=lambda case: case.name)
def test_an_odd_archive_gives_its_own_files_or_is_named(tmp_path, case: ArchiveCase, suffix):
    path = tmp_path / f"cv{suffix}"
    compress = bytes if suffix == ".tar" else case.compressed or gzip.compress
    path.write_bytes(compress(case.tar))
    options = SourceOptions(cache=str(tmp_path / "cache"))
    if case.error and not (case.compressed and suffix == ".tar"):
        with pytest.raises(CorpusError, match=case.error):
            read_split(path, "train", options)
    else:
        split = read_split(path, "train", options)
        assert {clip.id: clip.audio.load() for clip in split.clips} == case.clips
        assert [(row.id, row.reason) for row in split.rejected] == case.rejected
    left = {file.name for file in tmp_path.iterdir()} - {"cache", path.name}
    assert left == set()
