"""The command `python -m daily.features`: new speech of a day → its partition of shards and its feature table.

Decision: three things appear one after the other, each whole: the clips as a folder of FLAC, their shards by
`data.featurize`, and last the feature table, which makes the day. A killed command goes on at the first that is
missing; a day that has its table is never touched again. The first run also makes the two fixed splits that every
challenger is measured on: `test`, synthetic speech of sentences that no day speaks, and `guard`, real speech.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import soundfile
import tyro
from tqdm import tqdm

from daily import commands
from daily.alone import alone
from daily.leftovers import is_whole
from daily.recorded import recordings
from daily.sentences import SENTENCES, distinct, for_day, for_test, key, read_sentences
from daily.store import FEATURES, FIXED, GUARD, SETTINGS, TEST, Store, create_store, open_store, parse_day, write_table
from daily.takes import Take, partial_folder, read_metadata, take_id, write_takes
from daily.voices import Utterance, speak, voices_of
from data.augment import Recipe, find_recipe, generator
from data.errors import UserError, command
from data.featurize import FeaturizeConfig, featurize
from data.finish import NothingUsableError
from data.log_mel import SAMPLE_RATE
from data.model_files import model_file, read_n_mels
from data.pool import available_cores
from data.records import Shards
from data.snr import snr_db
from data.sources import read_split

MODELS = Path(".cache/models")
VOICE = 0  # what randomness is for; see daily.takes
Takes = Iterable[tuple[str, Take]]


@dataclass(frozen=True)
class FeaturesConfig:
    """Draw sentences, speak and augment them, take in recordings, and append the day to the feature store."""

    store: Path = Path("store")
    """The folder of everything; the first run makes it."""
    day: str = ""
    """The day, as 2026-11-23; by default today in UTC."""
    model: str = ""
    """Pretrained Whisper to begin with: a folder or a hub name. By default the store's, of a new store Whisper base."""
    language: str = ""
    """Whisper's code of the language. By default the store's, of a new store it."""
    corpus: str = "sample/it"
    """Any source of recordings: the text of its train split is spoken, its test split is the guard of real speech."""
    corpus_split: str = "train"
    """The split of the corpus whose text is spoken."""
    guard_split: str = "test"
    """The split of the corpus that becomes the guard; none of its sentences is spoken."""
    sentences: Path | None = None
    """Text with a sentence a line, spoken as the corpus's is; by default daily/sentences-LANGUAGE.txt."""
    clips: int = 40
    """Sentences spoken a day; with 0 a day is recordings alone."""
    test_clips: int = 80
    """Sentences of the test split; only when it is made."""
    recipes: tuple[str, ...] = ("none", "standard", "lab")
    """Augmentation recipes; each synthetic clip gets one of them, drawn."""
    recorded: str | None = None
    """New recordings with transcripts: any source, such as a folder with metadata.csv; none is taken twice.

    A day on which it holds nothing new, and nothing is spoken, is a quiet one: its table is empty."""
    recorded_split: str = "train"
    """The split of the recordings; a plain folder is one split, train."""
    seed: int = 0
    """Of sentences, voices and recipes, together with the day."""
    workers: int = available_cores()
    """Processes of the featurizer."""

    def __post_init__(self) -> None:
        parse_day(self.day)
        if self.clips < 0 or self.test_clips < 1:
            raise UserError(f"--clips {self.clips} --test-clips {self.test_clips}: 0 or more clips, 1 or more for test")
        if not self.recipes:
            raise UserError("no recipe given; `--recipes none` leaves every clip as it was spoken")
        for name in self.recipes:
            find_recipe(name)


def make_features(config: FeaturesConfig) -> None:
    """Do what `config` says; `UserError` for everything the user can mend."""
    store = begin(config)
    with _only_writer(store):
        _make_missing(store, parse_day(config.day), [find_recipe(name) for name in config.recipes], config)


def _make_missing(store: Store, day: str, recipes: list[Recipe], config: FeaturesConfig) -> None:
    """The fixed splits and the day, whichever has no table yet."""
    missing = [split for split in (*FIXED, day) if not is_whole(store, FEATURES, split)]
    if not missing:
        print(f"{day} is in {store.folder} already, {_say(store, day)}; nothing to do")
        return

    def make(split: str, takes: Callable[[], Takes]) -> None:
        is_there = store.clips(split).is_dir()
        is_there = is_there or bool(write_takes(store.clips(split), takes(), store.language, recipes, config.seed))
        is_there = is_there and _featurize(store, split, config.workers)
        if not is_there and (split in FIXED or config.recorded is None):
            raise UserError(
                f"{split} would be empty: give --clips, or --recorded a folder with new recordings; "
                f"if {store.clips(split)} is there, delete it"
            )
        write_table(FEATURES, store.features(split), _rows(store, split) if is_there else ())
        print(f"{split}: {_say(store, split)}")

    if GUARD in missing:
        guard = recordings(config.corpus, config.guard_split, store.language)
        make(GUARD, lambda: _numbered(GUARD, guard))
    if TEST in missing:
        make(
            TEST,
            lambda: _spoken(
                store, TEST, for_test(_sentences(store, config), config.test_clips, config.seed), config.seed
            ),
        )
    if day in missing:
        make(day, lambda: _takes_of_day(store, day, config))


@contextmanager
def _only_writer(store: Store) -> Iterator[None]:
    """Two runs never make parts of one store at once; the lock goes with the process, however it ends."""
    descriptor = os.open(store.folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another daily.features is writing {store.folder}: wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)


