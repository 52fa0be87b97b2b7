"""Sentences to speak: which are held back for the test split, and which a day speaks.

Decision: whether a sentence is held back is in its own words (a hash of them), so it stays held back when the list
grows, and no day, machine or seed can speak it. A day's sentences are a slice of the shuffled list at the day's
place: they depend on (list, number, seed, day) and on nothing that happened before, and none is spoken again before
all were.

`sentences-it.txt`: 11,413 Italian sentences of 3 to 16 words out of Common Voice's own text collection, CC0.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np

from data.errors import UserError

SENTENCES = {"it": Path(__file__).with_name("sentences-it.txt")}
HELD_BACK_PERCENT = 5


def key(sentence: str) -> str:
    """What makes two sentences the same: their words, without case and punctuation, however accents are encoded."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", sentence).casefold()))


def is_held_back(sentence: str) -> bool:
    """Whether `sentence` is for the test split alone."""
    digest = hashlib.sha256(key(sentence).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_BACK_PERCENT


def distinct(sentences: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """`sentences` sorted, each once, but for empty ones and those of `without`."""
    left_out = {key(sentence) for sentence in without} | {""}
    found = {key(sentence): sentence.strip() for sentence in sorted(sentences, reverse=True)}
    return sorted(sentence for name, sentence in found.items() if name not in left_out)


def read_sentences(path: Path) -> list[str]:
    """The lines of `path`; `UserError` if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"sentences {path} cannot be read ({error}); it takes UTF-8 text, a sentence a line") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"sentences {path} is empty; it takes UTF-8 text, a sentence a line")
    return lines


def for_test(sentences: list[str], number: int, seed: int) -> list[str]:
    """`number` of the `sentences` that are held back, drawn by `seed`; all of them if they are fewer."""
    held = [sentence for sentence in sentences if is_held_back(sentence)]
    order = np.random.default_rng([seed, 0]).permutation(len(held))
    return [held[position] for position in order[:number]]


def for_day(sentences: list[str], number: int, seed: int, day: str) -> list[str]:
    """The `number` of the `sentences` that `day` speaks; `UserError` if there are not so many."""
    free = [sentence for sentence in sentences if not is_held_back(sentence)]
    if number > len(free):
        raise UserError(f"{number} clips a day, but there are {len(free)} sentences: ask for fewer, or give more")
    if not number:
        return []
    # One is the first day of the year 1; days past the end of the shuffled list begin it anew in another order.
    turn, place = divmod(date.fromisoformat(day).toordinal(), len(free) // number)
    order = np.random.default_rng([seed, 1, turn]).permutation(len(free))
    return [free[position] for position in order[place * number : (place + 1) * number]]
