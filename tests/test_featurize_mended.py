"""What was mended, edited, or made by another command is seen; and a plan knows how long the clips are."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import data.featurize
import data.plan
from data.budget import duration, estimate_seconds, seconds_per_clip
from data.clips import AudioFile, Clip, Split
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.prepare import prepare
from data.records import Shards
from data.set_files import INDEX, MANIFEST, ShardError, read_index
from data.shard_jobs import write_shard
from tests.test_audio import encode, tone
from tests.test_featurize import contents
from tests.test_featurize_reliability import corpus_of


@pytest.fixture(name="made", autouse=True)
def jobs_in_this_process(monkeypatch):
    """The names of the shards that are made, one after the other here."""
    made: list[str] = []

    def run(jobs, *_):
        for number, job in jobs.items():
            made.append(job.path.name)
            yield number, write_shard(job, lambda *_: None)

    monkeypatch.setattr(data.featurize, "run_in_processes", run)
    monkeypatch.setattr(data.plan, "FEWEST_RECORDS", 3)
    return made


@pytest.fixture(name="names", scope="module")
def some_recordings(sample_corpus):
    return sorted(path.name for path in (sample_corpus / "clips").iterdir())[:6]


@pytest.fixture(name="config")
def small_run(sample_corpus, base_model_dir, tmp_path, names):
    """Six clean clips in two shards."""
    corpus = corpus_of(tmp_path / "corpus", sample_corpus, {name: name for name in names})
    return FeaturizeConfig(
        str(corpus), str(tmp_path / "shards"), str(base_model_dir), recipe="none", workers=1, max_rejected="0%"
    )


def clip_of(config: FeaturizeConfig, name: str) -> Path:
    return Path(config.source) / "clips" / name


def split_folder(config: FeaturizeConfig) -> Path:
    return Path(config.shards) / "train"


def whole_set(config: FeaturizeConfig) -> dict[str, bytes]:
    """What an undisturbed run of `config` makes."""
    elsewhere = replace(config, shards=config.shards + "-whole")
    featurize(elsewhere)
    return contents(split_folder(elsewhere))


def test_clips_that_were_mended_after_the_share_of_rejected_stopped_the_run_are_used(config, names, made):
    """The mended file has the age it had: its size tells. The shard without a rejected clip is not made again."""
    whole, clip = whole_set(config), clip_of(config, names[5])
    good, age = clip.read_bytes(), clip.stat().st_mtime_ns
    clip.write_bytes(good[:200])
    os.utime(clip, ns=(age, age))
    with pytest.raises(UserError, match=r"1 of 6 clips cannot be used .* mend the source"):
        featurize(config)
    made.clear()
    with pytest.raises(UserError, match=r"1 of 6 clips cannot be used"):
        featurize(config)
    assert made == []
    clip.write_bytes(good)
    os.utime(clip, ns=(age, age))
    featurize(config)
    assert made == ["train-00001-of-00002.tfrecord"]
    assert contents(split_folder(config)) == whole


def test_a_finished_set_tells_how_mended_clips_get_into_it(config, names, capsys):
    clip_of(config, names[0]).write_bytes(b"no audio")
    config = replace(config, max_rejected="20%")
    featurize(config)
    capsys.readouterr()
    featurize(config)
    assert "1 left out (" in (said := capsys.readouterr().out)
    assert "rejected.tsv); once they are mended, delete that folder to use them" in said


def test_clips_of_an_archive_that_was_mended_are_used(tmp_path, base_model_dir, sample_corpus, names):
    config = FeaturizeConfig("", str(tmp_path / "shards"), str(base_model_dir), recipe="none", max_rejected="0%")
    broken = corpus_of(tmp_path / "broken" / "it", sample_corpus, {name: name for name in names})
    (broken / "clips" / names[0]).write_bytes(b"no audio")
    archive = Path(shutil.make_archive(str(tmp_path / "corpus"), "gztar", broken.parent, "it"))
    config = replace(config, source=str(archive), workers=1)
    with pytest.raises(UserError, match="1 of 6 clips cannot be used"):
        featurize(config)
    corpus_of(tmp_path / "whole" / "it", sample_corpus, {name: name for name in names})
    shutil.make_archive(str(tmp_path / "corpus"), "gztar", tmp_path / "whole", "it")
    featurize(config)
    assert Shards(split_folder(config)).manifest["rejected"] == {}


@pytest.mark.parametrize("finishes", [True, False])
def test_what_another_command_made_while_this_one_planned_is_not_taken_for_its_own(config, monkeypatch, finishes):
    say_plan, merge = data.featurize.say_plan, data.featurize.merge

    def interrupted(*_):
        raise KeyboardInterrupt

    def meanwhile(*_):
        monkeypatch.setattr(data.featurize, "say_plan", say_plan)
        monkeypatch.setattr(data.featurize, "merge", merge if finishes else interrupted)
        with suppress(KeyboardInterrupt):
            featurize(replace(config, seed=7))
        monkeypatch.setattr(data.featurize, "merge", merge)

    monkeypatch.setattr(data.featurize, "say_plan", meanwhile)
    with pytest.raises(UserError, match=r"other settings .*seed is 7 there, 0 asked"):
        featurize(config)


@pytest.mark.parametrize(
    ("split", "limit", "stops"), [("train", 4, False), ("train[:4]", None, False), ("train", 6, True)]
)
def test_rows_without_a_clip_count_only_when_the_whole_split_is_asked_for(config, split, limit, stops):
    with (Path(config.source) / "train.tsv").open("a") as table:
        table.write("s\t\tSenza registrazione.\tit\n")
    config = replace(config, split=split, limit=limit)
    if stops:
        with pytest.raises(UserError, match="1 of 7 clips cannot be used"):
            featurize(config)
    else:
        featurize(config)


def damage_index(folder: Path, kind: str) -> None:
    """A change of which Arrow tells, or nothing but the checksum."""
    path = folder / INDEX
    if kind == "edited":
        table = pq.read_table(path)
        column = table.column_names.index("speaker")
        pq.write_table(table.set_column(column, "speaker", [["somebody else"] * len(table)]), path)
        return
    content = bytearray(path.read_bytes())
    content[{"first page": 40, "footer": -40}[kind]] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["first page", "footer", "edited"])
def test_an_index_that_is_damaged_or_edited_is_made_again_from_the_corpus(config, kind, capsys):
    featurize(config)
    folder = split_folder(config)
    whole = contents(folder)
    damage_index(folder, kind)
    (folder / "train-00001-of-00002.tfrecord").unlink()
    featurize(config)
    assert "what is damaged is made again" in capsys.readouterr().out
    assert contents(folder) == whole


def test_an_index_with_any_byte_flipped_is_whole_or_one_line(config):
    featurize(config)
    folder = split_folder(config)
    content = (folder / INDEX).read_bytes()
    refused = []
    for place in range(4, len(content), 19):
        (folder / INDEX).write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            read_index(folder)
        except ShardError as error:
            refused.append(str(error))
    assert len(refused) > 40
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("edit", [lambda text: text.split("\n")[0] + "\n", lambda text: text.replace("\t", ",")])
def test_a_shard_whose_rejected_clips_were_edited_out_is_made_again(config, names, edit, made):
    clip_of(config, names[0]).write_bytes(b"no audio")
    config = replace(config, max_rejected="20%")
    featurize(config)
    folder = split_folder(config)
    whole = contents(folder)
    (folder / "rejected.tsv").write_text(edit((folder / "rejected.tsv").read_text()))
    (folder / "train-00001-of-00002.tfrecord").unlink()
    made.clear()
    featurize(config)
    assert len(made) == 2
    assert contents(folder) == whole


@pytest.mark.parametrize("lost", ["shards", "records", "seconds", "index_sha256"])
def test_a_manifest_without_its_totals_is_made_again(config, lost):
    featurize(config)
    path = split_folder(config) / MANIFEST
    whole, manifest = path.read_bytes(), json.loads(path.read_bytes())
    del manifest[lost]
    path.write_text(json.dumps(manifest))
    if lost in ("shards", "records"):
        with pytest.raises(ShardError, match=r"does not tell what is in the shards: delete .*train and run"):
            Shards(split_folder(config))
    featurize(config)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", [MANIFEST, ".settings.json"])
@pytest.mark.parametrize("copies", [0, "auto"])
def test_a_folder_whose_settings_are_empty_is_named(config, name, copies):
    split_folder(config).mkdir(parents=True)
    (split_folder(config) / name).write_text("{}")
    with pytest.raises(UserError, match=rf"{name} does not tell what the shards beside it are made of: delete"):
        featurize(replace(config, copies=copies))


@pytest.mark.parametrize("content", ["[]", "{}", '{"format_version": 1, "records": 1, "shards": [{"file": "a"}]}'])
def test_readers_refuse_a_manifest_that_is_not_one(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ShardError, match=r"delete .* and run featurize again"):
        Shards(tmp_path)


def test_a_negative_seed_is_refused(config):
    with pytest.raises(UserError, match="seed is -1; it takes 0 or more"):
        featurize(replace(config, seed=-1))


def browser_recording(path: Path, seconds: float) -> Path:
    """A WebM written as it is recorded, so that its header tells no duration."""
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libopus", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, round(48_000 * seconds)), np.float32), "flt", "mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: encode(folder / "a.m4a", "aac", "ipod", tone(2)),
        lambda folder: encode(folder / "a.aac", "aac", "adts", tone(2)),
        lambda folder: encode(folder / "a.webm", "libopus", "webm", tone(2)),
        lambda folder: browser_recording(folder / "b.webm", 2),
    ],
    ids=["m4a", "aac", "webm", "browser"],
)
def test_a_container_tells_how_long_it_is(tmp_path, make):
    """0.05 s: an encoder's delay, two frames of 1024 samples at most."""
    clip = Clip("a", AudioFile(str(make(tmp_path))), "Uno.")
    assert duration(clip) == pytest.approx(2, abs=0.05)
    assert estimate_seconds(Split("", [clip] * 3)) == pytest.approx(6, abs=0.15)


