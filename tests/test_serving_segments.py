"""Tokens become segments and words; which may come next, and when they were said, is as transformers has it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from serving.alignment import _median, token_times, warp
from serving.rules import Rules
from serving.segments import Finished, finished, sentences, split, words
from serving.signals import compression
from serving.transcript import Word
from serving.vocabulary import LanguageError, Vocabulary, read_vocabulary


@pytest.fixture(scope="module")
def vocabulary(base_model_dir: Path) -> Vocabulary:
    return read_vocabulary(base_model_dir)


def tokens(vocabulary: Vocabulary, *parts: str | float) -> list[int]:
    """Tokens of words, and of times."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, str):
            found += vocabulary.tokenizer.encode(part, add_special_tokens=False).ids
        else:
            found.append(vocabulary.no_timestamps + 1 + round(part / 0.02))
    return found


@pytest.mark.parametrize("timestamps", [True, False])
def test_the_next_token_is_bound_by_the_rules_of_transformers(vocabulary, base_model_dir: Path, timestamps) -> None:
    config = GenerationConfig.from_pretrained(base_model_dir)
    prompt = vocabulary.prompt("it", "transcribe", timestamps)
    size, start = 51865, len(prompt)
    theirs = [
        SuppressTokensLogitsProcessor(config.suppress_tokens),
        SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, start),
    ]
    if timestamps:
        theirs.append(WhisperTimeStampLogitsProcessor(config, start))
    rules = Rules(vocabulary, prompt, size, torch.device("cpu"))
    written = [
        [],
        *([tokens(vocabulary, 0.4, " Ciao")] if timestamps else [tokens(vocabulary, " Ciao")]),
        *([tokens(vocabulary, 0.4, " Ciao", 2.0), tokens(vocabulary, 0.4, " Ciao", 2.0, 2.0)] if timestamps else []),
        *([tokens(vocabulary, 0.4)] if timestamps else []),
    ]
    random = torch.Generator().manual_seed(0)
    for so_far in written:
        for lift in (0.0, 8.0):  # timestamps far likelier, or not
            logits_1V = torch.randn(1, size, generator=random)
            logits_1V[:, vocabulary.no_timestamps + 1 :] += lift
            want_1V = LogitsProcessorList(theirs)(torch.tensor([prompt + so_far]), logits_1V.clone())
            torch.testing.assert_close(rules(logits_1V, [so_far]), want_1V, rtol=0, atol=0)


def test_the_way_through_the_attention_is_that_of_transformers() -> None:
    random = np.random.default_rng(0)
    for rows, columns in ((1, 5), (5, 1), (12, 80)):
        cost_LS = random.normal(size=(rows, columns))
        want = _dynamic_time_warping(cost_LS)
        assert warp(cost_LS) == list(zip(*(x.tolist() for x in want), strict=True))
    weights_HLS = random.normal(size=(2, 3, 40)).astype(np.float32)
    want_HLS = _median_filter(torch.from_numpy(weights_HLS)[None], 7)[0].numpy()
    np.testing.assert_array_equal(_median(weights_HLS), want_HLS)


def test_tokens_begin_where_the_attention_comes_to_them() -> None:
    """Positions of 20 ms each: the first token is heard over ten of them, the second over thirty, the last over ten."""
    weights_HLS = np.full((2, 3, 50), 0.01, np.float32)
    for token, (start, end) in enumerate(((0, 10), (10, 40), (40, 50))):
        weights_HLS[:, token, start:end] = 1.0
    assert token_times(weights_HLS) == [0.0, 0.2, 0.8]


def test_segments_end_at_their_timestamps_and_an_open_one_with_the_window(vocabulary) -> None:
    said = tokens(vocabulary, 0.0, " Ciao", 1.5, 2.0, " mondo", 4.0, 4.0, " e")
    got = [(start, end, vocabulary.text(words)) for start, end, words in split(said, vocabulary, 9.0)]
    assert got == [(0.0, 1.5, " Ciao"), (2.0, 4.0, " mondo"), (4.0, 9.0, " e")]
    assert [(s, e) for s, e, _ in split(tokens(vocabulary, " Ciao"), vocabulary, 3.0)] == [(0.0, 3.0)]
    assert [(s, e) for s, e, _ in split(tokens(vocabulary, 0.0, " Ciao", 3.4), vocabulary, 3.0)] == [(0.0, 3.0)]
    beyond = split(tokens(vocabulary, 0.0, " Ciao", 1.0, 3.4, " mondo", 3.6), vocabulary, 3.0)
    assert [(s, e) for s, e, _ in beyond] == [(0.0, 1.0), (3.0, 3.0)]
    assert split([], vocabulary, 3.0) == []


