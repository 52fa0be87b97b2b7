"""What a split may be called, which clips that means, and whether its speakers are its own."""

import pytest
from datasets import ReadInstruction

from data.clips import CorpusError
from data.sources import SourceOptions, read_split
from data.split_names import folder_name, parse_split


def write_split(folder, name, rows):
    """Rows are (clip, speaker)."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    lines = ["client_id\tpath\tsentence\tlocale", *(f"{speaker}\t{clip}.mp3\tCiao.\tit" for clip, speaker in rows)]
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def corpus(tmp_path):
    write_split(tmp_path, "train", [(f"a{n:02d}", f"s{n // 4}") for n in range(37)])
    write_split(tmp_path, "dev", [(f"b{n}", f"t{n}") for n in range(5)])
    return write_split(tmp_path, "test", [(f"c{n}", f"u{n}") for n in range(5)])


def ids(corpus, split):
    return [clip.id.removesuffix(".mp3") for clip in read_split(corpus, split).clips]


@pytest.mark.parametrize(
    "slice_",
    ["[:10%]", "[10%:20%]", "[:1000]", "[:7]", "[-5%:]", "[-5:]", "[:-5]", "[33%:66%]", "[5:]", "[:]", "[:100%]",
     "[-10%:-3%]", "[30:99]"],
)  # fmt: skip
def test_a_slice_is_what_datasets_takes_for_it(corpus, slice_):
    rows = [f"a{n:02d}" for n in range(37)]
    spec = ReadInstruction.from_spec(f"train{slice_}")
    (bounds,) = spec.to_absolute({"train": 37})
    assert ids(corpus, f"train{slice_}") == rows[bounds.from_ : bounds.to]


def test_the_slices_of_a_whole_are_the_whole(corpus):
    parts = [f"train[{start}%:{start + 10}%]" for start in range(0, 100, 10)]
    assert ids(corpus, "+".join(parts)) == ids(corpus, "train")
    assert [clip for part in parts for clip in ids(corpus, part)] == ids(corpus, "train")


def test_splits_merge_in_the_order_given_and_validation_is_dev(corpus):
    assert ids(corpus, "train + validation") == ids(corpus, "train") + ids(corpus, "dev")
    assert ids(corpus, "test[:1]+dev[-2:]+train[:1]") == ["c0", "b3", "b4", "a00"]


def test_of_merged_splits_the_language_is_theirs_if_they_have_one_and_no_rejected_row_is_lost(corpus):
    assert read_split(corpus, "train+dev").language == "it"
    with (corpus / "dev.tsv").open("a") as file:
        file.write("t9\tsub/b9.mp3\tCiao.\tit\n")
    (corpus / "test.tsv").write_text((corpus / "test.tsv").read_text().replace("\tit", "\tde"))
    merged = read_split(corpus, "train+dev+test")
    assert merged.language is None
    assert [(row.id, row.reason) for row in merged.rejected] == [("sub/b9.mp3", "path is not a file name")]


def test_a_clip_that_comes_twice_is_taken_once(corpus):
    split = read_split(corpus, "train[:4]+train[2:5]+dev")
    assert [clip.id[:3] for clip in split.clips[:5]] == ["a00", "a01", "a02", "a03", "a04"]
    assert [(row.id, row.reason, row.detail) for row in split.rejected] == [
        ("a02.mp3", "listed twice", "again in train"),
        ("a03.mp3", "listed twice", "again in train"),
    ]


def test_of_two_synonyms_neither_is_taken_for_the_third(corpus):
    write_split(corpus, "valid", [("d0", "v")])
    assert ids(corpus, "valid") == ["d0"]
    with pytest.raises(CorpusError, match=r"no split 'validation' .*there are: dev, test, train, valid"):
        read_split(corpus, "validation")


@pytest.mark.parametrize(
    "spec",
    ["", "+", "train+", "train[", "train[10]", "train[:10%", "train[a:b]", "train[:10%]x", "train[:1.5%]", "../x",
     "a/b", "train[:10%:2]", "train[5:10%]", "train[:101%]", "..", "train dev", "train[:١]"],
)  # fmt: skip
def test_a_malformed_split_is_told_the_forms_there_are(corpus, spec):
    with pytest.raises(CorpusError, match=r"write for example train, train\+validation, train\[:10%\]"):
        read_split(corpus, spec)


def test_an_empty_slice_is_an_error_with_the_number_of_clips(corpus):
    with pytest.raises(CorpusError, match=r"'dev\[5:\]' of .* is empty: there are 5 clips in dev"):
        read_split(corpus, "dev[5:]")


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("train", "train"),
        ("train+validation", "train+validation"),
        (" train + dev ", "train+dev"),
        ("train[:10%]", "train_0-10pct"),
        ("train[10%:]", "train_10-100pct"),
        ("train[-5%:]", "train_95-100pct"),
        ("train[:1000]", "train_0-1000"),
        ("train[1000:]", "train_1000-end"),
        ("train[-1000:]", "train_last1000-end"),
        ("train[:10%]+dev[5:7]", "train_0-10pct+dev_5-7"),
        ("train[:]", "train"),
        (".hidden", "hidden"),
        ("clean.100", "clean.100"),
    ],
)
def test_the_folder_of_a_split_is_named_readably(spec, folder):
    assert folder_name(spec) == folder
    assert parse_split(folder)  # so that a folder's name is a split's, for whoever reads the shards


def test_speakers_shared_with_another_split_stop_the_run_if_asked(corpus):
    disjoint = SourceOptions(speakers_disjoint=True)
    assert len(read_split(corpus, "train", disjoint).clips) == 37
    write_split(corpus, "other", [("e0", "s0")])  # not one of the standard splits
    write_split(corpus, "dev", [("b0", "s3"), ("b1", "s1"), ("b2", ""), ("b3", "t")])
    with pytest.raises(CorpusError, match=r"train and dev share 2 of 10 speakers, for example s1: split the corpus by"):
        read_split(corpus, "train", disjoint)
    assert len(read_split(corpus, "train+validation", disjoint).clips) == 41
    assert len(read_split(corpus, "train").clips) == 37


def test_a_check_of_speakers_that_cannot_be_made_is_an_error(tmp_path):
    disjoint = SourceOptions(speakers_disjoint=True)
    corpus = write_split(tmp_path, "train", [("a", "s")])
    with pytest.raises(CorpusError, match=r"has no other split beside it to compare speakers with"):
        read_split(corpus, "train", disjoint)
    write_split(tmp_path, "train", [("a", "")])
    with pytest.raises(CorpusError, match=r"names no speakers"):
        read_split(corpus, "train", disjoint)