def test_copies_auto_needs_to_know_how_long_clips_are(config, names):
    for name in names:
        clip_of(config, name).write_bytes(b"no audio")
    with pytest.raises(UserError, match="copies is auto, but none of the clips looked at tells how long it is"):
        featurize(replace(config, recipe="standard", copies="auto"))


@pytest.mark.parametrize(("told", "estimated"), [([2.0, 4.0, 3600.0], 6.0), ([2.0, 1e12], 2.0)])
def test_an_estimate_counts_nothing_of_clips_that_are_too_long(told, estimated):
    clips = [Clip(str(number), AudioFile("nowhere"), "", seconds=seconds) for number, seconds in enumerate(told)]
    assert estimate_seconds(Split("", clips)) == pytest.approx(estimated)


def test_an_estimate_does_not_believe_a_source_all_of_whose_clips_are_too_long(config, names):
    """Milliseconds where seconds should be: the files tell."""
    clips = [Clip(name, AudioFile(str(clip_of(config, name))), "") for name in names]
    told = [replace(clip, seconds=2300.0) for clip in clips]
    assert estimate_seconds(Split("", told)) == estimate_seconds(Split("", clips)) > 0


def test_a_plan_for_very_many_copies_makes_only_some(config, monkeypatch):
    made = 0

    def counted(*arguments):
        nonlocal made
        made += 1
        return make_copy(*arguments)

    make_copy = data.shard_jobs.make_copy
    monkeypatch.setattr(data.shard_jobs, "make_copy", counted)
    run = prepare(replace(config, recipe="standard", copies=20_000, budget="1TB"))
    tokenizer = data.prepare.parse_tokenizer(run.tokenizer_file.read_text(encoding="utf-8"))
    assert seconds_per_clip(run.jobs[0], tokenizer) > 1  # 20,000 times 50 µs at the very least
    assert made < 100