def begin(config: FeaturesConfig) -> Store:
    """The store, made if it is not there; `UserError` if its model is no longer the one it was made with."""
    there = open_store(config.store) if (config.store / SETTINGS).is_file() else None
    model = config.model or (there.model if there else "")
    if not model:
        commands.run(commands.module("jax_train.pretrained", "--cache", str(MODELS)))
        model = str(MODELS / "whisper-base")
    tokenizer = hashlib.sha256(model_file(model, "tokenizer.json").read_bytes()).hexdigest()
    language = config.language or (there.language if there else "it")
    return create_store(config.store, language, model, read_n_mels(model), tokenizer)


def _sentences(store: Store, config: FeaturesConfig) -> list[str]:
    """All that may be spoken: the corpus's text and the list, without what the guard says."""
    path = config.sentences or SENTENCES.get(store.language)
    listed = read_sentences(path) if path else []
    corpus = [clip.sentence for clip in read_split(config.corpus, config.corpus_split).clips]
    guard = [row["sentence"] for row in read_metadata(store.clips(GUARD)).values()]
    return distinct(chain(listed, corpus), without=guard)


def _takes_of_day(store: Store, day: str, config: FeaturesConfig) -> Takes:
    spoken: Takes = ()
    if config.clips:
        spoken = _spoken(store, day, for_day(_sentences(store, config), config.clips, config.seed, day), config.seed)
    if config.recorded is None:
        return spoken
    # Of the clips, not the tables: a day may have taken recordings and been killed before it had its table.
    taken = {
        folder.name: read_metadata(folder) for name in (*FIXED, "????-??-??") for folder in store.clips("").glob(name)
    }
    known = {row["audio_sha256"] for rows in taken.values() for row in rows.values()}
    reserved = {key(row["sentence"]) for split in FIXED for row in taken[split].values()}
    new = recordings(config.recorded, config.recorded_split, store.language, known, reserved)
    return chain(spoken, _numbered(day, new, config.clips))


def _numbered(split: str, takes: Iterable[Take], first: int = 0) -> Takes:
    return ((take_id(split, number), take) for number, take in enumerate(takes, first))


def _spoken(store: Store, split: str, sentences: list[str], seed: int) -> Iterator[tuple[str, Take]]:
    """Each of `sentences` by a voice drawn for it."""
    voices = voices_of(store.language)
    names = [take_id(split, number) for number in range(len(sentences))]
    drawn = [voices[generator(seed, VOICE, name).integers(len(voices))] for name in names]
    utterances = [Utterance(sentence, voice) for sentence, voice in zip(sentences, drawn, strict=True)]
    scratch = partial_folder(store.clips(f"{split}.spoken"))
    try:
        with tqdm(total=len(utterances), desc=f"{split}: speaking", unit="clip", dynamic_ncols=True) as bar:
            files = speak(utterances, scratch, bar.update)
        for name, said, file in zip(names, utterances, files, strict=True):
            if file is None:
                print(f"{split}: left out, the voice failed: {said.text}")
                continue
            audio_N, rate = soundfile.read(file, dtype="float32")
            if rate != SAMPLE_RATE:
                raise UserError(f"voice {said.voice.name} speaks at {rate} Hz, not {SAMPLE_RATE}: {said.voice.package}")
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            yield name, Take(audio_N, said.text, "festival", said.voice.name, said.voice.sex, sha256)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _featurize(store: Store, split: str, workers: int) -> bool:
    """Make the shards of a split; whether any of its clips could be used.

    However many cannot, they are left out and named: the clips are written, and no later run could mend them.
    """
    config = FeaturizeConfig(
        source=str(store.clips(split) / "metadata.csv"),
        shards=str(store.shards),
        model=store.model,
        split=split,
        recipe="none",
        copies=0,
        max_rejected="100%",
        language=store.language,
        workers=workers,
    )
    try:
        featurize(config)
    except NothingUsableError as error:
        print(f"{split}: {error}")
        return False
    return True


def _rows(store: Store, split: str) -> Iterator[dict[str, Any]]:
    """The feature table's rows: of every clip that has a record."""
    metadata = read_metadata(store.clips(split))
    shards = Shards.open(store.shards, split)
    for position in range(len(shards)):
        record = shards[position]
        known, words = metadata[record.id], len(key(record.text).split())
        yield {
            "id": record.id,
            "day": split,
            "source": known["source"],
            "voice": known["speaker"],
            "sex": known["sex"],
            "sentence": record.text,
            "words": words,
            "seconds": round(record.seconds, 4),
            "snr_db": snr_db(record.log_mel_q),
            "words_per_second": words / record.seconds,
            "recipe": known["recipe"],
            "augmentations": known["augmentations"],
            "file": str((store.clips(split) / record.id).relative_to(store.folder)),
            "audio_sha256": known["audio_sha256"],
        }


def _say(store: Store, split: str) -> str:
    if store.is_quiet(split):
        return "nothing new"
    manifest = Shards.open(store.shards, split).manifest
    return f"{manifest['records']} clips, {manifest['seconds'] / 60:.1f} minutes"


def main() -> None:
    """The command line."""
    config = tyro.cli(FeaturesConfig, prog="python -m daily.features")
    if not (config.store / SETTINGS).is_file():
        begin(config)  # the lock is of a store
    with alone(config.store, "features", config.day):
        make_features(config)


if __name__ == "__main__":
    command(main)()
