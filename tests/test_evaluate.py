"""The evaluate command: its files against jiwer, fallback against Hugging Face, a run against a folder, bad input."""

import csv
import dataclasses
import json
import math
import sys

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from data.errors import UserError, command
from data.featurize import FeaturizeConfig, featurize
from data.log_mel import pad_to_window, restore
from data.records import Shards
from jax_train.checkpoints import Checkpoints, copy_small_files
from jax_train.config import WhisperConfig
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.evaluate import EvaluateConfig, evaluate, main
from jax_train.fallback import Fallback
from jax_train.model import Whisper, functional
from jax_train.score_table import table
from jax_train.step import TrainState
from jax_train.thinned import LENGTHS, MARGIN
from jax_train.transcribe import transcribe
from jax_train.weights import load_model, to_torch_tensors
from tests.conftest import thorough
from tests.recorded_generate import Recorder, generated

N_CLIPS = 5
ONE_DEVICE = 1


@pytest.fixture(scope="module")
def shards(base_model_dir, sample_corpus, tmp_path_factory):
    """Five real clips with one augmented copy each, so that the clean ones must be told apart."""
    folder = tmp_path_factory.mktemp("shards")
    featurize(
        FeaturizeConfig(
            source=sample_corpus, shards=folder, model=str(base_model_dir), split="test", limit=N_CLIPS, workers=1
        )
    )
    return folder


@pytest.fixture(scope="module")
def small_model(base_model_dir, tmp_path_factory):
    """A random Whisper with base's tokenizer, as a model folder and as a run with a checkpoint of the same weights."""
    root = tmp_path_factory.mktemp("small")
    folder, run = root / "model", root / "run"
    copy_small_files(base_model_dir, folder)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | sizes | heads))
    params, buffers, build = functional(Whisper(WhisperConfig.from_folder(folder), rngs=nnx.Rngs(0)))
    params = {name: value * 10 for name, value in params.items()}  # larger than the usual 0.02: clips differ in words
    save_file(to_torch_tensors(nnx.state(build(params, buffers))), folder / "model.safetensors")
    copy_small_files(folder, run / "model")
    with Checkpoints(run) as checkpoints:
        checkpoints.save(TrainState(params, buffers, (), jnp.asarray(7)), {"position": 0})
    return folder, run


def _table(folder):
    return pq.read_table(folder / "predictions.parquet").to_pylist()


