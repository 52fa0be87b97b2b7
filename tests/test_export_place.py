"""What stands in an export's way is said in one line, before anything is computed, and nothing of anyone's is lost."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import WhisperForConditionalGeneration

import jax_train.export
import jax_train.export_folder
from data.errors import UserError
from jax_train.checkpoints import copy_small_files
from jax_train.export import REPLACED, ExportConfig, export, working_folder
from jax_train.export_folder import save_tensors, write_folder
from jax_train.model_card import licence_of, model_card
from jax_train.proof import NEW_TOKENS, Proof, _check_rounding, ask, compare_transcripts, prove, until
from jax_train.runlog import write_json
from jax_train.weights import EMBEDDING, TIED, load_model
from tests.test_model_card import RECORD, made_run


class LoadedError(Exception):
    """The run's model is asked for: all that can be checked before has been."""


@pytest.fixture
def run(small_model_dir, tmp_path, monkeypatch):
    """A run with all that an export reads before the weights, at which it stops."""
    folder = made_run(tmp_path / "run")
    copy_small_files(small_model_dir, folder / "model")
    (folder / "checkpoints" / "9").mkdir(parents=True)

    def load_run(*_, **__):
        raise LoadedError

    monkeypatch.setattr(jax_train.export, "load_run", load_run)
    return folder


@pytest.fixture
def earlier(tmp_path):
    """An earlier export."""
    folder = tmp_path / "models" / "base-it"
    folder.mkdir(parents=True)
    write_json(folder / "export.json", RECORD)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "vocab.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("place", ["file/model", "/proc/x/model", "link", f"{'n' * 250}"])
def test_a_place_that_cannot_be_written_to_is_said_first(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"(cannot be written there .*|a link to what is not there; .*)give another"):
        export(ExportConfig(tmp_path / "no-run", tmp_path / place))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.parametrize("record", ["{", "[]"])
def test_a_broken_record_of_an_earlier_export_is_said(tmp_path, earlier, record):
    (earlier / "export.json").write_text(record)
    with pytest.raises(UserError, match=r"export\.json: .*; give another MODEL_DIR, or move it away"):
        export(ExportConfig(tmp_path / "no-run", earlier))


def test_foreign_things_in_an_earlier_export_are_named_and_kept(run, earlier):
    with pytest.raises(LoadedError):
        export(ExportConfig(run, earlier))
    (earlier / ".git").mkdir()
    for name in ("thesis.txt", "w.png", "z.png"):
        (earlier / name).touch()
    with pytest.raises(UserError, match=r"base-it: holds \.git, thesis\.txt, w\.png and 1 more, which no export"):
        export(ExportConfig(run, earlier))
    assert len(list(earlier.iterdir())) == 10
    assert [path.name for path in earlier.parent.iterdir()] == ["base-it"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, r"config\.json: not there"),
        ("config.json", "{", r"run/config\.json: cannot be read"),
        ("data.json", None, r"data\.json: not there; the model card needs it"),
        ("model/config.json", "{", r"model/config\.json: cannot be read"),
        ("model/generation_config.json", "[]", r"generation_config\.json: holds no JSON object"),
        ("model/tokenizer.json", None, r"has no tokenizer\.json"),
        ("model/tokenizer.json", "{", r"tokenizer\.json: not a tokenizer"),
        ("evaluate-test/scores.json", '{"wer"', r"evaluate-test/scores\.json: cannot be read .*; evaluate again"),
        ("evaluate-test/scores.json", '{"model": "run step 9"}', r"scores\.json: lacks split, .*settings; evaluate"),
    ],
)
def test_a_broken_file_of_the_run_is_said_before_its_model_is_loaded(run, tmp_path, file, content, said):
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    with pytest.raises(UserError, match=said):
        export(ExportConfig(run, tmp_path / "models" / "base-it"))
    assert list((tmp_path / "models").iterdir()) == []


