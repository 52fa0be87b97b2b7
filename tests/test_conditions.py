"""How a score was made: what keeps it from being its split's, how it was decoded, and where two scores are unlike."""

import pytest

from jax_train.conditions import decoding, lacks, lacks_of_two, unlike

WHOLE = {"windows": "whole", "limit": 0, "fold": {"of": 0, "number": 1}, "num_beams": 1, "timestamps": None}
WHOLE |= {"language": "it", "max_new_tokens": 444, "asked_new_tokens": 0, "compute_dtype": "float32"}
WHOLE |= {"fallback": {"temperatures": [0.0]}, "predictions": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"windows": "thinned"}, ["thinned windows, so not the score of whole windows"]),
        ({"limit": 40}, ["the split's first 40 clips alone"]),
        ({"limit": 40, "clips_left_out": 0}, []),  # the split has no more
        ({"fold": {"of": 5, "number": 2}}, ["fold 2 of 5 alone"]),
        ({"fold": {"of": 5, "number": 2}, "limit": 40}, ["the fold's first 40 clips alone", "fold 2 of 5 alone"]),
        ({"asked_new_tokens": 60}, ["transcripts cut after 60 tokens"]),
    ],
)
def test_what_keeps_a_score_from_being_its_splits_is_said(changes, said):
    assert lacks(WHOLE | changes) == said
    assert lacks(WHOLE | changes, fold_told=True) == [missing for missing in said if not missing.startswith("fold")]


def test_what_two_scores_lack_is_said_once_if_it_is_the_same():
    assert lacks_of_two([], []) == []
    assert lacks_of_two(["fold 2 of 5 alone"], ["fold 2 of 5 alone"]) == ["fold 2 of 5 alone"]
    assert lacks_of_two(["x", "y"], ["y"]) == ["A: x", "A: y", "B: y"]


def test_a_setting_that_an_older_file_lacks_had_its_default():
    assert lacks({}) == []
    assert decoding({}) == decoding(WHOLE) == "greedy, whole windows"
    assert unlike({}, WHOLE) == []


def test_decoding_is_told_in_words():
    changes = {"num_beams": 5, "windows": "thinned", "timestamps": {"begin": 50_364, "last_initial": 50}}
    changes["fallback"] = {"temperatures": [0.0, 0.2, 1.0]}
    said = decoding(WHOLE | changes)
    assert said == "5 beams, thinned windows, with timestamps, fallback to temperatures 0.2, 1"
    assert decoding(WHOLE | {"predictions": "theirs.tsv"}) == "transcripts made elsewhere"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"windows": "thinned"}, "windows: whole in A, thinned in B"),
        ({"num_beams": 5}, "beams: 1 in A, 5 in B"),
        ({"language": "en"}, "language: it in A, en in B"),
        ({"timestamps": {"begin": 50_364}}, "timestamps: no in A, yes in B"),
        ({"asked_new_tokens": 60, "max_new_tokens": 60}, "most new tokens: all there is room for in A, 60 in B"),
        ({"compute_dtype": "bfloat16"}, "computed in: float32 in A, bfloat16 in B"),
        ({"fallback": {"temperatures": [0.0, 0.2]}}, "temperatures: 0 in A, 0 0.2 in B"),
    ],
)
def test_two_scores_are_unlike_in_how_they_were_transcribed(changes, said):
    assert unlike(WHOLE, WHOLE) == []
    assert unlike(WHOLE, WHOLE | changes) == [said]


def test_models_with_room_for_unlike_numbers_of_tokens_were_asked_alike():
    """One of English alone is told less before it starts, so has room for more."""
    assert unlike(WHOLE | {"max_new_tokens": 446}, WHOLE) == []


def test_of_transcripts_made_elsewhere_nothing_is_known():
    assert unlike(WHOLE, WHOLE | {"predictions": "theirs.tsv", "num_beams": 5}) == []
