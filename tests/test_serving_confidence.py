"""Signals are transformers' and the shards'; boosted trees, read from plain JSON, give scikit-learn's probabilities."""

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from transformers import WhisperForConditionalGeneration

from daily.confidence import FORMAT, MEANINGS, export
from data.log_mel import log_mel, quantize
from data.snr import snr_db as shards_snr_db
from serving import batch, pytorch
from serving.confidence import CONFIDENCE, Confidence, Estimate, read_confidence
from serving.errors import UserError
from serving.media import SAMPLE_RATE
from serving.model_folder import ModelError
from serving.signals import Signals, snr_db
from serving.transcribe import Transcriber
from serving.transcript import Options
from serving.visits import Visits
from serving.words import ENGLISH, ITALIAN
from tests.scripted_page import ScriptedTranscriber

SETTINGS = {"format": FORMAT, "language": "it", "bound": 0.0, "trusted_from": 0.5}
SIGNALS = Signals(-0.2, -1.0, 0.9, 0.01, 12.0, 3.0, 6.0, 2.0, 30.0)


def trained(rows: int, missing: float = 0.1) -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    """Trees over random signals, some missing, and those signals."""
    rng = np.random.default_rng(0)
    signals_CK = rng.normal(size=(rows, len(MEANINGS)))
    right_C = signals_CK[:, 0] + 0.5 * signals_CK[:, 3] * signals_CK[:, 8] + rng.normal(size=rows) > 0
    signals_CK[rng.random(signals_CK.shape) < missing] = np.nan
    return HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(signals_CK, right_C), signals_CK


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIDENCE).write_text(json.dumps(content, allow_nan=False))
    return folder


@pytest.mark.parametrize(("rows", "missing"), [(20, 0.0), (60, 0.0), (500, 0.0), (500, 0.5)])
def test_probabilities_are_scikit_learns(tmp_path, rows, missing) -> None:
    """1e-12: float64 sums of the same sixty numbers in another order. Twenty rows give trees of a leaf alone."""
    model, signals_CK = trained(rows, missing)
    confidence = read_confidence(write(tmp_path, SETTINGS | export(model, MEANINGS)))
    beyond_CK = np.concatenate([signals_CK, 1e3 * signals_CK, np.full((1, len(MEANINGS)), np.nan)])
    want_C = model.predict_proba(beyond_CK)[:, 1]
    np.testing.assert_allclose(confidence.probabilities(beyond_CK), want_C, rtol=0, atol=1e-12)


def test_the_features_are_the_signals_in_order() -> None:
    assert list(MEANINGS) == [field.name for field in fields(Signals)]


def test_an_estimate_is_that_of_its_signals_and_none_for_no_words(tmp_path) -> None:
    model, _ = trained(500)
    confidence = read_confidence(write(tmp_path, SETTINGS | export(model, MEANINGS)))
    want = float(model.predict_proba(np.array([list(asdict(SIGNALS).values())]))[0, 1])
    got = confidence.estimate(SIGNALS)
    assert got.probability == pytest.approx(want, abs=1e-12)
    assert got.trusted == (want >= 0.5)
    assert confidence.estimate(None) == Estimate(0.0, False)
    assert confidence.estimate(Signals(**asdict(SIGNALS) | {"hypothesis_words": 0.0})) == Estimate(0.0, False)


def test_what_is_just_at_a_threshold_goes_left_and_is_trusted(tmp_path) -> None:
    """One tree: even odds up to 30 dB, which the signals have, and bad ones above."""
    node = {"feature": 0, "threshold": 30.0, "missing_left": False, "left": 1, "right": 2, "value": 0.0}
    leaf = dict.fromkeys(node, 0) | {"feature": -1}
    nodes = [node, leaf, leaf | {"value": -2.0}]
    tree = {"features": [{"name": "snr_db"}], "baseline": 0.0, "roots": [0]}
    tree["nodes"] = {name: [node[name] for node in nodes] for name in node}
    assert read_confidence(write(tmp_path, SETTINGS | tree)).estimate(SIGNALS) == Estimate(0.5, True)


