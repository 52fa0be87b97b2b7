"""A day's recordings: taken as spoken clips are and none twice, unusable ones left out, days of nothing new quiet."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from daily.features import FeaturesConfig, make_features
from daily.replay import mix
from daily.store import open_store
from daily.takes import take_id
from data.records import Shards
from tests.made_features import DAY, NEXT, hear, metadata_folder, table

pytestmark = pytest.mark.usefixtures("stand_ins")


@pytest.fixture
def corpus(small_day: FeaturesConfig) -> Path:
    return Path(small_day.corpus)


@pytest.fixture
def config(small_day: FeaturesConfig, tmp_path: Path) -> FeaturesConfig:
    return replace(small_day, store=tmp_path / "store")


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
