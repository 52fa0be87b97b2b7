"""Reference and hypothesis side by side, word by word, in the words as written.

Decision: words are compared without case and punctuation, so that «Perché» stands beside «perché,» as the same word
written otherwise; the fewest insertions, deletions and substitutions are RapidFuzz's.
"""

import unicodedata

from rapidfuzz.distance import Levenshtein

KINDS = {"replace": "substituted", "delete": "deleted", "insert": "inserted"}


def aligned(reference: str, hypothesis: str) -> list[tuple[str, str, str]]:
    """For each place its kind (same, spelling, substituted, deleted, inserted), the word said and the word heard.

    A word that is missing is empty.
    """
    said, heard = reference.split(), hypothesis.split()
    pairs = []
    for step in Levenshtein.opcodes([_key(word) for word in said], [_key(word) for word in heard]):
        left, right = said[step.src_start : step.src_end], heard[step.dest_start : step.dest_end]
        if step.tag == "equal":
            pairs += [("same" if a == b else "spelling", a, b) for a, b in zip(left, right, strict=True)]
        else:
            left, right = left or [""] * len(right), right or [""] * len(left)
            pairs += [(KINDS[step.tag], a, b) for a, b in zip(left, right, strict=True)]
    return pairs


def _key(word: str) -> str:
    """What a word is compared by: its letters and digits, if it has any."""
    letters = unicodedata.normalize("NFKC", word).casefold()
    return "".join(letter for letter in letters if unicodedata.category(letter)[0] in "LMN") or word