def test_a_folder_without_the_file_has_no_confidence(tmp_path) -> None:
    assert read_confidence(tmp_path) is None


def test_what_is_not_a_confidence_model_is_named(tmp_path) -> None:
    """Each is refused in one line; none makes a walk go round for ever or read outside the trees."""
    model, _ = trained(500)
    good = SETTINGS | export(model, MEANINGS)
    inside = good["nodes"]["feature"].index(next(f for f in good["nodes"]["feature"] if f >= 0))

    def nodes(column: str, value: object) -> dict:
        changed = list(good["nodes"][column])
        changed[inside] = value
        return {"nodes": good["nodes"] | {column: changed}}

    for change, says in (
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"features": [{"name": "loudness"}]}, "asks for loudness; the signals are compression_ratio"),
        ({"features": good["features"][:1]}, "trees are not whole"),
        ({"roots": [10**6]}, "trees are not whole"),
        ({"roots": [-1]}, "trees are not whole"),
        ({"roots": [10**27]}, "is not a confidence model"),
        (nodes("left", inside), "trees are not whole"),
        (nodes("right", 10**6), "trees are not whole"),
        ({"nodes": good["nodes"] | {"value": [0.0]}}, "trees are not whole"),
        ({"nodes": {}}, "is not a confidence model"),
        ({"roots": "x"}, "is not a confidence model"),
    ):
        with pytest.raises(ModelError, match=says):
            read_confidence(write(tmp_path, good | change))
    (tmp_path / CONFIDENCE).write_text("[]")
    with pytest.raises(ModelError, match="is not a confidence model"):
        read_confidence(tmp_path)


@pytest.fixture(scope="module")
def speech(sample_corpus: Path) -> np.ndarray:
    """Two seconds of a real clip."""
    path = next(iter(sorted((sample_corpus / "clips").glob("*.mp3"))))
    audio_N, rate = soundfile.read(path, dtype="float32")
    return audio_N[: 2 * rate : rate // SAMPLE_RATE].copy()


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_signal_to_noise_ratio_is_the_shards(speech, n_mels) -> None:
    """0.02 dB: a value next to the edge between two of the 255 steps may fall to either side."""
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.003, 0.1):
        audio_N = (speech + noise * rng.normal(size=speech.size)).astype(np.float32)
        log_mel_FM = log_mel(audio_N, n_mels)
        assert snr_db(log_mel_FM) == pytest.approx(shards_snr_db(quantize(log_mel_FM)[0]), abs=0.02)


