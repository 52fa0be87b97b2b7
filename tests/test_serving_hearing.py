"""Nothing said is lost or said twice, however a model leaves its windows: an engine that hears known words and is told
where to fail, beside the words themselves."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving import hearing
from serving.media import SAMPLE_RATE
from serving.signals import Decoded
from serving.transcribe import Transcriber
from serving.transcript import Options
from serving.vad import CHUNK
from serving.vocabulary import Vocabulary, read_vocabulary
from serving.windows import WINDOW, Window

LOUD, PAUSE = 6, 4  # chunks of a word and after it: three words a second
LOOK = 64  # samples
LEAST_SPARSE = 40  # words: 8 s of speech, of which three words' tokens are clearly too few
LEAST_REST = 8  # words: 1.5 s


class Speech:
    """A recording of known words; each sample of one has the word's number for its value, and pauses are zeros."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        letters = random.choice(list("abcdefghilmnopqrstuvz"), (count, 6))
        self.words = [f"{''.join(row)}{number % 10}" for number, row in enumerate(letters)]
        audio, probability = [], []
        for number in range(1, count + 1):
            silent = int(random.choice([0, 0, 0, 0, 0, 0, 0, 0, 10, 60, 150]))  # now and then the speaker stops
            audio += [number] * LOUD + [0] * (PAUSE + silent)
            probability += [0.9] * LOUD + [0.2] * PAUSE + [0.0] * silent
        self.audio_N = np.repeat(np.array(audio, np.float32), CHUNK)
        self.probability_C = np.array(probability, np.float32)


class ScriptedEngine:
    """Writes the words that it hears, in sentences of a few words, and fails as `fails` says."""

    mel_bins, batch_size = 80, 4

    def __init__(self, speech: Speech, vocabulary: Vocabulary, fails: Callable[[int], str]) -> None:
        self.speech, self.vocabulary, self.fails = speech, vocabulary, fails
        self.failed: list[str] = []

    def hear(self, sounds: list[np.ndarray], samples: list[int], stopped: Callable[[], bool]) -> list[np.ndarray]:  # noqa: ARG002
        assert len(sounds) <= self.batch_size
        assert samples == [sound.size for sound in sounds]
        return sounds

    def write(self, heard: list[np.ndarray], rows: list[int], *_: object) -> list[Decoded]:
        return [Decoded(self._tokens(heard[row])) for row in rows]

    def _tokens(self, sound_N: np.ndarray) -> list[int]:
        numbers = sound_N[::LOOK].astype(int)
        present, begins, counts = np.unique(numbers, return_index=True, return_counts=True)
        heard = [
            (int(word), (begin - count / 6) * LOOK / SAMPLE_RATE, (begin + count + count / 6) * LOOK / SAMPLE_RATE)
            for word, begin, count in zip(present, begins, counts, strict=True)
            if word and count >= LOUD * CHUNK / LOOK / 2
        ]
        end = sound_N.size / SAMPLE_RATE
        sentences = []
        for first in range(0, len(heard), 5):
            said = heard[first : first + 5]
            sentences.append((max(0.0, said[0][1]), min(end, said[-1][2]), [word for word, *_ in said]))
        return self._failing(sentences, end, len(heard))

    def _failing(self, sentences: list[Any], end: float, count: int) -> list[int]:
        whole = [token for sentence in sentences for token in self._sentence(*sentence)]
        how = self.fails(count)
        self.failed.append(how)
        if not sentences:
            return []
        start, _, said = sentences[0]
        half = len(sentences) // 2
        kept = [token for sentence in sentences[:half] for token in self._sentence(*sentence)]
        return {
            "": whole,
            "stops": kept,
            "stops at one word": kept + self._sentence(*sentences[half][:2], sentences[half][2][:1])[:-1],
            "one word to the end": self._sentence(start, end, said[:1]),
            "one word, not closed": self._sentence(start, end, said[:1])[:-1],
            "nothing": whole[:1],
            "sparse in the middle": self._sentence(*sentences[0])
            + self._sentence(sentences[0][1], end, sentences[-1][2][:1]),
            "short, then nothing": self._sentence(start, start + 0.3, said[:1]),
        }[how]

    def _sentence(self, start: float, end: float, said: list[int]) -> list[int]:
        text = "".join(f" {self.speech.words[word - 1]}" for word in said)
        zero = self.vocabulary.no_timestamps + 1
        words = self.vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        return [zero + round(start / 0.02), *words, zero + round(end / 0.02)]


def transcriber_of(speech: Speech, vocabulary: Vocabulary, engine: ScriptedEngine) -> Transcriber:
    transcriber = Transcriber.__new__(Transcriber)
    transcriber.engine, transcriber.vocabulary = engine, vocabulary
    transcriber.signals, transcriber.language = False, "it"
    transcriber.features = lambda sounds, **_: SimpleNamespace(input_features=sounds)
    transcriber.voice_activity = lambda *_: speech.probability_C
    return transcriber


def text_of(speech: Speech, vocabulary: Vocabulary, engine: ScriptedEngine) -> str:
    """What the transcriber makes of it."""
    return transcriber_of(speech, vocabulary, engine).transcribe_audio(speech.audio_N).text


