"""Export: a folder transformers loads whole, equal logits and transcripts, and otherwise nothing of the final name."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface_hub import metadata_load
from safetensors.numpy import load_file, save_file
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor, pipeline

import jax_train.export
from data.errors import UserError
from jax_train.checkpoints import load_run
from jax_train.config import Lora, TrainConfig
from jax_train.export import ExportConfig, export, write_folder
from jax_train.proof import real_windows, rounded
from jax_train.runlog import write_json
from jax_train.train import train
from jax_train.weights import load_model
from tests.conftest import training_on
from tests.made_models import END_OF_TEXT, FEW_WORDS


@pytest.fixture(scope="module")
def run(small_model_dir, small_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = str(small_model_dir)
    with training_on(2):
        train(TrainConfig(shards=small_shards, run=folder, model=model, batch_size=2, steps=2, learning_rate=1e-2))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    return folder, export(ExportConfig(run, folder))


def test_the_record_says_what_was_compared(run, exported):
    folder, record = exported
    assert json.loads((folder / "export.json").read_text()) == record
    assert record["run"] == str(run)
    assert record["step"] == 2
    parity = record["parity"]
    assert parity["max_abs_logit_difference"] <= 3e-4 * parity["max_abs_logit"]
    said = record["transcripts"]
    assert (said["clips"], said["different"], len(said["texts"])) == (4, 0, 4)
    assert record["rounding"] == {}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # no temporary folder left


def test_transformers_loads_the_folder_whole_and_computes_the_runs_logits(run, exported):
    folder, _ = exported
    model, report = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rng = np.random.default_rng(3)
    log_mel = rng.uniform(-1, 1, (1, 3000, 80)).astype(np.float32)
    tokens = rng.integers(0, FEW_WORDS, (1, 20)).astype(np.int32)
    ours = np.asarray(load_run(run)[0](jnp.asarray(log_mel), jnp.asarray(tokens)))
    with torch.no_grad():
        theirs = model.eval()(
            input_features=torch.from_numpy(log_mel.transpose(0, 2, 1).copy()),
            decoder_input_ids=torch.from_numpy(tokens).long(),
        ).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())  # float32 rounding


def test_the_folder_is_trained_not_copied(exported, small_model_dir):
    before, after = (load_file(folder / "model.safetensors") for folder in (small_model_dir, exported[0]))
    assert before.keys() == after.keys()
    name = "model.decoder.embed_tokens.weight"
    assert not np.array_equal(before[name], after[name])
    positions = "model.encoder.embed_positions.weight"
    np.testing.assert_array_equal(before[positions], after[positions])


def test_generation_and_processor_are_those_of_the_run(exported):
    folder, _ = exported
    lower = END_OF_TEXT - FEW_WORDS  # than base's numbers
    fields = json.loads((folder / "generation_config.json").read_text())
    assert (fields["language"], fields["task"], fields["max_length"]) == ("it", "transcribe", 448)
    assert fields["lang_to_id"]["<|it|>"] == 50274 - lower
    assert fields["task_to_id"]["transcribe"] == 50359 - lower
    assert (fields["no_timestamps_token_id"], fields["return_timestamps"]) == (50363 - lower, False)
    assert fields["begin_suppress_tokens"] == [220, 50257 - lower]
    assert len(fields["suppress_tokens"]) == 44 + 6  # those of OpenAI's 82 words that the model has, and special tokens
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    for gone in ("forced_decoder_ids", "max_length", "_name_or_path"):
        assert gone not in config
    assert "forced_decoder_ids" not in fields
    processor = WhisperProcessor.from_pretrained(folder)
    assert processor.tokenizer.decode(processor.tokenizer(" Così è.").input_ids, skip_special_tokens=True) == " Così è."
    extractor = AutoProcessor.from_pretrained(folder).feature_extractor
    assert (extractor.feature_size, extractor.sampling_rate, extractor.nb_max_frames) == (80, 16_000, 3000)


def test_the_pipeline_writes_what_generate_does(exported):
    folder, _ = exported
    audio = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    greedy = {"num_beams": 1, "max_new_tokens": 8}  # a pipeline's own default is five beams
    pipe = pipeline("automatic-speech-recognition", model=str(folder))
    heard = pipe({"raw": audio, "sampling_rate": 16_000}, generate_kwargs=greedy)
    processor = AutoProcessor.from_pretrained(folder)
    features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = WhisperForConditionalGeneration.from_pretrained(folder).generate(features, **greedy)
    assert tokens.shape[1] > 1
    assert heard["text"] == processor.batch_decode(tokens, skip_special_tokens=True)[0]


@pytest.mark.usefixtures("proved_here", "two_devices")
def test_adapters_are_merged_and_stored_in_float16(small_model_dir, small_shards, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "model"
    adapters = Lora(rank=4, targets=("q_proj", "v_proj"))
    settings = {"batch_size": 2, "steps": 2, "learning_rate": 1e-1, "lora": adapters}
    train(TrainConfig(shards=small_shards, run=run, model=str(small_model_dir), **settings))
    record = export(ExportConfig(run, folder, dtype="float16"))
    assert 0 < record["rounding"]["max_abs_logit_difference"] <= 0.01 * record["rounding"]["max_abs_logit"]
    before, after = (load_file(place / "model.safetensors") for place in (small_model_dir, folder))
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {np.dtype(np.float16)}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    adapted = {name for name in after if not np.array_equal(after[name], before[name].astype(np.float16))}
    assert adapted == {name for name in after if name.endswith(("q_proj.weight", "v_proj.weight"))}


@pytest.mark.usefixtures("proved_here")
def test_an_earlier_export_is_replaced_and_a_foreign_folder_is_not(run, exported, tmp_path):
    again = tmp_path / "model"
    shutil.copytree(exported[0], again)
    card = again / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("---\n", "---\nlicense: mit\n", 1), encoding="utf-8")
    record = export(ExportConfig(run, again, dtype="bfloat16", clips=2))
    assert json.loads((again / "export.json").read_text()) == record
    assert record["transcripts"]["clips"] == 2
    assert metadata_load(card)["license"] == "mit"
    assert (again / "model.safetensors").stat().st_size < 0.6 * (exported[0] / "model.safetensors").stat().st_size
    model = WhisperForConditionalGeneration.from_pretrained(again)
    assert model.dtype == torch.bfloat16
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: exists and is no export of ours"):
        export(ExportConfig(run, tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    write_json(again / "export.json", record | {"format": "ggml"})
    with pytest.raises(UserError, match="holds a ggml export; give another MODEL_DIR for huggingface"):
        export(ExportConfig(run, again))


@pytest.mark.usefixtures("proved_here")
def test_another_format_is_proved_by_its_own_program(run, tmp_path):
    record = export(ExportConfig(run, tmp_path / "ct2", format="ctranslate2", dtype="float16"))
    assert record["program"] == {"program": "ctranslate2", "clips": 4, "different": 0, "token_error_rate": 0.0}
    assert {path.name for path in (tmp_path / "ct2").iterdir()} >= {"model.bin", "tokenizer.json", "export.json"}
    with pytest.raises(UserError, match=r"feed-forwards of 32 and 32, whisper\.cpp has those of 4 × d_model = 64"):
        export(ExportConfig(run, tmp_path / "cpp", format="ggml"))  # the tests' model has not Whisper's proportions
    assert {path.name for path in tmp_path.iterdir()} == {"ct2"}


def test_a_type_that_a_format_does_not_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="--dtype int8: huggingface takes float32, float16, bfloat16"):
        ExportConfig(tmp_path, tmp_path / "model", dtype="int8")
    with pytest.raises(UserError, match="--dtype float32: ggml takes float16"):
        ExportConfig(tmp_path, tmp_path / "model", format="ggml", dtype="float32")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("changed", "logits differ"),
        ("missing", r"fc1\.weight"),
        ("silent", "4 of 4 clips are transcribed otherwise than by the trainer"),
    ],
)
def test_an_export_that_differs_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch, fault, said):
    def faulty(model, run, folder, dtype):
        write_folder(model, run, folder, dtype)
        tensors = load_file(folder / "model.safetensors")
        generation = json.loads((folder / "generation_config.json").read_text())
        if fault == "changed":
            tensors["model.decoder.layers.0.fc1.weight"] = tensors["model.decoder.layers.0.fc1.weight"] * 1.5
        elif fault == "missing":
            del tensors["model.decoder.layers.0.fc1.weight"]
        else:  # all weights right, but nothing may be written
            generation["suppress_tokens"] = list(range(FEW_WORDS))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "generation_config.json", generation)

    monkeypatch.setattr(jax_train.export, "write_folder", faulty)
    with pytest.raises(UserError, match=f"export refused: .*{said}"):
        export(ExportConfig(run, tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_shards_that_were_moved_are_asked_for_and_taken_from_where_they_are(run, small_shards, tmp_path):
    moved = shutil.copytree(run, tmp_path / "run")
    write_json(moved / "config.json", json.loads((run / "config.json").read_text()) | {"shards": "no/such/shards"})
    with pytest.raises(UserError, match=r"proved on real clips of its run: no shards: no/such/shards .* SHARDS="):
        export(ExportConfig(moved, tmp_path / "model"))
    assert real_windows(moved, small_shards, 3, 80).shape == (3, 3000, 80)
    with pytest.raises(UserError, match="has 80 mel bins, the run's model takes 128"):
        real_windows(moved, small_shards, 3, 128)


def test_a_weight_that_float16_cannot_hold_is_refused(small_model_dir):
    model = load_model(small_model_dir)
    model.decoder.layers[0].fc1.bias[...] = model.decoder.layers[0].fc1.bias[...].at[0].set(1e5)
    with pytest.raises(
        UserError, match=r"decoder\.layers\.0\.fc1\.bias has a weight beyond 65504\.0, float16's largest"
    ):
        rounded(model, "float16")


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        export(ExportConfig(tmp_path, tmp_path / "model"))


def test_a_run_without_a_checkpoint_is_said(run, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    for path in (run / "model").iterdir():
        (tmp_path / "run" / "model" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="no complete checkpoint"):
        export(ExportConfig(tmp_path / "run", tmp_path / "model"))
