"""How a model errs: the words it confuses, what it makes up, and what it says again and again.

Decision: counts that anyone can repeat from predictions.parquet, by the field's definitions where they can be computed
without listening. Hallucination is text "which did not exist in any form in the underlying audio" (Koenecke et al.,
"Careless Whisper", 2024); nobody hears the audio here, so what counts is a phrase the reference has no place for. The
field's figures for the whole corpus stand beside it: the rate of insertions and the repeated 5-grams (Gandhi et al.,
"Distil-Whisper", 2023), and the compression ratio above 2.4 by which Whisper itself finds its loops (Radford et al.,
2022). Unrelated but fluent text of the right length (Frieske and Shi, 2024) takes a language model to find; it is not
counted, only its errors are.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_train.scores import NORMALISER, Edits

PHRASE_WORDS = 5  # more words than the reference has, in one place: a phrase, not a word split in two
NGRAM = 5
LOOP_COMPRESSION = 2.4  # Whisper's compression_ratio_threshold
MOST_SHOWN = 30


def surplus_words(chunks: Sequence[Any]) -> int:
    """The most words by which a hypothesis exceeds its reference between two words that match, or before or after."""
    most = here = 0
    for chunk in chunks:
        if chunk.type == "equal":
            most, here = max(most, here), 0
        else:
            here += (chunk.hyp_end_idx - chunk.hyp_start_idx) - (chunk.ref_end_idx - chunk.ref_start_idx)
    return max(most, here)


def repeated_ngrams(words: Sequence[str], size: int = NGRAM) -> int:
    """How many of the runs of `size` words were said before: all of them less the different ones."""
    runs = [tuple(words[first : first + size]) for first in range(len(words) - size + 1)]
    return len(runs) - len(set(runs))


def compression_ratio(text: str) -> float:
    """Bytes of `text` over those of it compressed, as Whisper takes it; 0 of no text."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


def clip_signs(references: Sequence[str], hypotheses: Sequence[str], normal: Edits) -> dict[str, np.ndarray]:
    """Per clip: `surplus_words`, `repeated_5grams` beyond the reference's own, `compression_ratio`, and what follows.

    `hallucination`: a surplus of a phrase. `repetition`: a repeated 5-gram, or a compression ratio above Whisper's
    threshold where the reference has none. A loop is mostly both.
    """
    surplus = np.array([surplus_words(chunks) for chunks in normal.alignments], np.int64)
    both = zip(normal.reference_words, normal.hypothesis_words, strict=True)
    repeated = np.array([max(0, repeated_ngrams(said) - repeated_ngrams(true)) for true, said in both], np.int64)
    ratios = np.array([compression_ratio(text) for text in hypotheses], np.float32)
    allowed = np.array([compression_ratio(text) for text in references], np.float32)
    loops = (ratios > LOOP_COMPRESSION) & (allowed <= LOOP_COMPRESSION)
    return {
        "surplus_words": surplus,
        "repeated_5grams": repeated,
        "compression_ratio": ratios,
        "hallucination": surplus >= PHRASE_WORDS,
        "repetition": (repeated > 0) | loops,
    }


def counted_signs(signs: dict[str, np.ndarray], normal: Edits) -> dict[str, Any]:
    """The clips with each sign, and the figures of the whole corpus, with the definitions."""
    return {
        "hallucinations": int(signs["hallucination"].sum()),
        "repetitions": int(signs["repetition"].sum()),
        "both": int((signs["hallucination"] & signs["repetition"]).sum()),
        "empty_hypotheses": sum(not words for words in normal.hypothesis_words),
        "repeated_5grams": int(signs["repeated_5grams"].sum()),
        "insertion_rate": float(100 * normal.insertions.sum() / normal.words.sum()),
        "definitions": {
            "hallucinations": f"clips with at least {PHRASE_WORDS} words too many in one place, between matching words",
            "repetitions": f"clips with a run of {NGRAM} words that was said before and that the reference does not "
            f"repeat, or with a compression ratio above {LOOP_COMPRESSION} that the reference does not have",
            "insertion_rate": "inserted words in percent of the reference words",
            "words": f"normalised: {NORMALISER}",
        },
    }


def confusions(edits: Edits, most: int = MOST_SHOWN) -> dict[str, list[dict[str, Any]]]:
    """The most frequent substitutions, deletions and insertions with their counts, and the words most often missed."""
    swapped: Counter[tuple[str, str]] = Counter()
    lost: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for true, said, chunks in zip(edits.reference_words, edits.hypothesis_words, edits.alignments, strict=True):
        for chunk in chunks:
            here = true[chunk.ref_start_idx : chunk.ref_end_idx], said[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                swapped.update(zip(*here, strict=True))
            elif chunk.type != "equal":
                lost.update(here[0])
                added.update(here[1])
    missed = lost.copy()
    for (word, _), count in swapped.items():
        missed[word] += count
    spoken = Counter(word for words in edits.reference_words for word in words)
    return {
        "substitutions": [{"reference": a, "hypothesis": b, "count": n} for (a, b), n in _first(swapped, most)],
        "deletions": [{"word": word, "count": count} for word, count in _first(lost, most)],
        "insertions": [{"word": word, "count": count} for word, count in _first(added, most)],
        "missed": [{"word": word, "count": count, "of": spoken[word]} for word, count in _first(missed, most)],
    }


def _first(counts: Counter[Any], most: int) -> list[tuple[Any, int]]:
    """The most frequent, equal ones by the alphabet, so that the same predictions give the same file."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