@pytest.fixture(scope="module")
def base_result(base_model_dir, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    config = EvaluateConfig(shards=shards, model=str(base_model_dir), out=out, batch_size=N_CLIPS, max_new_tokens=60)
    return evaluate(config, jax.devices()[:ONE_DEVICE]), out


def test_the_scores_are_those_of_the_predictions_it_wrote(base_result):
    result, out = base_result
    assert json.loads((out / "scores.json").read_text()) == result
    rows = _table(out)
    references, hypotheses = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    assert result["wer"] == pytest.approx(100 * jiwer.wer(references, hypotheses), rel=1e-12)  # one division apart
    assert result["cer"] == pytest.approx(100 * jiwer.cer(references, hypotheses), rel=1e-12)
    assert result["encoder_window_seconds"] == [30.0]
    assert 0 < result["wer_normalised"] < result["wer"] < 50  # base hears these clips, with a few words wrong
    low, high = result["intervals"]["over_clips"]["wer"]
    assert low <= result["wer"] <= high
    edits = result["edits"]["normalised"]
    wrong = edits["substitutions"] + edits["deletions"] + edits["insertions"]
    assert result["wer_normalised"] == pytest.approx(100 * wrong / edits["words"], rel=1e-12)
    assert sum(part["clips"] for part in result["by_seconds"]) == N_CLIPS
    assert sum(part["clips"] for part in result["by_snr_db"]) == N_CLIPS


def test_the_scores_name_the_clips_they_are_of_and_the_language_that_was_written(base_result, shards, sample_corpus):
    result, _ = base_result
    manifest = json.loads((shards / "test" / "manifest.json").read_text())
    assert result["data"] == {
        "source": str(sample_corpus),
        "split": "test",
        "language": "it",
        "index_sha256": manifest["index_sha256"],
    }
    assert result["settings"]["language"] == "it"


def test_one_clip_has_a_score_without_an_interval(small_model, shards, tmp_path):
    config = EvaluateConfig(shards=shards, model=str(small_model[0]), out=tmp_path, limit=1, max_new_tokens=5)
    result = evaluate(config, jax.devices()[:ONE_DEVICE])
    assert set(result["intervals"]["over_clips"].values()) == {None}
    (line,) = (line.split() for line in table(result).splitlines() if line.startswith("WER"))
    assert line == ["WER", f"{result['wer']:.2f}", "%", f"{result['wer_normalised']:.2f}", "%"]
    assert "Fewer than 5 clips with words say nothing of others" in (tmp_path / "report.html").read_text()


def test_predictions_made_elsewhere_have_the_same_scores(base_result, shards, tmp_path):
    result, out = base_result
    with (tmp_path / "theirs.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["id", "hypothesis"])
        table.writerows((row["id"], row["hypothesis"]) for row in reversed(_table(out)))
    found = evaluate(EvaluateConfig(shards=shards, predictions=tmp_path / "theirs.tsv", out=tmp_path / "out"))
    made_of_decoding = {"devices", "clips_per_second", "speech_seconds_per_second", "encoder_window_seconds", "weights"}
    assert result.keys() - found.keys() == made_of_decoding
    assert all(found[name] == result[name] for name in found.keys() - {"model", "settings", "seconds"})
    assert _table(tmp_path / "out") == _table(out)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found


def test_a_failing_report_leaves_the_predictions_and_no_scores(base_result, shards, tmp_path, monkeypatch):
    config = EvaluateConfig(shards=shards, predictions=base_result[1] / "predictions.parquet", out=tmp_path)
    evaluate(config)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("jax_train.evaluate.write_report", full)
    with pytest.raises(OSError, match="no space"):
        evaluate(config)
    assert _table(tmp_path) == _table(base_result[1])
    assert not (tmp_path / "scores.json").exists()


def test_the_predictions_stand_in_the_corpus_order_and_hold_each_clean_clip_once(base_result, sample_corpus):
    with (sample_corpus / "test.tsv").open(encoding="utf-8") as file:
        corpus = list(csv.DictReader(file, delimiter="\t"))[:N_CLIPS]
    rows = _table(base_result[1])
    assert [row["id"] for row in rows] == [row["path"] for row in corpus]
    assert [row["reference"] for row in rows] == [row["sentence"] for row in corpus]


def test_every_second_is_accounted_for(base_result):
    result, _ = base_result
    assert result["clips"] == N_CLIPS
    assert set(result["seconds"]) == {"load", "compile", "decode", "score", "report"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["clips_per_second"] == pytest.approx(N_CLIPS / result["seconds"]["decode"], rel=1e-12)
    assert result["settings"]["prompt"] == [50258, 50274, 50359, 50363]  # Italian, as the shards say


@thorough
def test_fallback_on_real_clips_gives_hugging_faces_texts(base_model_dir, shards, tmp_path):
    """Thresholds amid three clips' values; a temperature so low that what is drawn is the likeliest.

    Hugging Face takes each clip alone: in a batch its later temperatures overwrite which rows are silent.
    """
    model, clips = Recorder.from_pretrained(base_model_dir), Shards.open(shards, "test")
    records = [clips[row] for row in np.flatnonzero(clips.index["copy"] == 0)[:3]]
    windows_BFM = np.stack([pad_to_window(restore(record.log_mel_q, record.log_mel_max)) for record in records])
    _, judged = generated(model, windows_BFM, max_new_tokens=60)
    middle = {
        "compression_ratio_threshold": float(np.median([row.compression_ratio for row in judged])),
        "logprob_threshold": float(np.median([row.log_prob for row in judged])) + 1e-3,
        "no_speech_threshold": float(np.median([row.no_speech for row in judged])) * 0.999,
    }
    options = {"max_new_tokens": 60, "temperature": (0.0, 1e-4), **middle}
    alone = [generated(model, window_FM[None], **options) for window_FM in windows_BFM]
    assert {row[0].again for _, row in alone} == {row[0].silence for _, row in alone} == {True, False}
    tokenizer = Tokenizer.from_file(str(base_model_dir / "tokenizer.json"))
    wanted = [tokenizer.decode(tokens[0]).strip() for tokens, _ in alone]
    fallback = Fallback((0.0, 1e-4), **middle)
    paths = {"shards": shards, "model": str(base_model_dir), "out": tmp_path}
    config = EvaluateConfig(**paths, limit=3, batch_size=N_CLIPS, max_new_tokens=60, fallback=fallback)
    evaluate(config, jax.devices()[:ONE_DEVICE])
    assert [row["hypothesis"] for row in _table(tmp_path)] == wanted
    assert "" in wanted


def test_thinned_windows_are_as_long_as_their_clips_and_said_to_be_another_score(small_model, shards, tmp_path):
    config = EvaluateConfig(
        shards=shards, model=str(small_model[0]), out=tmp_path, batch_size=2, max_new_tokens=5, windows="thinned"
    )
    result = evaluate(config, jax.devices()[:ONE_DEVICE])
    index = Shards.open(shards, "test").index
    frames = np.sort(index["frames"][index["copy"] == 0])
    longest = {int(frames[1]), int(frames[3]), int(frames[4])}  # of batches of two clips
    wanted = {next(size for size in LENGTHS if size >= most + MARGIN) / 100 for most in longest}
    assert result["encoder_window_seconds"] == sorted(wanted)
    assert result["settings"]["windows"] == json.loads((tmp_path / "scores.json").read_text())["settings"]["windows"]
    said = "not the split's score: thinned windows, so not the score of whole windows; transcripts cut after 5 tokens"
    assert said in table(result)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    header = page[page.index("<header>") : page.index("</header>")]
    assert "thinned windows, so not the score of whole windows" in header
    assert "Decoding: greedy, thinned windows." in header


def test_every_temperature_is_tried_in_turn_and_the_unsure_that_nobody_speaks_in_are_dropped(small_model, shards):
    """A random model: no transcript is surer than 1 in e^0.1, and none is as sure as 1 that nobody speaks."""
    clips, rows = Shards.open(shards, "test"), np.arange(2)
    tokenizer = Tokenizer.from_file(str(small_model[0] / "tokenizer.json"))
    rules = DecodingRules.from_folder(small_model[0], "it", 5)
    decoder = BatchDecoder(load_model(small_model[0]), rules, 1, jax.devices()[:ONE_DEVICE])
    unsure = Fallback((0.0, 0.5, 1e-4), logprob_threshold=-0.1, no_speech_threshold=1.0)
    likeliest, tried = transcribe(clips, rows, decoder, tokenizer), transcribe(clips, rows, decoder, tokenizer, unsure)
    assert [found.temperature for found in tried] == [1e-4, 1e-4]
    assert [found.text for found in tried] == [found.text for found in likeliest]
    silent = dataclasses.replace(unsure, no_speech_threshold=-1.0)
    assert [found[1:] for found in transcribe(clips, rows, decoder, tokenizer, silent)] == [
        ("", found.log_prob, found.no_speech, 0.0) for found in likeliest
    ]


def test_a_run_scores_as_the_same_weights_in_a_folder_whatever_the_batch(small_model, shards, tmp_path):
    folder, run = small_model
    of_folder = EvaluateConfig(shards=shards, model=str(folder), out=tmp_path, batch_size=4, max_new_tokens=20)
    of_run = dataclasses.replace(of_folder, model="", run=run, out=None, batch_size=3)
    evaluate(of_folder, jax.devices()[:ONE_DEVICE])
    result = evaluate(of_run, jax.devices()[:ONE_DEVICE])
    assert result["model"] == f"{run} step 7"
    assert _table(run / "evaluate-test") == _table(tmp_path)
    assert len({row["hypothesis"] for row in _table(tmp_path)}) > 1


def test_the_command_prints_the_table_and_where_the_scores_are(small_model, shards, tmp_path, monkeypatch, capsys):
    options = ["--model", small_model[0], "--shards", shards, "--limit", 2, "--batch-size", 1, "--max-new-tokens", 5]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, options), "--out", str(tmp_path / "out")])
    monkeypatch.setattr("jax_train.evaluate.compilation_cache", lambda: None)  # the tests have set their own
    main()
    said = capsys.readouterr().out
    assert "2 clips" in said
    assert "normalised (95 %)" in said
    assert "not the split's score: the split's first 2 clips alone" in said
    assert "normalised: transformers BasicTextNormalizer(remove_diacritics=False)\n" in said
    assert f"{tmp_path / 'out' / 'predictions.parquet'}, {tmp_path / 'out' / 'report.html'}" in said
    assert said.splitlines()[-1] == str(tmp_path / "out" / "scores.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "has no split 'dev'; there are: test"),
        ({"language": "xx"}, "no language 'xx'"),
        ({"max_new_tokens": 1000}, "max_new_tokens 1000"),
        ({"model": "no/such/model"}, "no such folder"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"limit": -1}, "--limit -1"),
        ({"report_clips": -1}, "--report-clips -1"),
        ({"recordings": "no/such/corpus"}, "no/such/corpus"),
        ({"predictions": "their.tsv"}, "give either --model"),
        ({"model": ""}, "give either --model"),
        ({"run": "RUN"}, "give either --model"),
    ],
)
def test_bad_input_is_said(small_model, shards, options, message):
    fields = {"shards": shards, "model": str(small_model[0]), **options}
    with pytest.raises(UserError, match=message):
        evaluate(EvaluateConfig(**fields), jax.devices()[:ONE_DEVICE])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperatures": (0.0, math.nan)}, "--fallback.temperatures 0.0 nan: takes finite numbers"),
        ({"temperatures": (0.0, math.inf)}, "--fallback.temperatures 0.0 inf: takes"),
        ({"logprob_threshold": -math.inf}, "--fallback.logprob-threshold -inf: takes"),
    ],
)
def test_a_fallback_of_what_is_no_number_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Fallback(**fields)


def test_a_folder_that_is_no_run_is_said(shards, tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        evaluate(EvaluateConfig(shards=shards, run=tmp_path))


def test_shards_of_another_mel_size_end_the_command_in_one_line(small_model, shards, tmp_path, monkeypatch, capsys):
    copy_small_files(small_model[0], tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"num_mel_bins": 128}))
    (tmp_path / "model.safetensors").write_bytes((small_model[0] / "model.safetensors").read_bytes())
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(tmp_path), "--shards", str(shards)])
    monkeypatch.setattr("jax_train.evaluate.compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as ended:
        command(main)()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    assert "has 80 mel bins" in said
    assert "takes 128" in said