def test_what_the_model_left_open_or_nearly_empty_is_not_finished(vocabulary) -> None:
    """Three or four words' tokens in 8 s: fine where nobody speaks, too few where somebody does."""
    whole = tokens(vocabulary, 0.0, " Ciao", 1.5)
    longer = tokens(vocabulary, 0.0, " Ciao", 1.5, 1.5, " preceduto dal prefisso", 9.5)
    for seconds, speech in ((9.5, lambda _, __: 0.0), (3.0, lambda start, end: end - start)):
        assert finished(whole, vocabulary, seconds, speech) == Finished(len(whole), 1.5, False)
        assert finished([*whole, *tokens(vocabulary, 1.5, " e")], vocabulary, seconds, speech) == Finished(
            len(whole), 1.5, False
        )
        assert finished(tokens(vocabulary, 0.0, " Ciao"), vocabulary, seconds, speech) == Finished(0, 0.0, False)
    assert finished(longer, vocabulary, 9.5, lambda _, __: 0.0) == Finished(len(longer), 9.5, False)
    said = [longer, whole, tokens(vocabulary, 0.0, " Ciao"), []]
    got = [finished(one, vocabulary, 9.5, lambda start, end: end - start) for one in said]
    assert got == [*[Finished(len(whole), 1.5, True)] * 2, *[Finished(0, 0.0, True)] * 2]
    apart = tokens(vocabulary, 0.0, " Ciao", 1.5, 8.0, " Ciao", 9.5)  # what matters is the speech within a segment
    assert finished(apart, vocabulary, 9.5, lambda start, end: end - start) == Finished(len(apart), 9.5, False)


@pytest.mark.parametrize(
    ("text", "spaced", "wanted"),
    [
        (" Ciao. Come stai? Bene!", True, ["Ciao.", "Come stai?", "Bene!"]),
        (
            " Costa 3.50 euro... circa, J. Rossi. «Sì.» Va bene…",
            True,
            ["Costa 3.50 euro... circa, J. Rossi.", "«Sì.»", "Va bene…"],
        ),
        (" un testo senza segni", True, ["un testo senza segni"]),
        (" È già. È così! 😀 Ok.", True, ["È già.", "È così!", "😀 Ok."]),
        (
            "吾輩は猫である。名前はまだ無い。「はい。」と言った",
            False,
            ["吾輩は猫である。", "名前はまだ無い。", "「はい。」", "と言った"],
        ),
        ("", True, []),
    ],
)
def test_a_text_without_times_is_cut_at_the_ends_of_its_sentences(vocabulary, text, spaced, wanted) -> None:
    said = tokens(vocabulary, text)
    found = sentences(said, vocabulary, spaced)
    assert [vocabulary.text(one).strip() for one in found] == wanted
    assert list(itertools.chain.from_iterable(found)) == said


def test_a_text_that_ends_within_a_letter_keeps_all_its_tokens(vocabulary) -> None:
    """Of a rare character of several tokens the last did not come."""
    said = tokens(vocabulary, " Sì. È un 𓀀")[:-1]
    assert list(itertools.chain.from_iterable(sentences(said, vocabulary, True))) == said


def test_words_keep_their_punctuation_and_letters_of_several_tokens(vocabulary) -> None:
    text = " L'università «è» bella, no?"
    said = tokens(vocabulary, text)
    times = [0.1 * index for index in range(len(said) + 1)]
    got = words(said, times, vocabulary, spaced=True)
    assert " ".join(word.text for word in got) == text.strip()
    assert [word.text for word in got] == ["L'università", "«è»", "bella,", "no?"]
    assert got[0].start == 0.0
    assert got[-1].end == times[-1]
    assert all(a.end == b.start for a, b in itertools.pairwise(got))
    spoken = words(tokens(vocabulary, "你好世界"), [0.1 * i for i in range(20)], vocabulary, spaced=False)
    assert "".join(word.text for word in spoken) == "你好世界"
    assert len(spoken) > 1
    assert words([], [0.0], vocabulary, spaced=True) == ()
    assert isinstance(spoken[0], Word)


def test_words_follow_heads_that_the_model_has(vocabulary, small_model_dir: Path) -> None:
    """Base's, whose heads are named; and a model of one layer and two heads beside the same names."""
    assert vocabulary.alignment_heads == ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))
    assert read_vocabulary(small_model_dir).alignment_heads == ((0, 0), (0, 1))


def test_a_litany_is_no_loop() -> None:
    """By OpenAI's measure and limit of 2.4: sentences of an answering machine, and one word forty times."""
    assert compression("La conferenza inizierà. Prego attendere. La conferenza inizierà quando arriva.") < 2.4
    assert compression("grazie " * 40) > 2.4
    assert compression("") < 2.4


@pytest.mark.parametrize(("language", "task"), [("xx", "transcribe"), ("", "transcribe")])
def test_a_language_the_model_does_not_know_is_named(vocabulary, language, task) -> None:
    with pytest.raises(LanguageError, match=f"language '{language}': not one of this model's; it knows af, am"):
        vocabulary.prompt(language, task, timestamps=True)


def test_the_prompt_is_that_of_the_tokenizer(vocabulary) -> None:
    """OpenAI's order: start, language, task, and that no timestamps are wanted."""
    names = ["<|startoftranscript|>", "<|it|>", "<|translate|>", "<|notimestamps|>"]
    assert vocabulary.prompt("it", "translate", timestamps=False) == list(map(vocabulary.tokenizer.token_to_id, names))
