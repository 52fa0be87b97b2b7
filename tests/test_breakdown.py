"""Scores of parts: each part against jiwer on its clips alone, and all parts together against the whole."""

import jiwer
import numpy as np
import pytest

from jax_train.bootstrap import FEWEST_SPEAKERS
from jax_train.breakdown import FEWEST_CLIPS, by_range, by_speaker, counts, intervals, part
from jax_train.scores import SCORES, edits, normaliser

N_CLIPS = 60


@pytest.fixture(scope="module")
def texts():
    """Made sentences and what was heard of them."""
    rng = np.random.default_rng(1)
    words = ["Perché", "no,", "il", "Sole", "è", "alto.", "e", "poi"]
    references = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 9, N_CLIPS)]
    hypotheses = [" ".join(word for word in text.split() if rng.random() > 0.2) + " ecco" for text in references]
    return references, hypotheses


@pytest.fixture(scope="module")
def counted(texts):
    return counts(*edits(*texts))


def rates(texts, chosen):
    """jiwer's four scores of the chosen clips, in percent."""
    normal = normaliser()
    references, hypotheses = ([text[clip] for clip in np.flatnonzero(chosen)] for text in texts)
    clean = [normal(text) for text in references], [normal(text) for text in hypotheses]
    found = jiwer.wer(references, hypotheses), jiwer.cer(references, hypotheses), jiwer.wer(*clean), jiwer.cer(*clean)
    return dict(zip(SCORES, (100 * rate for rate in found), strict=True))


def only_scores(found):
    return {name: found[name] for name in SCORES}


def test_a_part_has_jiwers_scores_of_its_clips(texts, counted):
    chosen = np.arange(N_CLIPS) % 3 == 0
    found = part(counted, chosen)
    assert only_scores(found) == pytest.approx(rates(texts, chosen), rel=1e-12)  # one division apart
    assert found["clips"] == chosen.sum()
    for name in ("wer", "wer_normalised"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high


def test_few_clips_have_no_interval_and_none_without_words_a_rate(counted):
    chosen = np.arange(N_CLIPS) < FEWEST_CLIPS - 1
    assert part(counted, chosen)["wer_interval"] is None
    assert part(counted, np.arange(N_CLIPS) < FEWEST_CLIPS)["wer_interval"] is not None
    dots = part(counts(*edits(["…", "uno"], ["ehm", "uno"])), np.array([True, False]))
    assert dots["wer_normalised"] is None
    assert dots["wer"] == 100


def test_ranges_hold_their_lower_edge_and_every_clip_is_in_one(texts, counted):
    values = np.arange(N_CLIPS) / 4  # 0 to 14.75
    found = by_range(counted, values, (0, 2, 4, 14.75, 20, np.inf))
    assert [(row["from"], row["to"], row["clips"]) for row in found] == [
        (0, 2, 8),
        (2, 4, 8),
        (4, 14.75, 43),
        (14.75, 20, 1),
    ]
    assert only_scores(found[1]) == pytest.approx(rates(texts, (values >= 2) & (values < 4)), rel=1e-12)
    wide = by_range(counted, values - 5, (-np.inf, 0, np.inf))
    assert [(row["from"], row["to"], row["clips"]) for row in wide] == [(None, 0, 20), (0, None, 40)]
    pooled = sum(row["wer_normalised"] * row["words_normalised"] for row in found) / counted[:, 5].sum()
    assert pooled == pytest.approx(rates(texts, values >= 0)["wer_normalised"], rel=1e-12)


def test_speakers_are_told_from_the_worst_and_unknown_ones_left_out():
    """By hand: a has 6 wrong of 12 words, b none of 10, c all of 2 in two clips, one clip's speaker is unknown."""
    references = ["uno due"] * 6 + ["uno due"] * 5 + ["uno"] * 2 + ["uno due"]
    hypotheses = ["uno"] * 6 + ["uno due"] * 5 + ["due"] * 2 + ["tre"]
    speakers = np.array(["a"] * 6 + ["b"] * 5 + ["c"] * 2 + [""])
    found = by_speaker(counts(*edits(references, hypotheses)), speakers)
    assert found["speakers"] == 3
    assert [(row["speaker"], row["wer_normalised"]) for row in found["worst"]] == [("a", 50), ("b", 0)]  # c: too few
    assert found["wer_normalised"] == {
        "percentile_10": pytest.approx(10),
        "percentile_50": pytest.approx(50),
        "percentile_90": pytest.approx(90),
        "mean": pytest.approx(50),
    }


def test_a_corpus_without_speakers_has_none(counted):
    found = by_speaker(counted, np.array([""] * N_CLIPS))
    assert (found["speakers"], found["wer_normalised"], found["worst"]) == (0, {}, [])


def test_a_corpus_of_fewer_than_five_clips_with_words_has_no_interval(texts, counted):
    few = intervals(counted[: FEWEST_CLIPS - 1], np.array(["a"] * (FEWEST_CLIPS - 1)))
    assert few["over_clips"] == dict.fromkeys(SCORES)
    assert few["fewest_clips"] == FEWEST_CLIPS
    dots = counts(*edits([*texts[0][: FEWEST_CLIPS - 1], "…"], [*texts[1][: FEWEST_CLIPS - 1], "ehm"]))
    found = intervals(dots, np.array([""] * FEWEST_CLIPS))["over_clips"]
    assert [name for name, ends in found.items() if ends is None] == ["wer_normalised", "cer_normalised"]


def test_all_scores_have_intervals_over_clips_and_over_enough_speakers(texts, counted):
    few = intervals(counted, np.array(["a", "b"] * (N_CLIPS // 2)))
    assert few["over_speakers"] is None
    many = intervals(counted, np.array([str(clip % FEWEST_SPEAKERS) for clip in range(N_CLIPS)]))
    whole = rates(texts, np.full(N_CLIPS, True))
    for found in (few["over_clips"], many["over_clips"], many["over_speakers"]):
        assert list(found) == list(SCORES)
        assert all(low < whole[name] < high for name, (low, high) in found.items())
    assert few["level"] == 95
