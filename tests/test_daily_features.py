"""A day's features: partitions whole or not there, tables that say what they hold, recordings, replay of older days.

Festival is a stand-in that speaks tones (its own voices: test_daily_speech.py); the shards are the featurizer's own.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer, models, pre_tokenizers

from daily import features as features_module
from daily import takes as takes_module
from daily.features import FeaturesConfig, make_features
from daily.lock import LockedError, locked
from daily.replay import mix
from daily.sentences import SENTENCES, is_held_back, key, read_sentences
from daily.store import Store, connect, open_store
from daily.takes import Take, take_id, write_takes
from data.errors import UserError
from data.records import Shards, encode
from data.shard_jobs import ShardJob, write_shard
from data.snr import snr_db
from data.verify import VerifyConfig, verify
from tests.festival import path_with_stand_in

REPOSITORY = Path(__file__).resolve().parent.parent
DAY = "2026-11-23"
NEXT = "2026-11-24"


@pytest.fixture(scope="module")
def corpus(sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of the sample corpus's train split and three of its test split."""
    folder = tmp_path_factory.mktemp("corpus") / "it"
    (folder / "clips").mkdir(parents=True)
    for split, clips in (("train", 4), ("test", 3)):
        lines = (sample_corpus / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[: 1 + clips]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines[1:]:
            shutil.copy(sample_corpus / "clips" / line.split("\t")[1], folder / "clips")
    return folder


@pytest.fixture(scope="module")
def sentences_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every twentieth sentence of the list: enough to draw from."""
    path = tmp_path_factory.mktemp("sentences") / "sentences.txt"
    path.write_text("\n".join(read_sentences(SENTENCES["it"])[::20]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the featurizer reads of a Whisper: mel bins, and a tokenizer (of bytes, which is parsed in no time)."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"model_type": "whisper", "num_mel_bins": 80}')
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|it|>", "<|de|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def config(corpus: Path, sentences_file: Path, model_dir: Path, tmp_path: Path) -> FeaturesConfig:
    return FeaturesConfig(
        store=tmp_path / "store",
        day=DAY,
        model=str(model_dir),
        corpus=str(corpus),
        sentences=sentences_file,
        clips=5,
        test_clips=4,
    )


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Festival as tones, and shards written by this process: starting others is the featurizer's, tested there."""

    def in_this_process(jobs: dict[int, ShardJob], *_: Any) -> Iterator[tuple[int, Any]]:
        for number, job in jobs.items():
            yield number, write_shard(job, lambda *_: None)

    monkeypatch.setattr("data.featurize.run_in_processes", in_this_process)
    monkeypatch.setenv("PATH", path_with_stand_in())


def tree(folder: Path) -> dict[str, str]:
    """The checksum of every file but the featurizer's note of its speed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def table(store: Store, view: str = "features") -> list[dict[str, Any]]:
    with connect(store) as connection:
        return connection.sql(f"from {view} order by id").to_arrow_table().to_pylist()


def test_a_machine_without_festival_is_told_what_to_install(
    tmp_path: Path, config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install festival festvox-italp16k festvox-itapc16k"):
        make_features(config)
    assert not (config.store / "clips" / "test").exists()


def test_the_first_day_makes_the_store_its_fixed_splits_and_the_partition(
    config: FeaturesConfig, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(config)
    store = open_store(config.store)
    assert (store.language, store.n_mels, store.days()) == ("it", 80, [DAY])
    verify(VerifyConfig(str(store.shards)))
    rows, fixed = table(store), table(store, "fixed")
    assert [row["id"] for row in rows] == [take_id(DAY, number) for number in range(5)]
    assert Counter(row["day"] for row in fixed) == {"test": 4, "guard": 3}
    assert all(is_held_back(row["sentence"]) == (row["day"] == "test") for row in [*rows, *fixed] if row["sex"])
    said = [line.split("\t")[2] for line in (corpus / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert sorted(row["sentence"] for row in fixed if row["day"] == "guard") == sorted(said)
    assert not {key(sentence) for sentence in said} & {key(row["sentence"]) for row in rows}
    assert "2026-11-23: 5 clips" in capsys.readouterr().out


def test_the_feature_table_says_what_the_records_and_the_audio_say(config: FeaturesConfig) -> None:
    """Half a sample of 16-bit audio: seconds are of the same samples, so they agree to their rounding."""
    make_features(replace(config, clips=12))
    store = open_store(config.store)
    shards = Shards.open(store.shards, DAY)
    records = {shards[position].id: shards[position] for position in range(len(shards))}
    rows = table(store)
    assert records.keys() == {row["id"] for row in rows}
    for row in rows:
        info = soundfile.info(store.folder / row["file"])
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
        assert row["seconds"] == pytest.approx(info.duration, abs=1e-4)
        assert row["snr_db"] == snr_db(records[row["id"]].log_mel_q)
        assert row["words"] == len(key(row["sentence"]).split())
        assert row["words_per_second"] == pytest.approx(row["words"] / row["seconds"], rel=1e-3)
        assert {"lp_diphone": "female", "pc_diphone": "male"}[row["voice"]] == row["sex"]
        assert row["recipe"] in config.recipes
        assert bool(row["augmentations"]) <= (row["recipe"] != "none")
    assert len({row["voice"] for row in rows}) == 2
    assert len({row["recipe"] for row in rows}) > 1


def test_a_second_run_of_a_day_changes_nothing_and_says_so(
    config: FeaturesConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(config)
    before = tree(config.store)
    capsys.readouterr()
    make_features(replace(config, clips=9, seed=3))
    assert tree(config.store) == before
    assert capsys.readouterr().out == f"{DAY} is in {config.store} already, 5 clips, 0.3 minutes; nothing to do\n"
    for split in ("guard", DAY):
        (config.store / "features" / f"{split}.parquet").write_bytes(b"")  # as a power cut leaves it
    make_features(config)
    assert tree(config.store) == before


def test_the_next_day_leaves_the_days_before_as_they_are(config: FeaturesConfig) -> None:
    make_features(config)
    before = tree(config.store)
    make_features(replace(config, day=NEXT, model=""))
    after = tree(config.store)
    assert {name: after[name] for name in before} == before
    store = open_store(config.store)
    assert store.days() == [DAY, NEXT]
    spoken = [row["sentence"] for row in table(store)]
    assert len(set(spoken)) == len(spoken) == 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a store that no run was killed on is kept, once there is one."""
    return tmp_path_factory.mktemp("undisturbed") / "store"


class KilledError(BaseException):
    """What ends a run at a chosen moment."""


@pytest.mark.parametrize(
    ("split", "moment"),
    [("guard", "table"), ("test", "shards"), *((DAY, moment) for moment in ("third clip", "clips", "shards", "table"))],
)
def test_a_day_killed_between_two_steps_ends_as_one_that_was_not(
    config: FeaturesConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, moment: str, split: str
) -> None:
    def killed(name: str, matches: str) -> None:
        """`name` of a module dies, once, when one of its arguments names the split."""
        module, _, function = name.rpartition(".")
        changed = {"features": features_module, "takes": takes_module}[module]
        original = getattr(changed, function)

        def dying(*arguments: Any, **named: Any) -> Any:
            if matches in str(arguments):
                raise KilledError
            return original(*arguments, **named)

        patch.setattr(changed, function, dying)

    with monkeypatch.context() as patch:
        killed(
            *{
                "third clip": ("takes.write_clip", take_id(split, 2)),
                "clips": ("features.featurize", f"clips/{split}/"),
                "shards": ("features._rows", f"'{split}'"),
                "table": ("features.write_table", f"{split}.parquet"),
            }[moment]
        )
        with pytest.raises(KilledError):
            make_features(config)
    assert not (config.store / "features" / f"{split}.parquet").exists()
    make_features(config)
    if not undisturbed.exists():
        make_features(replace(config, store=undisturbed))
    here, there = tree(config.store), tree(undisturbed)
    # A manifest names the folder that its clips were in.
    differ = {Path(name).name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    assert differ <= {"manifest.json"}
    assert not list(config.store.rglob(".*"))


def test_takes_are_on_the_disk_before_their_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, found = Take(np.zeros(1600, np.float32), "Sì.", "recorded", "io", "", "0"), list[bool]()
    monkeypatch.setattr(os, "sync", lambda: found.append((tmp_path / DAY).exists()))
    assert write_takes(tmp_path / DAY, [("a.flac", take)], "it", [], seed=0) == 1
    assert found == [False]


def test_the_command_that_begins_a_store_has_its_lock(config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = config.store

    def at_work(_: FeaturesConfig) -> None:
        with pytest.raises(LockedError), locked(store):
            pass
        (store / "was-locked").touch()

    monkeypatch.setattr(features_module, "make_features", at_work)
    monkeypatch.setattr(sys, "argv", ["features", "--store", str(store), "--day", DAY, "--model", config.model])
    features_module.main()
    assert (store / "was-locked").exists()


def test_a_disk_that_is_full_when_a_clip_is_written_is_one_line(
    config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day goes on once there is room: the limit is of a file's size, and above that of an empty table's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = takes_module.write_clip

    def write_to_full_disk(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patch:
        patch.setattr(takes_module, "write_clip", write_to_full_disk)
        with pytest.raises(UserError, match="file too large; nothing is lost: mend that") as full:
            make_features(config)
    assert "\n" not in str(full.value)
    make_features(config)
    assert open_store(config.store).days() == [DAY]


def metadata_folder(folder: Path, clips: list[tuple[Path, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for path, _ in clips:
        shutil.copy(path, folder)
    lines = [f'{path.name},"{sentence}"' for path, sentence in clips]
    (folder / "metadata.csv").write_text("\n".join(["file_name,sentence", *lines]) + "\n", encoding="utf-8")
    return folder


def test_recordings_are_taken_in_the_same_way_and_none_twice(
    config: FeaturesConfig, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first day is given a new recording and one of the guard's; the next that new one again, another that says a
    sentence of the guard, one that says one of the test split, one that is no sound, and a third one."""
    listed = {split: (corpus / f"{split}.tsv").read_text(encoding="utf-8").splitlines() for split in ("train", "test")}
    guard = listed["test"][1].split("\t")
    paths = sorted(corpus / "clips" / line.split("\t")[1] for line in listed["train"][1:])
    new = [(path, f"Frase mai detta {number}.") for number, path in enumerate(paths)]
    folder = tmp_path / "new"
    config = replace(config, recorded=str(metadata_folder(folder, [*new[:1], (corpus / "clips" / guard[1], "Altro.")])))
    make_features(config)
    assert "left out 1 × taken before" in capsys.readouterr().out
    broken = tmp_path / "broken.mp3"
    broken.write_text("no sound")
    (config.store / "clips" / "my notes").mkdir()
    (config.store / "clips" / "notes.txt").touch()
    (tested, *_) = (row["sentence"] for row in table(open_store(config.store), "fixed") if row["day"] == "test")
    reserved = [(new[3][0], guard[2].upper()), (new[2][0], tested)]
    metadata_folder(folder, [*new[:1], *reserved, (broken, "Rotta."), *new[1:2]])
    capsys.readouterr()
    make_features(replace(config, day=NEXT, clips=0, recorded=str(folder)))
    out = capsys.readouterr().out
    for line in ("1 × taken before", "2 × its sentence is in the test or guard split", "1 × does not decode"):
        assert f"{folder}: left out {line}" in out
    store = open_store(config.store)
    taken = [row for row in table(store) if row["source"] == "recorded"]
    assert [(row["id"], row["sentence"]) for row in taken] == [
        (take_id(DAY, 5), "Frase mai detta 0."),
        (take_id(NEXT, 0), "Frase mai detta 1."),
    ]
    assert all(row["recipe"] == "none" for row in taken)


def of_train(corpus: Path) -> list[Path]:
    """The corpus's recordings that are not the guard's."""
    lines = (corpus / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [corpus / "clips" / line.split("\t")[1] for line in lines]


def test_recordings_that_cannot_be_used_are_left_out_and_do_not_stop_the_day(
    config: FeaturesConfig, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four, one has more text than the decoder takes, and one is another's sound in another file."""
    one, two, three, _ = of_train(corpus)
    audio_N, rate = soundfile.read(one, dtype="float32")
    for number in range(2):  # the same samples, another header
        soundfile.write(tmp_path / f"same-{number}.wav", audio_N, rate, format=("WAV", "WAVEX")[number])
    said = [(tmp_path / "same-0.wav", "Uno."), (tmp_path / "same-1.wav", "Due."), (two, "parola " * 500)]
    folder = metadata_folder(tmp_path / "new", [*said, (three, "Quattro.")])
    make_features(replace(config, clips=0, recorded=str(folder)))
    assert [row["sentence"] for row in table(open_store(config.store))] == ["Uno.", "Quattro."]
    out = capsys.readouterr().out
    assert "left out: 1 × more than 443 tokens" in out
    assert "left out: 1 × same audio as another clip" in out


def test_a_day_of_unusable_recordings_alone_is_a_quiet_one(
    config: FeaturesConfig, corpus: Path, tmp_path: Path
) -> None:
    folder = metadata_folder(tmp_path / "new", [(of_train(corpus)[0], "parola " * 500)])
    for _ in range(2):
        make_features(replace(config, clips=0, recorded=str(folder)))
    assert open_store(config.store).is_quiet(DAY)


def test_a_day_without_anything_to_take_from_is_an_error_and_leaves_nothing(config: FeaturesConfig) -> None:
    with pytest.raises(UserError, match="2026-11-23 would be empty"):
        make_features(replace(config, clips=0))
    assert not list((config.store / "clips").glob("*2026*"))


def test_a_day_with_nothing_new_among_the_recordings_is_quiet_and_replayed_by_none(
    config: FeaturesConfig, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = metadata_folder(tmp_path / "new", [(of_train(corpus)[0], "Frase nuova.")])
    config = replace(config, clips=0, recorded=str(new))
    make_features(config)
    make_features(replace(config, day=NEXT))
    assert f"{NEXT}: nothing new\n" in capsys.readouterr().out
    make_features(replace(config, day=NEXT))
    assert f"{NEXT} is in {config.store} already, nothing new; nothing to do\n" in capsys.readouterr().out
    store = open_store(config.store)
    assert (store.is_quiet(DAY), store.is_quiet(NEXT), store.days()) == (False, True, [DAY, NEXT])
    assert [row["day"] for row in table(store)] == [DAY]
    assert not (store.shards / NEXT).exists()
    make_features(replace(config, day="2026-11-25", clips=2, recorded=None))
    hear(store, DAY, NEXT)
    mixed = Shards.open(mix(store, "2026-11-25"), "train-2026-11-25")
    assert mixed.manifest["days"] == {"2026-11-25": 2, DAY: 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clips": -1}, "--clips -1"),
        ({"day": "domani"}, "write it like 2026-11-23"),
        ({"recipes": ("loud",)}, "no recipe 'loud'"),
        ({"recipes": ()}, "no recipe given"),
        ({"corpus": "nowhere"}, "no corpus: nowhere"),
        ({"sentences": Path("nowhere.txt")}, "nowhere.txt cannot be read"),
        ({"language": "de"}, "no synthetic voice speaks 'de'"),
        ({"recorded": "nowhere"}, "no corpus: nowhere"),
        ({"clips": 100_000}, "100000 clips a day"),
    ],
)
def test_bad_input_is_one_line_and_no_day(config: FeaturesConfig, changes: dict[str, Any], said: str) -> None:
    if "language" in changes:  # the corpus says its own
        config = replace(config, corpus=str(metadata_corpus(config)))
    with pytest.raises(UserError, match=said) as refused:
        make_features(replace(config, **changes))
    assert "\n" not in str(refused.value)
    assert not (config.store / "features" / f"{DAY}.parquet").exists()


def test_the_command_ends_with_one_line_and_code_2_on_bad_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daily.features", "--store", str(tmp_path), "--day", "domani"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: day 'domani' is not a date; write it like 2026-11-23\n"
    assert not list(tmp_path.iterdir())


def test_a_store_keeps_its_language_and_model(config: FeaturesConfig) -> None:
    make_features(config)
    for changes, said in (
        ({"language": "de"}, "language is 'it' there, 'de' asked"),
        ({"model": "./m"}, "no model: ./m"),
    ):
        with pytest.raises(UserError, match=said):
            make_features(replace(config, day=NEXT, **changes))
    assert open_store(config.store).days() == [DAY]


def metadata_corpus(config: FeaturesConfig) -> Path:
    """The corpus as folders of metadata, which name no language."""
    folder = config.store.with_name("corpus")
    clip = next((Path(config.corpus) / "clips").iterdir())
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        metadata_folder(folder / split, [(clip, "Frase.")])
    return folder


def test_two_runs_never_write_one_store_at_once(config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: Any) -> None:
        with pytest.raises(UserError, match=r"another daily\.features is writing"):
            make_features(config)
        raise KilledError

    monkeypatch.setattr(features_module, "_featurize", second)
    with pytest.raises(KilledError):
        make_features(config)


def hear(store: Store, *days: str) -> None:
    """What the champion heard on `days`, as far as a mixture looks at it."""
    for day in days:
        store.predictions(day).parent.mkdir(exist_ok=True)
        store.predictions(day).touch()


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
