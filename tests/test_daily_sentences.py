"""What makes two sentences the same, so that what is held back stays held back."""

import unicodedata

import pytest

from daily.sentences import SENTENCES, distinct, is_held_back, key, read_sentences

SENTENCE = "Perché la città è più bella così?"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_sentence_is_the_same_however_its_accents_are_encoded(form: str) -> None:
    """macOS takes letters and accents apart."""
    written = unicodedata.normalize(form, SENTENCE)
    assert key(written) == key(SENTENCE) == "perché la città è più bella così"
    assert is_held_back(written) == is_held_back(SENTENCE)
    assert distinct([SENTENCE], without=[written]) == []


def test_what_is_held_back_of_the_list_is_what_it_always_was() -> None:
    """Of existing stores' test splits; the number was counted before sentences were normalised."""
    assert sum(map(is_held_back, read_sentences(SENTENCES["it"]))) == 544
