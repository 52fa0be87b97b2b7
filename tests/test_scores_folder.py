"""An evaluation's folder: a stopped one goes on, results of others are not replaced, what cannot be written is said."""

import os
from contextlib import nullcontext
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from data.errors import UserError
from data.records import Shards
from jax_train.compare import CompareConfig, compare
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.fallback import Fallback
from jax_train.scores_folder import KEPT, SCORES_FILE, Heard, Kept, made_before, refuse_others, scores_in, weights_of
from jax_train.transcribe import transcribe
from jax_train.weights import load_model

N_CLIPS, BATCH = 6, 2
UNSURE = Fallback((0.0, 1.0), logprob_threshold=0.0)  # nobody is: all is drawn anew, so each clip has words of its own


@pytest.fixture
def config(small_shards, small_model_dir, tmp_path):
    """Three batches."""
    return EvaluateConfig(
        small_shards,
        str(small_model_dir),
        split="train",
        out=tmp_path / "out",
        report_clips=0,
        batch_size=BATCH,
        limit=N_CLIPS,
        max_new_tokens=4,
    )


@pytest.fixture
def batches(monkeypatch):
    """How many batches were decoded, or drawn; the one after `most` is an interrupt."""
    seen = {"decoded": 0, "drawn": 0, "most": 99}

    def counted(name, original):
        def method(*arguments):
            seen[name] += 1
            if seen["decoded"] + seen["drawn"] > seen["most"]:
                raise KeyboardInterrupt
            return original(*arguments)

        return method

    monkeypatch.setattr(BatchDecoder, "__call__", counted("decoded", BatchDecoder.__call__))
    monkeypatch.setattr(BatchDecoder, "sample", counted("drawn", BatchDecoder.sample))
    return seen


def heard(out):
    return pq.read_table(out / "predictions.parquet")["hypothesis"].to_pylist()


def test_transcripts_of_several_starts_equal_those_of_one(config, small_model_dir, batches):
    """The second batch is on its way when the first is kept, and that is not lost."""
    rules = DecodingRules.from_folder(small_model_dir, "it", 4)
    decoder = BatchDecoder(load_model(small_model_dir), rules, BATCH, jax.devices()[:1])
    tokenizer = Tokenizer.from_file(str(small_model_dir / "tokenizer.json"))
    shards = Shards.open(config.shards, "train")
    clips = shards, np.flatnonzero(shards.index["copy"] == 0)[:N_CLIPS], decoder, tokenizer, UNSURE
    whole = transcribe(*clips)
    assert (batches["decoded"], batches["drawn"]) == (3, 3)
    assert len({found.text for found in whole}) == N_CLIPS
    for most, decoded, drawn in ((2, 3, 0), (4, 2, 3), (99, 0, 2), (99, 0, 0)):
        batches |= {"decoded": 0, "drawn": 0, "most": most}
        stopped = pytest.raises(KeyboardInterrupt) if most < 99 else nullcontext()
        with stopped, Kept(config.out, {"model": "small"}) as kept:
            assert transcribe(*clips, kept=kept) == whole
        assert (batches["decoded"], batches["drawn"]) == (decoded, drawn)
        with (config.out / KEPT).open("a") as file:
            file.write('{"attempt": 1, "clips": [[0, ')


def test_a_stopped_evaluation_goes_on_and_loses_nothing_to_a_refusal_of_scoring(config, batches, monkeypatch, capsys):
    devices = jax.devices()[:1]
    batches["most"] = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, devices)
    assert [path.name for path in config.out.iterdir()] == [KEPT]

    def refuse(*_):
        raise UserError("the references hold no letter or digit")

    batches |= {"decoded": 0, "most": 99}
    with monkeypatch.context() as patch:
        patch.setattr("jax_train.evaluate.score", refuse)
        with pytest.raises(UserError, match="no letter or digit"):
            evaluate(config, devices)
    told = pq.read_table(config.out / "predictions.parquet")
    assert told.column_names == ["id", "reference", "hypothesis", "speaker", "seconds"]
    result = evaluate(replace(config, report_clips=1), devices)  # that changes no transcript
    assert batches["decoded"] == 2
    assert result["clips_per_second"] == 0
    said = capsys.readouterr().out
    assert said == "".join(f"{n} of {N_CLIPS} clips were transcribed by an earlier start\n" for n in (BATCH, N_CLIPS))
    assert pq.read_table(config.out / "predictions.parquet").select(told.column_names).equals(told)
    assert not (config.out / KEPT).exists()


