"""What a day's features are made of in tests, and what came of it.

Festival is a stand-in that speaks tones (its own voices: test_daily_speech.py); the shards are the featurizer's own.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from daily.features import FeaturesConfig
from daily.sentences import SENTENCES, read_sentences
from daily.store import Store, connect
from data.shard_jobs import ShardJob, write_shard
from tests.festival import path_with_stand_in

DAY = "2026-11-23"
NEXT = "2026-11-24"


def few_clips(sample_corpus: Path, folder: Path) -> FeaturesConfig:
    """Five clips for the day and four for the test split; what they are made of lies in the folder."""
    return FeaturesConfig(
        store=folder / "store",
        day=DAY,
        model=str(bytes_model(folder / "model")),
        corpus=str(small_corpus(sample_corpus, folder / "it")),
        sentences=few_sentences(folder / "sentences.txt"),
        clips=5,
        test_clips=4,
    )


def small_corpus(sample_corpus: Path, folder: Path) -> Path:
    """Four clips of the sample corpus's train split and three of its test split."""
    (folder / "clips").mkdir(parents=True)
    for split, clips in (("train", 4), ("test", 3)):
        lines = (sample_corpus / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[: 1 + clips]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines[1:]:
            shutil.copy(sample_corpus / "clips" / line.split("\t")[1], folder / "clips")
    return folder


def few_sentences(path: Path) -> Path:
    """Every twentieth sentence of the list: enough to draw from."""
    path.write_text("\n".join(read_sentences(SENTENCES["it"])[::20]), encoding="utf-8")
    return path


def bytes_model(folder: Path) -> Path:
    """What the featurizer reads of a Whisper: mel bins, and a tokenizer (of bytes, which is parsed in no time)."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "whisper", "num_mel_bins": 80}')
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|it|>", "<|de|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def use_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Festival as tones, and shards written by this process: starting others is the featurizer's, tested there."""

    def in_this_process(jobs: dict[int, ShardJob], *_: Any) -> Iterator[tuple[int, Any]]:
        for number, job in jobs.items():
            yield number, write_shard(job, lambda *_: None)

    monkeypatch.setattr("data.featurize.run_in_processes", in_this_process)
    monkeypatch.setenv("PATH", path_with_stand_in())


def metadata_folder(folder: Path, clips: list[tuple[Path, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for path, _ in clips:
        shutil.copy(path, folder)
    lines = [f'{path.name},"{sentence}"' for path, sentence in clips]
    (folder / "metadata.csv").write_text("\n".join(["file_name,sentence", *lines]) + "\n", encoding="utf-8")
    return folder


def hear(store: Store, *days: str) -> None:
    """What the champion heard on `days`, as far as a mixture looks at it."""
    for day in days:
        store.predictions(day).parent.mkdir(exist_ok=True)
        store.predictions(day).touch()


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
