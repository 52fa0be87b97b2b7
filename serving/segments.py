"""A window's tokens as segments, and as words.

Times are seconds from the window's start.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from serving.transcript import Word
from serving.vocabulary import Vocabulary

# A sentence's end: its mark and the quotes it closes; a dot after one letter is an initial's.
ENDED = re.compile(r"(?:[?!…。？！]|(?<!\b[^\W\d_])\.)[\"'”’»」』)\]]*\s*$")
SPARSE = 1.5  # tokens a second of speech; people say three to seven


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


@dataclass(frozen=True)
class Finished:
    """How far a window's transcript can be relied on."""

    tokens: int
    """How many of its tokens are segments that the model closed and that have words for their speech."""
    until: float
    """Where these end."""
    sparse: bool
    """Whether what follows has too few words for the speech there."""


def finished(
    tokens: list[int], vocabulary: Vocabulary, seconds: float, speech: Callable[[float, float], float]
) -> Finished:
    """Up to where the transcript of a window of so many seconds is whole.

    `speech` says how many seconds of speech there are from one time to another: Whisper may close a segment at the end
    of the window and leave out the last sentences, or all but the first.
    """

    def sparse(start: float, end: float, said: int) -> bool:
        return said + 4 < SPARSE * speech(start, end)  # four more, for "Sì." said slowly

    count, until, start, said = 0, 0.0, 0.0, 0
    for index, token in enumerate(tokens):
        time = vocabulary.seconds(token)
        if time is None:
            said += 1
            continue
        if said:
            if sparse(start, time, said):
                return Finished(count, until, True)
            count, until, said = index + 1, time, 0
        start = time
    return Finished(count, until, sparse(start, seconds, said))


def sentences(tokens: list[int], vocabulary: Vocabulary, spaced: bool) -> list[list[int]]:
    """The tokens of each sentence of a text without times.

    One ends with its mark; in a language with spaces (`spaced`) only before one, and before no small letter: not in
    "3.50" and seldom after an abbreviation.
    """
    found: list[list[int]] = []
    so_far, first = "", 0
    for index in range(len(tokens)):
        text = vocabulary.tokenizer.decode(tokens[first : index + 1])
        if text.endswith("\ufffd"):  # a character that the next token completes
            continue
        apart = not spaced or (so_far + text)[len(so_far.rstrip()) :].startswith(" ")
        begins = text.strip()
        if not found or (
            apart and begins and not begins[0].islower() and not _is_mark(begins) and ENDED.search(so_far)
        ):
            found.append([])
            so_far = ""
        found[-1] += tokens[first : index + 1]
        so_far += text
        first = index + 1
    if found:
        found[-1] += tokens[first:]
    return found


def words(tokens: list[int], times: list[float], vocabulary: Vocabulary, spaced: bool) -> tuple[Word, ...]:
    """The words of a segment; `times` has each token's beginning and the last one's end.

    A word begins with a space; where the language has none (`spaced`), it is what the tokenizer takes for one.
    """
    found: list[tuple[int, int, str]] = []
    first = 0
    for index in range(len(tokens)):
        text = vocabulary.tokenizer.decode(tokens[first : index + 1])
        if text.endswith("\ufffd"):  # a character that the next token completes
            continue
        starts = not found or text.startswith(" ") or not spaced
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
