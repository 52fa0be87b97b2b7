"""The sample corpus keeps its promises: small, complete, disjoint, and as Common Voice lays it out."""

import csv
import re
from pathlib import Path

import pytest
import soundfile

SPLITS = ("train", "dev", "test")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def normalised(sentence: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", sentence.lower()).split())


def test_it_is_at_most_12_megabytes(sample_corpus):
    assert sum(path.stat().st_size for path in sample_corpus.rglob("*") if path.is_file()) <= 12_000_000


@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train", "dev"), ("dev", "test")])
def test_no_sentence_stands_in_two_splits(sample_corpus, one, other):
    first, second = ({normalised(row["sentence"]) for row in rows(sample_corpus / f"{s}.tsv")} for s in (one, other))
    assert first
    assert second
    assert not first & second


def test_every_row_has_its_file_and_every_file_its_row_and_origin(sample_corpus):
    listed = [row["path"] for split in SPLITS for row in rows(sample_corpus / f"{split}.tsv")]
    files = sorted(path.name for path in (sample_corpus / "clips").iterdir())
    assert sorted(listed) == files
    assert sorted(row["path"] for row in rows(sample_corpus / "sources.tsv")) == files


def test_every_clip_is_48_khz_mono_mp3_as_in_common_voice(sample_corpus):
    for path in (sample_corpus / "clips").iterdir():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.format) == (48_000, 1, "MP3"), path


def test_every_source_has_a_licence_that_lets_us_share_it_and_a_credit(sample_corpus):
    readme = (sample_corpus / "README.md").read_text(encoding="utf-8")
    for credit in ("Carlo Flora", "Silvia Petrin", "Marco Menardi", "Paola Dal Zot", "http://www.voip.ammdomus.it"):
        assert credit in readme
    licences = {(row["source"], row["licence"]) for row in rows(sample_corpus / "sources.tsv")}
    assert licences == {("carlo", "CC-BY-SA-3.0"), ("menardi", "CC-BY-SA-3.0-IT")}