@pytest.fixture(scope="module")
def vocabulary(base_model_dir: Path) -> Vocabulary:
    return read_vocabulary(base_model_dir)


FAILURES = {
    "stops": 2 * LEAST_REST,
    "stops at one word": 3 * LEAST_REST,
    "one word to the end": LEAST_SPARSE,
    "one word, not closed": LEAST_SPARSE,
    "nothing": LEAST_SPARSE,
    "sparse in the middle": LEAST_SPARSE + 5,
    "short, then nothing": LEAST_SPARSE,
}
"""From how many words on it shows."""


@pytest.mark.parametrize("how", FAILURES)
def test_whatever_a_model_leaves_out_is_heard_again(vocabulary, how: str) -> None:
    speech = Speech(300, seed=1)
    engine = ScriptedEngine(speech, vocabulary, lambda count: how if count >= FAILURES[how] else "")
    assert text_of(speech, vocabulary, engine) == " ".join(speech.words)
    assert how in engine.failed


def test_a_short_sentence_before_much_speech_is_not_sparse(vocabulary) -> None:
    """What counts is the speech within its own second."""
    zero, (ciao,) = vocabulary.no_timestamps + 1, vocabulary.tokenizer.encode(" ci", add_special_tokens=False).ids
    tokens = [zero, ciao, zero + 50, zero + 50, *[ciao] * 60, zero + 1500]
    audio_N, probability_C = np.ones(WINDOW, np.float32), np.ones(WINDOW // CHUNK, np.float32)
    speech = hearing.Speech(None, vocabulary, None, False, audio_N, probability_C, Options("it"), lambda: False)
    assert speech._unheard(Window(((0, WINDOW),)), tokens) == (tokens, [])


def test_what_is_done_is_told_window_by_window(vocabulary) -> None:
    speech = Speech(300, seed=4)
    transcriber = transcriber_of(speech, vocabulary, ScriptedEngine(speech, vocabulary, lambda _: ""))
    done = [step.done for step in transcriber.stream(speech.audio_N)]
    assert done == sorted(set(done))
    assert done[1] <= 60.0 < done[-1] == speech.audio_N.size / SAMPLE_RATE


def test_the_language_asked_for_comes_before_the_models_own(vocabulary) -> None:
    transcriber = Transcriber.__new__(Transcriber)
    transcriber.vocabulary, transcriber.language = vocabulary, "it"
    first = [next(transcriber.stream(np.zeros(16_000, np.float32), Options(asked))) for asked in ("en", None)]
    assert [step.language for step in first] == ["en", "it"]


@pytest.mark.parametrize("seed", range(5))
def test_over_many_seams_every_word_is_there_once_and_in_order(vocabulary, seed: int) -> None:
    """Ten minutes, some forty windows, and any failure that shows."""
    random, speech = np.random.default_rng(seed), Speech(1500, seed)
    engine = ScriptedEngine(
        speech,
        vocabulary,
        lambda count: str(random.choice(["", *(how for how, least in FAILURES.items() if count >= least)])),
    )
    assert text_of(speech, vocabulary, engine) == " ".join(speech.words)
    assert len(engine.failed) > 40
    assert {"nothing", "one word to the end", "stops"} <= set(engine.failed)


def test_a_transcript_that_is_not_closed_but_full_is_kept(vocabulary) -> None:
    """As models write that were fine-tuned without timestamps: heard again in halves they would take thrice as long."""
    speech = Speech(90, seed=2)
    engine = ScriptedEngine(speech, vocabulary, lambda _: "")
    windows: list[int] = []

    def failing(sentences: list[Any], end: float, count: int) -> list[int]:
        windows.append(count)
        return engine._sentence(0.0, end, [word for *_, said in sentences for word in said])[:-1]

    engine._failing = failing
    assert text_of(speech, vocabulary, engine) == " ".join(speech.words)
    assert sum(windows) == len(speech.words)


def test_halves_that_say_less_than_the_whole_are_not_taken(vocabulary) -> None:
    speech = Speech(90, seed=3)
    engine = ScriptedEngine(
        speech, vocabulary, lambda count: "one word to the end" if count > 50 else "nothing" if count else ""
    )
    assert text_of(speech, vocabulary, engine) != ""


def test_of_tries_that_all_repeat_themselves_the_one_that_does_so_least_is_kept(vocabulary) -> None:
    said = [vocabulary.tokenizer.encode(" grazie" * n, add_special_tokens=False).ids for n in (60, 30, 90, 45, 60, 60)]
    heated: list[float] = []

    def write(_heard: object, _rows: object, _prompt: object, temperature: float, *_: object) -> list[Decoded]:
        heated.append(temperature)
        return [Decoded(said[len(heated) - 1])]

    nothing_N, engine = np.zeros(1, np.float32), SimpleNamespace(write=write)
    speech = hearing.Speech(engine, vocabulary, None, False, nothing_N, nothing_N, Options("it"), lambda: False)
    assert speech.write(None, 1, "it") == [said[1]]
    assert heated == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
