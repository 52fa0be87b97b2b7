"""What a day speaks, and by whom: sentences held back, drawn and given to Festival; its voices; a Festival that dies.

Festival is a stand-in that speaks tones, but in the tests of its own voices.
"""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from daily.features import VOICE
from daily.sentences import SENTENCES, distinct, for_day, for_test, is_held_back, key, read_sentences
from daily.takes import RECIPE, Take, _treated, take_id
from daily.voices import VOICES, Utterance, plain, speak
from data.augment import find_recipe, generator
from data.errors import UserError
from tests.festival import need_festival, path_with_stand_in

DAY = "2026-11-23"
NEXT = "2026-11-24"
FEMALE, MALE = VOICES["it"]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Festival as tones."""
    monkeypatch.setenv("PATH", path_with_stand_in())


def test_a_sentence_is_held_back_by_its_words_alone() -> None:
    """5 %: of 11,000 drawn so, within 4 standard deviations (0.2 % each)."""
    sentences = distinct(read_sentences(SENTENCES["it"]))
    held = [sentence for sentence in sentences if is_held_back(sentence)]
    assert abs(len(held) / len(sentences) - 0.05) < 0.0084
    assert is_held_back(held[0].upper().rstrip(".") + "!")
    assert {key(sentence) for sentence in for_test(sentences, 80, seed=0)} <= {key(sentence) for sentence in held}


def test_no_day_speaks_a_held_back_sentence_nor_one_again_before_all_were_spoken() -> None:
    sentences = distinct(read_sentences(SENTENCES["it"]))[::20]
    free = sum(not is_held_back(sentence) for sentence in sentences)
    first = date.fromordinal(free // 10 * 13_000)  # a turn of the list begins here
    days = [(first + timedelta(days=number)).isoformat() for number in range(free // 10)]
    spoken = [sentence for day in days for sentence in for_day(sentences, 10, 0, day)]
    assert len(set(spoken)) == len(spoken) > free - 10
    assert not any(is_held_back(sentence) for sentence in spoken)


def test_a_day_s_sentences_depend_on_the_day_and_the_seed() -> None:
    sentences = [f"Frase numero {number}." for number in range(500)]
    drawn = {(seed, day): tuple(for_day(sentences, 5, seed, day)) for seed in (0, 1) for day in (DAY, NEXT)}
    assert len(set(drawn.values())) == 4
    assert drawn[0, DAY] == tuple(for_day(sentences, 5, 0, DAY))
    with pytest.raises(UserError, match="500 clips a day, but there are"):
        for_day(sentences, 500, 0, DAY)


def test_days_that_speak_the_whole_list_speak_it_in_an_order_each() -> None:
    sentences = [sentence for sentence in (f"Frase numero {n}." for n in range(30)) if not is_held_back(sentence)]
    one, two = (for_day(sentences, len(sentences), 0, day) for day in (DAY, NEXT))
    assert one != two
    assert sorted(one) == sorted(two) == sorted(sentences)


def test_effects_are_drawn_by_the_seed_and_the_clip() -> None:
    audio_N = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    take = Take(audio_N, "Ciao.", "festival", FEMALE.name, FEMALE.sex, "")
    drawn = [(0, "a"), (1, "a"), (0, "b"), (0, "a")]
    sounds = [_treated(take, name, [find_recipe("standard")], seed)[1].tobytes() for seed, name in drawn]
    assert sounds[0] == sounds[3]
    assert len(set(sounds)) == 3


def test_sentences_that_differ_by_case_and_punctuation_are_one() -> None:
    assert distinct(["Ciao, Anna!", "ciao anna", "Buongiorno.", "", "…"], without=["BUONGIORNO"]) == ["Ciao, Anna!"]


def test_festival_is_given_nothing_that_it_dies_of() -> None:
    assert plain("«È già qui», disse (forse) l’uomo — “perche\u0301?”") == "È già qui , disse forse l'uomo perché?"
    assert plain('un "test" \\ con_sotto') == "un test con sotto"


@pytest.mark.parametrize("at_once", [100, 1, 2])
def test_when_festival_dies_of_a_sentence_the_others_are_still_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("daily.voices.AT_ONCE", at_once)
    said = [Utterance(text, FEMALE) for text in ("Uno.", "Qui muore.", "Tre.")] + [Utterance("Quattro.", MALE)]
    told: list[int] = []
    files = speak(said, tmp_path, lambda: told.append(1))
    assert [file is not None for file in files] == [True, False, True, True]
    assert len(told) == 3


def test_a_festival_that_fails_at_most_sentences_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="failed at 2 of 3 sentences, the first 'Qui tace\\.'"):
        speak([Utterance(text, MALE) for text in ("Qui tace.", "...", "Tre.")], tmp_path, lambda: None)


def median_pitch(path: Path) -> float:
    """Of the voiced frames, in Hz, by the highest peak of each frame's autocorrelation."""
    audio_N, rate = soundfile.read(path)
    assert rate == 16_000
    pitches = []
    for start in range(0, len(audio_N) - 1024, 512):
        frame = audio_N[start : start + 1024] - audio_N[start : start + 1024].mean()
        correlation = np.correlate(frame, frame, "full")[1023:]
        lag = 40 + int(correlation[40:250].argmax())  # 400 Hz to 64 Hz
        if correlation[lag] > 0.5 * correlation[0] > 0:
            pitches.append(rate / lag)
    return float(np.median(pitches))


def test_festival_s_two_voices_are_a_woman_s_and_a_man_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Men speak at 85 to 155 Hz, women at 165 to 255 (Titze 1994); both say the sentence in a plausible time."""
    monkeypatch.undo()
    need_festival()
    sentence = "Quella sera la città era già piena di gente, perché c'era il mercato."
    said = [Utterance(sentence, FEMALE), Utterance('«Sì» (forse): "così"...', MALE), Utterance(sentence, MALE)]
    files = speak(said, tmp_path, lambda: None)
    woman, bracketed, man = (file for file in files if file is not None)
    assert 165 < median_pitch(woman) < 255
    assert 85 < median_pitch(man) < 155
    assert soundfile.info(bracketed).duration > 0.3
    assert all(2 < soundfile.info(file).duration < 8 for file in (woman, man))


def test_a_voice_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    need_festival()
    with pytest.raises(UserError, match="voice xx_diphone is not there: apt-get install festvox-xx"):
        speak([Utterance("Ciao.", replace(MALE, name="xx_diphone", package="festvox-xx"))], tmp_path, lambda: None)


def test_voices_and_recipes_are_drawn_evenly() -> None:
    """Four standard deviations of a fair draw: 0.5 / √n and √(2/9n)."""
    names = [take_id(day, number) for day in (DAY, NEXT) for number in range(1000)]
    voices = [generator(0, VOICE, name).integers(2) for name in names]
    recipes = Counter(int(generator(0, RECIPE, name).integers(3)) for name in names)
    assert abs(np.mean(voices) - 0.5) < 4 * 0.5 / np.sqrt(len(names))
    assert all(abs(count / len(names) - 1 / 3) < 4 * np.sqrt(2 / 9 / len(names)) for count in recipes.values())
