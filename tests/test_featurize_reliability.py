"""Nothing is lost and nothing half written: stops at every moment, full disks, lost files, clips that come twice."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import data.budget
import data.featurize
import data.plan
from data.clips import AudioFile, Clip
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.records import Shards
from data.shard_jobs import write_shard
from data.storage import PARTIAL
from tests.test_featurize import contents


def corpus_of(folder: Path, sample: Path, names: dict[str, str]) -> Path:
    """A corpus whose clips (keys) are recordings of the sample corpus (values)."""
    (folder / "clips").mkdir(parents=True)
    lines = ["client_id\tpath\tsentence\tlocale"]
    for name, original in names.items():
        shutil.copy(sample / "clips" / original, folder / "clips" / name)
        lines.append(f"s\t{name}\tFrase di {name}.\tit")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(name="originals", scope="module")
def some_recordings(sample_corpus):
    """File names of 20 recordings that differ."""
    return sorted(path.name for path in (sample_corpus / "clips").iterdir())[:20]


@pytest.fixture(name="in_this_process")
def jobs_in_this_process(monkeypatch):
    """Jobs run one after the other here, where a test can reach them."""

    def run(jobs, *_):
        for number, job in jobs.items():
            yield number, write_shard(job, lambda *_: None)

    monkeypatch.setattr(data.featurize, "run_in_processes", run)


@pytest.fixture(name="config")
def run_with_a_duplicate(sample_corpus, base_model_dir, tmp_path, originals, monkeypatch):
    """20 clean clips in two shards, the first once more amid the second, and one that does not decode."""
    monkeypatch.setattr(data.plan, "FEWEST_RECORDS", 10)
    names = {name: name for name in originals[:15]} | {"again.mp3": originals[0]}
    names |= {name: name for name in originals[15:]}
    corpus = corpus_of(tmp_path / "corpus", sample_corpus, names)
    (corpus / "clips" / "broken.mp3").write_bytes(b"no audio")
    with (corpus / "train.tsv").open("a") as file:
        file.write("s\tbroken.mp3\tRotto.\tit\n")
    return FeaturizeConfig(
        str(corpus), str(tmp_path / "shards"), str(base_model_dir), recipe="none", workers=1, max_rejected="10%"
    )


@pytest.mark.usefixtures("in_this_process")
def test_a_clip_that_repeats_another_is_left_out_wherever_it_stands(config):
    featurize(config)
    folder = Path(config.shards) / "train"
    shards = Shards(folder)
    assert len(shards.manifest["shards"]) == 2
    ids = [shards[position].id for position in range(len(shards))]
    assert len(ids) == 20
    assert "again.mp3" not in ids
    assert sum(shard["records"] for shard in shards.manifest["shards"]) == 20
    assert shards.manifest["rejected"] == {"does not decode": 1, "same audio as another clip": 1}
    assert f"again.mp3\tsame audio as another clip\t{ids[0]}\n" in (folder / "rejected.tsv").read_text()


@pytest.mark.usefixtures("in_this_process")
def test_stopped_at_any_of_its_writes_it_continues_to_the_same_bytes(config, monkeypatch):
    """A kill is one write that never happens, and none after it: not even what cleans up."""

    class Killed(BaseException):
        pass

    left = float("inf")

    def dying(operation):
        def perform(*arguments, **named):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return operation(*arguments, **named)

        return perform

    featurize(replace(config, shards=config.shards + "-whole"))
    whole = contents(Path(config.shards + "-whole") / "train")
    for name in ("replace", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    stops = 0
    while True:
        shutil.rmtree(config.shards, ignore_errors=True)
        left = stops
        try:
            featurize(config)
        except Killed:
            left = float("inf")
            featurize(config)
            assert contents(Path(config.shards) / "train") == whole, f"stopped at write {stops}"
            stops += 1
        else:
            break
    assert stops > 12


def test_a_shard_that_is_lost_or_cut_is_made_again_and_the_others_are_not(config, capsys):
    featurize(config)
    folder = Path(config.shards) / "train"
    whole = contents(folder)
    first, second = sorted(folder.glob("*.tfrecord"))
    kept = second.stat().st_mtime_ns
    first.unlink()
    featurize(config)
    assert "train-00000-of-00002.tfrecord is missing" in capsys.readouterr().out
    assert contents(folder) == whole
    assert second.stat().st_mtime_ns == kept
    first.write_bytes(first.read_bytes()[:-1])
    featurize(config)
    assert contents(folder) == whole
    (folder / "index.parquet").unlink()
    featurize(config)
    assert contents(folder) == whole


def test_more_rejected_clips_than_allowed_stop_the_run_with_the_figures(config, tmp_path, originals):
    for name in originals[1:5]:
        (tmp_path / "corpus" / "clips" / name).unlink()
    folder = Path(config.shards) / "train"
    with pytest.raises(
        UserError, match=r"4 of 22 clips cannot be used \(4 × no such file\), more than --max-rejected 10.0%: see"
    ):
        featurize(config)
    assert (folder / "rejected.tsv").read_text().count("no such file") == 4
    assert not (folder / "manifest.json").exists()
    featurize(replace(config, max_rejected="0.3"))
    assert Shards(folder).manifest["rejected"] == {
        "does not decode": 1,
        "no such file": 4,
        "same audio as another clip": 1,
    }


def test_a_clip_that_was_missing_and_is_back_is_used(config, tmp_path, originals):
    clip = tmp_path / "corpus" / "clips" / originals[3]
    away = clip.rename(tmp_path / "away.mp3")
    with pytest.raises(UserError, match=r"more than --max-rejected 4\.0%"):
        featurize(replace(config, max_rejected="4%"))
    away.rename(clip)
    featurize(config)
    assert originals[3] in Shards(Path(config.shards) / "train").index["id"]


@pytest.mark.usefixtures("in_this_process")
def test_a_source_that_has_vanished_is_an_error_not_a_gap(config, tmp_path):
    featurize(replace(config, limit=3, shards=config.shards + "-before"))
    shutil.rmtree(tmp_path / "corpus" / "clips")
    (tmp_path / "corpus" / "clips").mkdir()
    with pytest.raises(
        UserError, match=r"clips has vanished or is empty: bring it back and run the same command again"
    ):
        featurize(config)
    assert list(Path(config.shards).rglob("*.tfrecord*")) == []


def limited(config: FeaturizeConfig, limit: int) -> subprocess.CompletedProcess[str]:
    """The command, by whose processes no file may grow beyond `limit` bytes: a disk that is full."""
    options = [f"--source={config.source}", f"--shards={config.shards}", f"--model={config.model}", "--workers=1"]
    command = ["sh", "-c", f'ulimit -f {limit // 512}; exec "$@"', "sh", sys.executable, "-m", "data.featurize"]
    return subprocess.run(
        [*command, *options, "--recipe=none", "--max-rejected=10%"], capture_output=True, text=True, check=False
    )


def test_a_disk_that_is_full_stops_in_one_line_and_the_next_run_continues(config):
    featurize(replace(config, shards=config.shards + "-whole"))
    folder = Path(config.shards) / "train"
    full = limited(config, 100_000)
    assert full.returncode == 2, full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert "error: " in last
    assert "file too large; nothing is lost: mend that (make room" in last
    assert list(folder.glob("*.tfrecord")) == []
    assert list(folder.glob(f".*{PARTIAL}")) == []
    featurize(config)
    assert contents(folder) == contents(Path(config.shards + "-whole") / "train")


def test_a_target_that_cannot_be_written_is_one_clear_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr(data.budget.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/shards/train.*: not a directory; nothing is lost"):
        featurize(replace(config, shards=str(tmp_path / "file" / "shards")))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid() == 0:  # root may write anywhere but here
        closed = Path("/sys/kernel")
    with pytest.raises(
        UserError, match=r"(?i)shards.*: (permission denied|operation not permitted|read-only file sys)"
    ):
        featurize(replace(config, shards=str(closed / "shards")))


def test_copies_auto_takes_what_fits_and_keeps_to_it(config, capsys):
    """A clean copy of these clips takes some 0.4 MB."""
    config = replace(config, recipe="standard", copies="auto", budget="2MB", limit=20)
    featurize(config)
    manifest = Shards(Path(config.shards) / "train").manifest
    assert manifest["copies"] >= 1
    per_copy = manifest["bytes"] / (1 + manifest["copies"])
    assert manifest["bytes"] <= 2e6 * 1.1
    assert manifest["bytes"] + per_copy > 2e6 * 0.9
    capsys.readouterr()
    featurize(replace(config, budget="1.9MB"))
    assert "is already there, made with the same settings" in capsys.readouterr().out


def test_a_plan_tells_and_writes_nothing(config, capsys):
    featurize(replace(config, plan=True, copies=2, recipe="standard"))
    said = capsys.readouterr().out
    assert "22 clips, about 0.0" in said
    assert "the clean one and 2 augmented (standard): about" in said
    assert "room: 200.0 GB budget" in said
    assert "time: about" in said
    assert not Path(config.shards).exists()
    with pytest.raises(
        UserError, match=r"would take about .*, the budget is 100.0 kB: raise --budget, or lower --copies"
    ):
        featurize(replace(config, plan=True, copies=2, recipe="standard", budget="0.1MB"))


def test_two_writers_of_one_shard_never_meet(config, tmp_path, originals):
    """As when a cluster gives a lost worker's job to another while the first still writes."""
    from data.augment import RECIPES
    from data.shard_jobs import ShardJob
    from data.storage import new_file

    clips = (Clip(originals[0], AudioFile(str(tmp_path / "corpus" / "clips" / originals[0])), "Uno."),)
    shard = tmp_path / "a.tfrecord"
    tokenizer = Path(config.model) / "tokenizer.json"
    job = ShardJob(shard, clips, str(tmp_path), tokenizer, 80, RECIPES["none"], copies=0, seed=0)
    with new_file(shard) as other:
        other.write(b"half")
        write_shard(job, lambda *_: None)
        whole = shard.read_bytes()
        assert len(whole) > 1000
        other.write(whole[4:] if whole[:4] == b"half" else b"")
        other.seek(0)
        other.truncate()
        other.write(whole)
    assert shard.read_bytes() == whole
    assert json.loads((tmp_path / ".a.tfrecord.json").read_text())["bytes"] == len(whole)