def test_what_is_kept_of_anything_else_is_begun_anew(tmp_path):
    made, said = {"model": "a", "weights": {"b": [1, 2]}}, Heard("è «così»\n\x85", -0.1234567890123456, 1e-300, True)
    with Kept(tmp_path, made) as kept:
        kept.add(0, {3: said})
        kept.add(1, {3: said, 1: said})
    with (tmp_path / KEPT).open("a") as file:
        file.write('{"attempt": 2, "cl\n')
    for again in (made, made):  # what was cut is cut off
        with Kept(tmp_path, again) as kept:
            assert kept.attempts == {0: {3: said}, 1: {3: said, 1: said}}
            kept.add(1, {1: said})
    with Kept(tmp_path, made | {"weights": {"b": [1, 3]}}) as kept:
        assert kept.attempts == {}
    with Kept(tmp_path, made) as kept:
        assert kept.attempts == {}


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_decoded(config, tmp_path, batches):
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below", file / "far" / "below"):
        with pytest.raises(UserError, match=f"--out {out}: {file}.*: not a directory; name a folder that can be"):
            evaluate(replace(config, out=out))
        with pytest.raises(UserError, match=f"--out {out}: "):
            compare(CompareConfig(config.model, config.model, config.shards, out=out))
    with pytest.raises(UserError, match="file name too long"):
        evaluate(replace(config, out=tmp_path / ("x" * 300)))
    assert batches == {"decoded": 0, "drawn": 0, "most": 99}


def test_the_default_folder_is_not_taken_from_another_model_or_file(small_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = Shards.open(small_shards, "test")
    for folder in ("m1", "m2"):
        (tmp_path / folder).mkdir()
        rows = [f"{clip}\t{folder}" for clip in dict.fromkeys(shards.index["id"].tolist())]
        (tmp_path / folder / "p.tsv").write_text("\n".join(["id\thypothesis", *rows]))
    ours = EvaluateConfig(small_shards, predictions=tmp_path / "m1" / "p.tsv", report_clips=0)
    evaluate(ours)
    evaluate(replace(ours, predictions=(tmp_path / "m1" / "p.tsv").relative_to(tmp_path)))  # the same replaces
    theirs = replace(ours, predictions=tmp_path / "m2" / "p.tsv")
    with pytest.raises(UserError, match=r"scores/p-test holds the scores of m1/p.tsv, not of .*m2/p.tsv: give --out"):
        evaluate(theirs)
    assert set(heard(tmp_path / "scores" / "p-test")) == {"m1"}
    evaluate(replace(theirs, out=tmp_path / "scores" / "p-test"))  # by name it may
    assert set(heard(tmp_path / "scores" / "p-test")) == {"m2"}
    with Kept(tmp_path / "begun", {"settings": {"model": "a/model"}}):
        refuse_others(tmp_path / "begun", "a/model")
    with pytest.raises(UserError, match="begun holds the scores of a/model, not of b/model"):
        refuse_others(tmp_path / "begun", "b/model")


def test_a_model_that_changed_is_another_at_the_same_path(tmp_path):
    """Of a checkpoint the seal says it, by its checksums."""
    (tmp_path / "7").mkdir()
    for path in ("model.safetensors", "tokenizer.json", "7/files.json", "predictions.parquet"):
        (tmp_path / path).write_text("{}")
    found = weights_of(tmp_path, tmp_path / "7")
    assert set(found) == {"model.safetensors", "tokenizer.json", "7"}
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert weights_of(tmp_path, tmp_path / "7") == found | {"model.safetensors": [2, 1]}
    (tmp_path / "7" / "files.json").write_text("[]")
    assert weights_of(tmp_path, tmp_path / "7")["7"] != found["7"]
    made = {"weights": {"b": [1, 2]}, "settings": {"prompt": (1, 2)}}
    (tmp_path / "scores.json").write_text('{"weights": {"b": [1, 2]}, "settings": {"prompt": [1, 2]}, "wer": 3.0}')
    assert made_before(tmp_path, made)["wer"] == 3.0
    assert made_before(tmp_path, made | {"weights": {"b": [1, 3]}}) == {}


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_scores_that_cannot_be_read_are_none(tmp_path, content):
    (tmp_path / SCORES_FILE).write_text(content)
    assert scores_in(tmp_path) == {}
