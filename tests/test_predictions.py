"""predictions.parquet: every score made again from it, and files of other programs read or refused."""

import csv

import jiwer
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from jax_train.mishearings import clip_signs
from jax_train.predictions import clip_table, hypotheses_for, read_predictions, write_predictions
from jax_train.scores import edits

IDS = ["a.mp3", "b.mp3", "c.mp3"]
REFERENCES = ["Perché no?", "C'è il sole.", "È già «così»\te\npoi"]
HYPOTHESES = ["perche no", "", 'è già "così"\te poi']
AS_READ = [[" ".join(text.split()) for text in texts] for texts in (REFERENCES, HYPOTHESES)]
"""A tab or a line's end is a space to whoever reads, and to the scores."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    written, normal = edits(REFERENCES, HYPOTHESES)
    facts = {"id": np.array(IDS), "reference": REFERENCES, "hypothesis": HYPOTHESES, "seconds": np.ones(3, np.float32)}
    table = clip_table(facts, written, normal, clip_signs(REFERENCES, HYPOTHESES, normal))
    file = tmp_path_factory.mktemp("out") / "predictions.parquet"
    write_predictions(file, table)
    return file


def test_the_scores_come_out_of_its_columns_again(path):
    rows = pandas.read_parquet(path)
    assert rows["reference"].tolist() == REFERENCES
    assert rows["hypothesis"].tolist() == HYPOTHESES
    wrong = rows["substitutions"] + rows["deletions"] + rows["insertions"]
    assert wrong.sum() / rows["words"].sum() == pytest.approx(jiwer.wer(*AS_READ), rel=1e-12)
    cer = rows["character_errors"].sum() / rows["characters"].sum()
    assert cer == pytest.approx(jiwer.cer(*AS_READ), rel=1e-12)
    # By hand, normalised: «perché no», «c è il sole», «è già così e poi»: perché is wrong, four words are missing.
    assert rows["words_normalised"].tolist() == [2, 4, 5]
    assert rows["substitutions_normalised"].tolist() == [1, 0, 0]
    assert rows["deletions_normalised"].tolist() == [0, 4, 0]
    assert b"remove_diacritics=False" in pq.read_schema(path).metadata[b"normaliser"]


def test_hypotheses_come_in_the_order_asked_from_parquet_and_tsv(path, tmp_path):
    assert hypotheses_for(path, IDS[::-1]) == HYPOTHESES[::-1]
    table = tmp_path / "other.tsv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["hypothesis", "id", "score"])
        writer.writerows(zip(HYPOTHESES, IDS, "123", strict=True))
    assert hypotheses_for(table, IDS[::-1]) == HYPOTHESES[::-1]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("\ufeffid\thypothesis\na\tè\nb\t\n", ["è", ""]),  # a byte order mark
        ('id\thypothesis\r\na\t"Ciao" disse\r\nb\tno\r\n', ['"Ciao" disse', "no"]),
        ('id\thypothesis\na\t"Ciao disse\nb\tno', ['"Ciao disse', "no"]),
        ('id\thypothesis\na\t"Ciao\nb\tdisse"\n', ['"Ciao', 'disse"']),  # two lines are two rows
        ('id\thypothesis\na\t"Ciao"\nb\tlui "sì"\n', ['"Ciao"', 'lui "sì"']),
        ('id\thypothesis\na\t"Ciao"\nb\t"lui ""sì"""\n', ["Ciao", 'lui "sì"']),  # csv's quotes
        ('"id"\t"hypothesis"\n"a"\t"uno\tdue"\n"b"\t"tre\nquattro"\n', ["uno\tdue", "tre\nquattro"]),
    ],
)
def test_quotes_are_csvs_where_all_of_the_file_is_written_so_and_else_what_was_heard(tmp_path, written, read):
    (tmp_path / "some.tsv").write_text(written, encoding="utf-8", newline="")
    assert read_predictions(tmp_path / "some.tsv", "id", "hypothesis") == {"id": ["a", "b"], "hypothesis": read}


def test_a_parquet_file_with_damaged_pages_and_a_whole_footer_is_said(tmp_path):
    pq.write_table(pa.table({"id": IDS, "hypothesis": HYPOTHESES}), tmp_path / "damaged.parquet")
    content = bytearray((tmp_path / "damaged.parquet").read_bytes())
    content[4:40] = b"\xff" * 36
    (tmp_path / "damaged.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.parquet is not a Parquet file, or damaged"):
        read_predictions(tmp_path / "damaged.parquet", "id", "hypothesis")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([*IDS, "d.mp3", "e.mp3"], r"no hypothesis for 2 \(d.mp3, e.mp3\) of 5 clips"),
        (IDS[:1], r"has 2 \(b.mp3, c.mp3\), which the split has not"),
    ],
)
def test_predictions_of_other_clips_are_said(path, ids, said):
    with pytest.raises(UserError, match=said):
        hypotheses_for(path, ids)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.parquet", None, "no such file"),
        ("text.parquet", b"id\thypothesis\n", "is not a Parquet file"),
        ("latin.tsv", "id\thypothesis\na.mp3\tè\n".encode("latin-1"), "is not a UTF-8 table"),
        ("names.tsv", b"id\ttext\na.mp3\tuno\n", "lacks the column hypothesis; there are: id, text"),
        ("empty.tsv", b"", "lacks the columns id, hypothesis; there are: none"),
        ("header.tsv", b"id\ttext\n", "lacks the column hypothesis; there are: id, text"),
        ("short.tsv", b"id\thypothesis\na.mp3\n", "hypothesis of row 0 is None, not text"),
        ("tab.tsv", b"id\thypothesis\na.mp3\tuno\tdue\n", r"1 \(a.mp3\) have more fields than the header"),
        ("twice.tsv", b"id\thypothesis\na.mp3\tuno\na.mp3\tdue\n", r"1 \(a.mp3\) stand there twice"),
    ],
)
def test_a_file_that_is_no_predictions_is_said(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_predictions(tmp_path / name, "id", "hypothesis")


def test_a_column_of_numbers_is_no_text(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "hypothesis": [7]}), tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match="hypothesis of row 0 is 7, not text"):
        read_predictions(tmp_path / "numbers.parquet", "id", "hypothesis")
