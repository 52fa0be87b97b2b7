"""What a model confuses, makes up and repeats: against counts by hand, jiwer's edits and Whisper's own definition."""

import zlib

import numpy as np
import pytest

from jax_train.mishearings import clip_signs, compression_ratio, confusions, counted_signs, repeated_ngrams
from jax_train.scores import aligned

LOOP = "e poi " * 20
CASES = [
    # reference, hypothesis, surplus words, hallucination, repetition
    ("il sole è alto", "il sole è alto", 0, False, False),
    ("il sole è alto", "il sole è alto sottotitoli creati dalla comunità amara", 5, True, False),
    ("il sole è alto", "sottotitoli a cura di il sole è alto", 4, False, False),
    ("il sole è alto", "il grande e molto bello sole è davvero alto", 4, False, False),  # not one place
    ("uno due tre quattro cinque sei", "a b c d e f", 0, False, False),  # all wrong, but of the right length
    ("buongiorno", "buon giorno a tutti voi", 4, False, False),
    ("buongiorno", "buon giorno a tutti voi amici", 5, True, False),
    ("e poi", LOOP.strip(), 38, True, True),
    (LOOP.strip(), LOOP.strip(), 0, False, False),  # said so
    ("no no no no no no", "no no no no no no no", 1, False, True),  # one «no» more than the reference repeats
    ("il sole", "", 0, False, False),
    ("sì", "s" + "ì" * 200, 0, False, True),  # a loop within one word
    ("no no no no no no no", "no no no no no", 0, False, False),  # fewer runs than are said
]


def test_signs_are_those_counted_by_hand():
    references, hypotheses = ([case[side] for case in CASES] for side in (0, 1))
    found = clip_signs(references, hypotheses, aligned(references, hypotheses))
    assert found["surplus_words"].tolist() == [case[2] for case in CASES]
    assert found["hallucination"].tolist() == [case[3] for case in CASES]
    assert found["repetition"].tolist() == [case[4] for case in CASES]


def test_the_corpus_is_counted_with_its_definitions():
    references, hypotheses = ([case[side] for case in CASES] for side in (0, 1))
    normal = aligned(references, hypotheses)
    found = counted_signs(clip_signs(references, hypotheses, normal), normal)
    assert (found["hallucinations"], found["repetitions"], found["both"], found["empty_hypotheses"]) == (3, 3, 1, 1)
    assert found["repeated_5grams"] == (40 - 4 - 2) + 1  # of twenty «e poi», and of «no»; none taken off for fewer
    inserted = 5 + 4 + 5 + 4 + 5 + 38 + 1
    assert found["insertion_rate"] == pytest.approx(100 * inserted / sum(len(text.split()) for text in references))
    assert set(found["definitions"]) == {"hallucinations", "repetitions", "insertion_rate", "words"}


@pytest.mark.parametrize(
    ("text", "repeated"),
    [("", 0), ("a b c d", 0), ("a b c d e", 0), ("a b c d e a b c d e", 1), ("a a a a a a a", 2), ("a b " * 5, 4)],
)
def test_a_repeated_run_is_one_said_before(text, repeated):
    """By hand: «a b a b a b a b a b» has six runs of five words, two of them different."""
    assert repeated_ngrams(text.split()) == repeated


def test_the_compression_ratio_is_whispers():
    """As in whisper/utils.py: bytes over zlib's; its threshold of 2.4 tells a loop from a sentence."""
    sentence = "Perché no? È già così, e non c'è più niente da fare."
    assert compression_ratio(sentence) == len(sentence.encode()) / len(zlib.compress(sentence.encode()))
    assert compression_ratio(sentence) < 2.4 < compression_ratio(LOOP)
    assert compression_ratio("") == 0


def test_confused_words_are_those_of_the_alignment():
    references = ["il sole è alto", "il mare è blu", "la luna è alta"]
    hypotheses = ["il sole e alto", "mare e blu", "la luna è alta ora ora dai"]
    found = confusions(aligned(references, hypotheses))
    assert found["substitutions"] == [{"reference": "è", "hypothesis": "e", "count": 2}]
    assert found["deletions"] == [{"word": "il", "count": 1}]
    assert found["insertions"] == [{"word": "ora", "count": 2}, {"word": "dai", "count": 1}]
    assert found["missed"] == [{"word": "è", "count": 2, "of": 3}, {"word": "il", "count": 1, "of": 2}]


def test_all_confusions_add_up_to_the_edits():
    rng = np.random.default_rng(0)
    references, hypotheses = (
        [" ".join(rng.choice(list("abcde"), size)) for size in rng.integers(1, 9, 50)] for _ in range(2)
    )
    edits = aligned(references, hypotheses)
    found = confusions(edits, most=1000)
    totals = {name: sum(row["count"] for row in rows) for name, rows in found.items()}
    assert totals["substitutions"] == edits.substitutions.sum() > 0
    assert totals["deletions"] == edits.deletions.sum() > 0
    assert totals["insertions"] == edits.insertions.sum() > 0
    assert totals["missed"] == totals["substitutions"] + totals["deletions"]
    assert confusions(edits, most=3)["substitutions"] == found["substitutions"][:3]