def test_what_a_killed_export_left_goes_and_what_one_runs_in_stays(tmp_path):
    """A killed one holds no lock any more; and what it had moved out of the way gets its name back."""
    final, place = tmp_path / "model", tmp_path / ".model.partial"
    (place / REPLACED).mkdir(parents=True)
    (place / REPLACED / "export.json").touch()
    (place / "huggingface").mkdir()
    (place / "reference.safetensors").touch()
    with working_folder(final) as found:
        assert [path.name for path in found.iterdir()] == [".lock"]
        assert (final / "export.json").is_file()
        with (
            pytest.raises(UserError, match="model: another export to it is running; wait for its end"),
            working_folder(final),
        ):
            pass
        assert (place / ".lock").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_told_as_of_any_other_file(tmp_path, monkeypatch):
    """With safetensors' own words, and as CTranslate2's converter ends, in a process of its own."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(jax_train.export_folder, "save_file", full)
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '.*/model\.safetensors'"):
        save_tensors({}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "converts.py").write_text("raise OSError(28, 'No space left on device', 'model.bin')")
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device"):
        ask("converts")


def test_the_licence_of_an_earlier_card_is_kept(run, earlier):
    card = earlier / "README.md"
    stated = "license: other\nlicense_name: mine\nlicense_link: https://example.org/mine\n"
    card.write_text(f"---\n{stated}language: en\n---\n# Ours\n")
    text = model_card(run, RECORD, "base-it", licence_of(card))
    assert stated in text
    assert "language: it\n" in text
    assert licence_of(earlier / "none.md") == {}


@pytest.fixture(scope="module")
def untied(small_model_dir, tmp_path_factory):
    """A model that says its output matrix is its own, and holds it, though it equals the embedding."""
    folder = shutil.copytree(small_model_dir, tmp_path_factory.mktemp("untied") / "model")
    for name, more in {
        "config.json": {"tie_word_embeddings": False},
        "tokenizer_config.json": {"name_or_path": "/home/anna/m", "special_tokens_map_file": "/home/anna/s.json"},
    }.items():
        write_json(folder / name, json.loads((folder / name).read_text()) | more)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {TIED: tensors[EMBEDDING]}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_untied_base_model_is_exported_tied_and_without_its_paths(untied, run, tmp_path):
    shutil.rmtree(run / "model")
    (run / "model").symlink_to(untied)
    write_folder(load_model(untied), run, tmp_path / "model")
    model, report = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    settings = (tmp_path / "model" / "tokenizer_config.json").read_text()
    assert "/home/anna" not in settings
    assert json.loads(settings).items() <= json.loads((untied / "tokenizer_config.json").read_text()).items()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_weight_that_is_no_number_is_called_so(small_model_dir, dtype):
    model = load_model(small_model_dir)
    model.decoder.layers[0].fc1.bias[...] = model.decoder.layers[0].fc1.bias[...].at[0].set(np.nan)
    with pytest.raises(UserError, match=r"decoder\.layers\.0\.fc1\.bias has a weight that is NaN.* earlier checkpoint"):
        prove(model, dtype, np.zeros((1, 3000, 80), np.float32), None)


def test_rounding_may_change_a_logit_by_a_hundredth_of_the_largest_and_to_no_number_never():
    before = np.array([-50.0, 10.0])
    found = _check_rounding(before, np.array([-49.5, 10.0]), "float16")
    assert found == {"max_abs_logit_difference": 0.5, "max_abs_logit": 50}
    for value in (-49.4, np.nan):
        with pytest.raises(UserError, match=r"float16 weights change logits by up to .* may at most by 0\.5; export"):
            _check_rounding(before, np.array([value, 10.0]), "float16")


def test_transcripts_are_compared_up_to_their_end_and_by_the_share_of_tokens_that_differ():
    """By hand: one token is inserted beside five, and what stands behind an end is nobody's."""
    proof = Proof({"transcripts": np.array([[1, 2, 3, 9], [4, 5, 9, 9]])}, SimpleNamespace(end=9), {})
    theirs = [[1, 2, 3], [4, 6, 5, 9, 7]]
    assert compare_transcripts(proof, theirs, str, 0.2) == {"clips": 2, "different": 1, "token_error_rate": 0.2}
    with pytest.raises(UserError, match=r"1 of 2 clips .* '\[4, 6, 5\]' in place of '\[4, 5\]'; 20.0% of the tokens"):
        compare_transcripts(proof, theirs, str, 0.19)
    assert until([*range(NEW_TOKENS), NEW_TOKENS], NEW_TOKENS) == list(range(NEW_TOKENS))
