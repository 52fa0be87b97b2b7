"""Reference and hypothesis side by side, word by word, in the words as written.

Decision: the words are paired by their normalised form, by the same alignment that the scores are made of, and shown as
written: so «Perché» stands beside «perché,» with a light mark, and only what the normaliser tells apart counts as
another word. (A word that it splits in two, as «c'è», is one pair here and two words in the normalised score.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jax_train.scores import aligned, as_seen


@dataclass(frozen=True)
class WordPair:
    """A word of the reference and the word heard there; either may be missing."""

    kind: str
    """same, spelling (but for case and punctuation the same), substituted, deleted or inserted."""
    reference: str
    hypothesis: str


def word_pairs(
    references: Sequence[str], hypotheses: Sequence[str], normalise: Callable[[str], str]
) -> list[list[WordPair]]:
    """The pairs of each clip, in their order."""
    true, said = ([as_seen(text).split() for text in texts] for texts in (references, hypotheses))
    found = aligned([_keys(words, normalise) for words in true], [_keys(words, normalise) for words in said])
    return [_pairs(*clip) for clip in zip(true, said, found.alignments, strict=True)]


def _keys(words: list[str], normalise: Callable[[str], str]) -> str:
    """What each word is compared by: itself, normalised, unless nothing is left."""
    return " ".join("".join(normalise(word).split()) or word for word in words)


def _pairs(true: list[str], said: list[str], chunks: list) -> list[WordPair]:
    pairs = []
    for chunk in chunks:
        references = true[chunk.ref_start_idx : chunk.ref_end_idx]
        hypotheses = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            both = zip(references, hypotheses, strict=True)
            pairs += [WordPair("same" if a == b else "spelling", a, b) for a, b in both]
        elif chunk.type == "substitute":
            pairs += [WordPair("substituted", a, b) for a, b in zip(references, hypotheses, strict=True)]
        else:
            pairs += [WordPair("deleted", word, "") for word in references]
            pairs += [WordPair("inserted", "", word) for word in hypotheses]
    return pairs
