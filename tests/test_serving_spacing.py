"""Text in languages that put no spaces between words, and what is translated from them, is put together right."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serving import timeline
from serving.media import SAMPLE_RATE
from serving.transcript import Options, Segment, Word
from serving.visits import View, Visits
from serving.words import ENGLISH
from tests.scripted_page import SENTENCES, ScriptedTranscriber, ScriptedVideos
from tests.test_serving_visits import Found


@pytest.fixture
def visits(tmp_path: Path) -> Visits:
    (tmp_path / "log").touch()
    return Visits(ScriptedTranscriber(tmp_path / "log"), ScriptedVideos, tmp_path / "uploads")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Six seconds: three sentences."""
    soundfile.write(tmp_path / "6.wav", np.full(6 * SAMPLE_RATE, 0.1, np.float32), SAMPLE_RATE)
    return tmp_path / "6.wav"


CASES = [
    (Options("it"), " ".join(SENTENCES[:3]), "it"),
    (Options("ja"), "".join(SENTENCES[:3]), "ja"),
    (Options("ja", "translate"), "Translated. Translated. Translated.", "en"),
    (Options("it", "translate"), "Translated. Translated. Translated.", "en"),
]


@pytest.mark.parametrize(("options", "text", "language"), CASES)
def test_the_page_joins_passages_as_the_text_is_written(visits: Visits, recording, options, text, language) -> None:
    steps: Iterator[View] = visits.run(recording, recording.name, options, "someone", ENGLISH)
    files = {}
    for view in steps:
        files |= {kind: path.read_text(encoding="utf-8") for kind, path in view.files.items()}
    assert view.text == text
    assert files["txt"] == text + "\n"
    assert Found(view.rows).attributes["lang"] == language


@pytest.mark.parametrize(("options", "text"), [(options, text) for options, text, _ in CASES])
def test_a_program_gets_the_same_text(visits: Visits, recording, options, text) -> None:
    assert visits.transcript(recording, options, "someone").text == text


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("zh", "你好，世界", ["你好，", "世界"]),
        ("ja", "Whisperと iPhone です", ["Whisper", "と", "iPhone", "です"]),
        ("it", "Ciao, mondo", ["Ciao,", "mondo"]),
        ("it", "Ciao, mondo", ["Ciao,", "nowhere", "", "mondo"]),
    ],
)
def test_a_passage_of_words_reads_as_its_text(language: str, text: str, words: list[str]) -> None:
    row = Found(timeline.row(Segment(0.0, 1.0, text, tuple(Word(0.5, 1.0, word) for word in words)), language))
    assert row.text == f"0:00{text}"
    assert row.elements.count("span") == 2 + len([word for word in words if word and word in text])
