"""A window's tokens as segments, and as words.

Times are seconds from the window's start.
"""

import unicodedata
import zlib

from serving.transcript import Word
from serving.vocabulary import UNSPACED, Vocabulary


def split(tokens: list[int], vocabulary: Vocabulary, seconds: float) -> list[tuple[float, float, list[int]]]:
    """Start, end and words' tokens of each segment; one that the model did not close ends with the window."""
    found, start, words = [], 0.0, []  # type: tuple[list[tuple[float, float, list[int]]], float, list[int]]
    for token in tokens:
        time = vocabulary.seconds(token)
        if time is None:
            words.append(token)
            continue
        if words:
            found.append((start, min(time, seconds), words))
            words = []
        start = min(time, seconds)
    if words:
        found.append((start, seconds, words))
    return found


def closed(tokens: list[int], vocabulary: Vocabulary) -> tuple[list[int], float]:
    """The tokens up to the last timestamp that closes a segment, and its time; none and 0 where there is none."""
    for index in range(len(tokens) - 1, 0, -1):
        time = vocabulary.seconds(tokens[index])
        if time is not None:
            return tokens[: index + 1], time
    return [], 0.0


def compression(text: str) -> float:
    """How much shorter zlib writes the text: high where it repeats itself."""
    return len(text.encode()) / len(zlib.compress(text.encode()))


def words(tokens: list[int], times: list[float], vocabulary: Vocabulary, language: str) -> tuple[Word, ...]:
    """The words of a segment; `times` has each token's beginning and the last one's end."""
    found: list[tuple[int, int, str]] = []
    first = 0
    for index in range(len(tokens)):
        text = vocabulary.tokenizer.decode(tokens[first : index + 1])
        if text.endswith("\ufffd"):  # a character that the next token completes
            continue
        starts = not found or text.startswith(" ") or language in UNSPACED
        if not starts or (found and _is_mark(text.strip())) or (found and _opens(found[-1][2].strip())):
            begin, _, before = found.pop()
            found.append((begin, index + 1, before + text))
        else:
            found.append((first, index + 1, text))
        first = index + 1
    return tuple(Word(times[a], max(times[a], times[b]), text.strip()) for a, b, text in found if text.strip())


def _is_mark(text: str) -> bool:
    """Punctuation that belongs to the word before it."""
    return all(unicodedata.category(c)[0] == "P" and unicodedata.category(c) not in ("Ps", "Pi") for c in text)


def _opens(text: str) -> bool:
    """Punctuation alone that belongs to the word after it."""
    return bool(text) and all(unicodedata.category(c) in ("Ps", "Pi") for c in text)