def test_signals_are_what_transformers_computes(small_model_dir, speech, monkeypatch) -> None:
    """Log-probabilities from one pass over the whole transcript; 1e-4: float32 sums of another order, of values to 20.

    Nothing rounded or left out, as in `test_in_float32_clips_give_the_text_of_transformers_own_pipeline`. The first
    tokens that the rules forbid are taken out before probabilities are shared, as OpenAI does.
    """
    monkeypatch.setattr(pytorch, "STRIDE", pytorch.POSITIONS)
    monkeypatch.setattr(pytorch, "has_eight_bits", lambda _: False)
    monkeypatch.setattr(pytorch, "has_bfloat16", lambda _: False)
    transcriber = Transcriber(small_model_dir, signals=True)
    vocabulary, never = transcriber.vocabulary, lambda: False
    prompt = vocabulary.prompt("it", "transcribe", timestamps=False)
    log_mel_BMF = transcriber.features([speech], sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    heard = transcriber.engine.hear(log_mel_BMF, [speech.size], never)
    (decoded,) = transcriber.engine.write(heard, [0], prompt, 0.0, never, signals=True)
    (plain,) = transcriber.engine.write(heard, [0], prompt, 0.0, never)
    assert plain.tokens == decoded.tokens
    assert plain.log_probabilities == ()

    model = WhisperForConditionalGeneration.from_pretrained(small_model_dir).eval()
    given = torch.tensor([[*prompt, *decoded.tokens]])[:, : model.config.max_target_positions]
    with torch.no_grad():
        logits_LV = model(log_mel_BMF, decoder_input_ids=given).logits[0]
    assert vocabulary.tokenizer.id_to_token(vocabulary.no_speech) in ("<|nospeech|>", "<|nocaptions|>")
    want = float(logits_LV[0].softmax(-1)[vocabulary.no_speech])
    assert decoded.no_speech_probability == pytest.approx(want, rel=1e-3)
    logits_LV = logits_LV[len(prompt) - 1 :]
    logits_LV[:, list(vocabulary.suppressed)] = -torch.inf
    logits_LV[0, list(vocabulary.suppressed_first)] = -torch.inf
    likely_LV = logits_LV.log_softmax(-1)
    chosen = [*decoded.tokens, vocabulary.end][: len(decoded.log_probabilities)]
    want_L = [float(likely_LV[place, token]) for place, token in enumerate(chosen)]
    np.testing.assert_allclose(decoded.log_probabilities, want_L, rtol=0, atol=1e-4)


@pytest.fixture
def sure(small_model_dir, tmp_path, monkeypatch) -> Path:
    """A folder whose model is random, and which has a confidence model."""
    monkeypatch.setattr("serving.hearing.TEMPERATURES", (0.0,))  # a random model repeats itself
    folder = tmp_path / "model"
    folder.mkdir()
    for path in small_model_dir.iterdir():
        (folder / path.name).symlink_to(path)
    write(folder, SETTINGS | export(trained(500)[0], MEANINGS))
    return folder


def test_a_transcript_has_signals_where_somebody_asks(sure, small_model_dir, speech) -> None:
    """Of one window, from the folder's confidence.json or on demand; never of more, or of silence."""
    plain = Transcriber(small_model_dir)
    assert (plain.confidence, plain.transcribe_with_signals(speech)[1]) == (None, None)
    transcript, asked = Transcriber(small_model_dir, signals=True).transcribe_with_signals(speech)
    assert asked.seconds == speech.size / SAMPLE_RATE
    assert asked.hypothesis_words == len(transcript.text.split())
    assert asked.mean_log_probability >= asked.lowest_log_probability

    transcriber = Transcriber(sure)
    assert isinstance(transcriber.confidence, Confidence)
    assert transcriber.transcribe_with_signals(speech)[1] == asked
    assert transcriber.transcribe_with_signals(np.zeros(SAMPLE_RATE, np.float32))[1] is None
    assert transcriber.transcribe_with_signals(np.tile(speech, 24))[1] is None


@pytest.fixture
def visits(tmp_path) -> Visits:
    """A page's visits whose engine is scripted and knows its signals."""
    (tmp_path / "log").touch()
    transcriber = ScriptedTranscriber(tmp_path / "log")
    stream = transcriber.stream
    transcriber.stream = lambda *given: (replace(step, signals=SIGNALS) for step in stream(*given))
    model, _ = trained(500)
    transcriber.confidence = read_confidence(write(tmp_path, SETTINGS | export(model, MEANINGS)))
    return Visits(transcriber, None, tmp_path / "uploads")


def last_words(visits: Visits, folder: Path, words: dict[str, str] = ENGLISH, **options: str) -> str:
    path = folder / "said.wav"
    soundfile.write(path, np.full(2 * SAMPLE_RATE, 0.1, np.float32), SAMPLE_RATE)
    return list(visits.run(path, path.name, Options(**options), "someone", words))[-1].status


def test_the_page_says_how_sure_it_is_beside_a_transcript(visits, tmp_path) -> None:
    """In the visitor's language and by the model's bound; nothing of a translation, or of another language."""
    confidence = visits.transcriber.confidence
    share = f"{100 * confidence.estimate(SIGNALS).probability:.0f} %"
    for trusted_from, kind, english, italian in (
        (0.0, "trusted", "Likely right", "Probabilmente giusto"),
        (1.0, "doubted", "Better checked", "Meglio controllare"),
    ):
        visits.transcriber.confidence = replace(confidence, trusted_from=trusted_from)
        status = last_words(visits, tmp_path)
        assert f'class="note estimate {kind}"' in status
        assert f"{english}: an estimated {share} that not a word is wrong." in status
        assert f"{italian}: stima: {share} che nessuna parola" in last_words(visits, tmp_path, ITALIAN)
    visits.transcriber.confidence = replace(confidence, bound=0.1)
    assert "that at most 10 % of the words are wrong" in last_words(visits, tmp_path)
    for options in ({"task": "translate"}, {"language": "en"}):
        assert "estimate" not in last_words(visits, tmp_path, **options)
    visits.transcriber.confidence = None
    assert "estimate" not in last_words(visits, tmp_path)


def test_a_batch_says_of_every_clip_what_is_known_or_why_nothing_is(sure, speech, tmp_path, monkeypatch) -> None:
    """In the order of the list; lines that the featurizer takes for a manifest."""
    for name, audio_N in (("a.wav", speech), ("silent.wav", np.zeros(SAMPLE_RATE, np.float32))):
        soundfile.write(tmp_path / name, audio_N, SAMPLE_RATE)
    (tmp_path / "text.wav").write_text("no sound")
    clips, out = tmp_path / "metadata.csv", tmp_path / "out" / "heard.jsonl"
    names = ["silent.wav", "a.wav", "gone.wav", "text.wav", "a" * 300]
    clips.write_text("speaker,file_name\n" + "".join(f"x,{name}\n" for name in names))
    options = {"--model": sure, "--clips": clips, "--out": out, "--language": "it"}
    monkeypatch.setattr(sys, "argv", ["batch", *(str(part) for option in options.items() for part in option)])
    batch.main()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["file_name"] for row in rows] == names
    silent, said, gone, text, endless = rows
    assert (silent["text"], silent["confidence"], silent["trusted"]) == ("", 0.0, False)
    assert set(said) == set(MEANINGS) | {"file_name", "text", "language", "confidence", "trusted"}
    assert 0.0 < said["confidence"] < 1.0
    assert "no such file" in gone["problem"]
    assert "text.wav" in text["problem"]
    assert "too long" in endless["problem"]
    assert list(out.parent.iterdir()) == [out]
    assert "confidence" not in batch.hear(Transcriber(sure), tmp_path / "silent.wav", Options("en"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("path\na.wav\n", "has no column file_name; there are: path"),
        ("file_name\n", "line 2 names no clip"),
        ("file_name,x\na.wav,1\n,2\n", "line 3 names no clip"),
        ("x,file_name\n1,a.wav\n2\n", "line 3 names no clip"),
    ],
)
def test_a_list_without_clips_is_refused(tmp_path, content, says) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=says):
        batch.read_list(tmp_path / "list.csv")
    with pytest.raises(UserError, match="cannot be read"):
        batch.read_list(tmp_path / "none.csv")


@pytest.mark.parametrize(("out", "says"), [("", "is a folder"), ("list.csv/x.jsonl", "cannot be written")])
def test_where_no_lines_can_be_written_is_said_before_the_model_is_looked_at(tmp_path, monkeypatch, capsys, out, says):
    (tmp_path / "list.csv").write_text("file_name\na.wav\n")
    options = ["--model", "nowhere", "--clips", str(tmp_path / "list.csv"), "--out", str(tmp_path / out)]
    monkeypatch.setattr(sys, "argv", ["batch", *options])
    with pytest.raises(SystemExit):
        batch.main()
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]
