"""Real Italian speech, real Whisper base: the text of transformers' pipeline, and no sentence of a long file lost."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from transformers import logging, pipeline

from serving import transcribe
from serving.errors import UserError
from serving.media import SAMPLE_RATE, load_audio
from serving.transcribe import Transcriber

LONG_SECONDS = 70


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()


@pytest.fixture(scope="module")
def test_rows(sample_corpus: Path) -> list[tuple[Path, str]]:
    """The sample's test clips and their sentences."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(sample_corpus / "clips" / row["path"], row["sentence"]) for row in rows]


@pytest.fixture(scope="module")
def transcriber(base_model_dir: Path) -> Transcriber:
    return Transcriber(base_model_dir)


def words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def test_clips_give_the_text_of_transformers_own_pipeline(transcriber, test_rows, base_model_dir: Path) -> None:
    peer = pipeline("automatic-speech-recognition", model=str(base_model_dir), device="cpu")
    for clip, _ in test_rows[:2]:
        got = transcriber.transcribe(clip)
        audio_N = load_audio(clip)
        want = peer({"raw": audio_N, "sampling_rate": SAMPLE_RATE}, generate_kwargs={"task": "transcribe"})
        assert got.text == want["text"].strip()
        assert got.seconds == audio_N.size / SAMPLE_RATE
        assert [(s.start, s.end, s.text) for s in got.segments] == [(0.0, got.seconds, got.text)]


def test_a_long_recording_loses_no_sentence(transcriber, test_rows, tmp_path: Path) -> None:
    """Word error rate at most 0.25 over the clips laid end to end.

    Base has about 0.15 on these clips one by one; a lost 30 s window would cost another 0.4, a lost sentence of the
    twenty 0.05. Deletions at most 1 word in 12, because a loss is nothing but deletions.
    """
    parts, sentences = [], []
    for clip, sentence in test_rows:
        parts.append(load_audio(clip))
        sentences.append(sentence)
        if sum(part.size for part in parts) > LONG_SECONDS * SAMPLE_RATE:
            break
    soundfile.write(tmp_path / "long.flac", np.concatenate(parts), SAMPLE_RATE)
    got = transcriber.transcribe(tmp_path / "long.flac")
    scores = jiwer.process_words(words(" ".join(sentences)), words(got.text))
    assert scores.wer <= 0.25, got.text
    assert scores.deletions <= len(words(" ".join(sentences)).split()) / 12, got.text
    assert words(" ".join(s.text for s in got.segments)) == words(got.text)
    times = [time for segment in got.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(got.seconds, abs=3.0)  # the last sentence is there: clips last 1 to 8 s


def test_exactly_thirty_seconds_are_one_pass(transcriber, test_rows) -> None:
    audio_N = np.zeros(30 * SAMPLE_RATE, np.float32)
    clip_N = load_audio(test_rows[0][0])
    audio_N[-clip_N.size :] = clip_N  # the speech is at the very end
    got = transcriber.transcribe_audio(audio_N)
    assert len(got.segments) == 1
    assert jiwer.wer(words(test_rows[0][1]), words(got.text)) < 0.5


def test_the_command_prints_the_text_and_nothing_else(test_rows, base_model_dir: Path) -> None:
    clip = test_rows[0][0]
    arguments = [sys.executable, "-m", "serving.transcribe", "--model", str(base_model_dir), str(clip)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert jiwer.wer(words(test_rows[0][1]), words(done.stdout)) < 0.5
    assert done.stdout.count("\n") == 1


def copy(model: Path, folder: Path, *, without: str = "", **config: object) -> Path:
    """A folder with the model's files by link, one left out or its config changed."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != without and file.is_file():
            (folder / file.name).symlink_to(file)
    if config:
        content = json.loads((model / "config.json").read_text()) | config
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"without": "config.json"}, "holds no config.json"),
        ({"without": "model.safetensors"}, "holds no weights"),
        ({"without": "tokenizer.json"}, "holds no tokenizer.json"),
        ({"without": "generation_config.json"}, "holds no generation_config.json"),
        ({"model_type": "bert"}, "model_type is 'bert', only 'whisper' can be served"),
        ({"num_mel_bins": 128}, "mismatched: "),
        ({"encoder_layers": 7}, "missing: model.encoder.layers.6"),
        ({"decoder_layers": 5}, "unexpected: model.decoder.layers.5"),
    ],
)
def test_a_folder_that_is_not_a_whole_whisper_model_is_refused(tmp_path, base_model_dir, change, says: str) -> None:
    folder = copy(base_model_dir, tmp_path / "model", **change)
    with pytest.raises(UserError, match=says) as caught:
        Transcriber(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_cut_short_are_refused(tmp_path: Path, base_model_dir: Path) -> None:
    folder = copy(base_model_dir, tmp_path / "model", without="model.safetensors")
    with (base_model_dir / "model.safetensors").open("rb") as weights:
        (folder / "model.safetensors").write_bytes(weights.read(1_000_000))
    with pytest.raises(UserError, match="does not load") as caught:
        Transcriber(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "recording"])
def test_what_is_not_there_is_one_line_and_exit_code_2(missing, test_rows, tmp_path, monkeypatch, capsys) -> None:
    recording = tmp_path / "none.mp3" if missing == "recording" else test_rows[0][0]
    monkeypatch.setattr(sys, "argv", ["transcribe", "--model", str(tmp_path / "nowhere"), str(recording)])
    with pytest.raises(SystemExit) as ended:
        transcribe.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert ("no such file" if missing == "recording" else "no such folder") in err
