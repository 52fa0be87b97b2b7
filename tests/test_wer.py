"""The scores against jiwer, and against edits counted by hand."""

import subprocess
import sys
import unicodedata

import jiwer
import pytest

from data.errors import UserError
from jax_train.scores import METRIC, SCORES, normaliser, scores
from jax_train.word_pairs import word_pairs
from tests.conftest import REPOSITORY

REFERENCES = ["Perché no, c'è il sole.", "Buongiorno a tutti!", "E poi?"]
HYPOTHESES = ["perche no c'è sole", "Buongiorno a tutti!", ""]


def test_scores_as_written_equal_jiwer():
    found = scores(REFERENCES, HYPOTHESES)
    assert found["wer"] == pytest.approx(100 * jiwer.wer(REFERENCES, HYPOTHESES), rel=1e-12)  # one division apart
    assert found["cer"] == pytest.approx(100 * jiwer.cer(REFERENCES, HYPOTHESES), rel=1e-12)


def test_normalised_scores_count_accents_but_neither_case_nor_punctuation():
    """By hand: perché no c è il sole / buongiorno a tutti / e poi: 11 words; perche, il, e, poi are wrong: 4."""
    found = scores(REFERENCES, HYPOTHESES)
    assert found["wer_normalised"] == pytest.approx(100 * 4 / 11, rel=1e-12)
    # Of 21 + 18 + 5 characters: é became e, «il » and «e poi» are gone.
    assert found["cer_normalised"] == pytest.approx(100 * (1 + 3 + 5) / (21 + 18 + 5), rel=1e-12)
    assert "remove_diacritics=False" in found["normaliser"]


def test_what_no_reader_sees_is_no_error_even_as_written():
    """è as one code point or as e and its accent; words apart by a tab, a no-break space or two spaces."""
    composed, decomposed = "Così è, perché no?", unicodedata.normalize("NFD", "Così è, perché no?")
    assert composed != decomposed
    for pair in ((composed, decomposed), (decomposed, composed)):
        assert [scores([pair[0]], [pair[1]])[name] for name in SCORES] == [0, 0, 0, 0]
    spaced = "Così\u00a0è,\tperché  no? "
    assert [scores([composed], [spaced])[name] for name in SCORES] == [0, 0, 0, 0]
    assert [scores([spaced], [composed])[name] for name in SCORES] == [0, 0, 0, 0]
    (pairs,) = word_pairs([composed], [decomposed], normaliser())
    assert [pair.kind for pair in pairs] == ["same"] * 4


def test_a_perfect_transcript_scores_zero_and_case_alone_only_as_written():
    found = scores(["Ciao a tutti."], ["ciao a tutti"])
    assert (found["wer_normalised"], found["cer_normalised"]) == (0, 0)
    assert found["wer"] == pytest.approx(100 * 2 / 3, rel=1e-12)


def test_a_reference_of_punctuation_alone_counts_what_was_heard_as_insertions():
    assert scores(["…", "uno due"], ["ehm", "uno due"])["wer_normalised"] == pytest.approx(100 / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "no clips"),
        (["uno"], [], "1 references and 0 hypotheses"),
        (["uno", " "], ["uno", "due"], "reference 1 is empty"),
        (["…"], ["uno"], "no letter or digit"),
    ],
)
def test_what_cannot_be_scored_is_said(references, hypotheses, message):
    with pytest.raises(UserError, match=message):
        scores(references, hypotheses)


def test_the_metric_loads_from_its_file_without_a_network(tmp_path):
    """In a process of its own whose sockets cannot be opened and whose caches are empty."""
    program = f"""
import socket
def refuse(*_, **__): raise AssertionError("the metric opened a socket")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
print(evaluate.load({str(METRIC)!r}).compute(references=["uno due"], predictions=["uno"])["wer"])
"""
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0.5", done.stderr


def test_scoring_brings_no_pytorch_and_leaves_pipelines_as_they_were():
    program = """
import sys
from jax_train.scores import scores
print(scores(["uno due"], ["uno"])["wer"], "torch" in sys.modules)
from transformers import pipeline
print(pipeline.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["50.0", "False", "pipeline"], done.stderr
