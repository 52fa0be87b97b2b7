"""The model card says what was measured, and publishing asks the hub for exactly one commit with everything."""

import base64
import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from data.errors import UserError
from jax_train.model_card import model_card, scores_of
from jax_train.publish import PublishConfig, files_to_add
from jax_train.runlog import write_json
from tests.conftest import REPOSITORY
from tests.hub_commits import commit_hub

RATES = {"wer": 24.7, "cer": 6.139, "wer_normalised": 14.506, "cer_normalised": 4.4965}
NORMALISER = "transformers BasicTextNormalizer(remove_diacritics=False)"
MANIFEST = {
    "source": "/home/anna/cv-corpus-11.0/it",
    "split": "train",
    "language": "it",
    "records": 800,
    "copies": 1,
    "seconds": 1843.7,
    "rejected": {"too long": 2, "silent": 1},
    "recipe": {"name": "standard", "speed": [0.9, 1.1], "speed_probability": 0.8},
}
SETTINGS = {"run": "r", "model": "openai/whisper-base", "language": "it", "learning_rate": 5e-5, "lora": {"rank": 0}}
RECORD = {
    "run": "somewhere",
    "step": 9,
    "format": "huggingface",
    "dtype": "float16",
    "parity": {"max_abs_logit_difference": 1.2e-5, "max_abs_logit": 30.0},
    "rounding": {"max_abs_logit_difference": 0.02, "changed_transcripts": 1},
    "transcripts": {"clips": 4},
}


@pytest.fixture
def run(tmp_path):
    """The files of a run that its card is made of, with scores of its step, of another, and none that is a number."""
    folder = tmp_path / "run"
    scores = RATES | {"normaliser": NORMALISER, "clips": 83, "speech_seconds": 324.0, "model": "run step 9"}
    scores |= {"settings": {"compute_dtype": "float32"}, "intervals": {"over_clips": {"wer": [20.1, 29.9]}}}
    for split, changes in {"test": {}, "old": {"model": "run step 19"}, "empty": {"wer": float("nan")}}.items():
        (folder / f"evaluate-{split}").mkdir(parents=True)
        write_json(folder / f"evaluate-{split}" / "scores.json", scores | {"split": split} | changes)
    write_json(folder / "config.json", SETTINGS)
    write_json(folder / "data.json", MANIFEST)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"curves")
    return folder


@pytest.fixture
def exported(run, tmp_path):
    """An export's folder with its card; the weights are a stand-in."""
    folder = tmp_path / "base-it"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    write_json(folder / "export.json", RECORD | {"run": str(run)})
    (folder / "README.md").write_text(model_card(run, RECORD, "base-it"), encoding="utf-8")
    return folder


def test_the_hub_reads_the_scores_of_the_exported_step_from_the_card(run, exported):
    card = ModelCard.load(exported / "README.md")
    results = card.data.eval_results
    assert {result.dataset_split for result in results} == {"test"}
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in results}
    assert found["WER, as written"] == ("wer", 24.7)
    assert found[f"WER, normalised ({NORMALISER})"] == ("wer", 14.51)
    assert (card.data.model_name, card.data.language, card.data.library_name) == ("base-it", "it", "transformers")
    assert (card.data.base_model, card.data.pipeline_tag) == ("openai/whisper-base", "automatic-speech-recognition")
    written = metadata_load(exported / "README.md")["model-index"][0]
    assert written["results"][0]["dataset"] == {"name": "it", "type": "it", "config": "it", "split": "test"}
    assert [scores["split"] for scores in scores_of(run, 9)] == ["test"]


def test_the_card_names_data_settings_scores_and_checks(exported):
    text = (exported / "README.md").read_text(encoding="utf-8")
    for said in (
        "| test | 24.70 % [20.10, 29.90] | 14.51 % | 6.14 % | 4.50 % |",
        "test: 83 clips, 0.09 hours; computed in float32",
        f"normalised: {NORMALISER}",
        "800 recordings, 0.51 hours",
        "recipe `standard`: speed [0.9, 1.1]; speed_probability 0.8",
        "3 clips left out",
        "| learning_rate | 5e-05 |",
        "they differ by at most 1.2e-05 (the largest is 30.0)",
        "4 of 4 real clips",
        "changed logits by at most 2.0e-02, and 1 of those transcripts",
        'pipeline("automatic-speech-recognition", model="base-it")',
    ):
        assert said in text
    assert "/home/anna" not in text  # the corpus is named, not the machine's folders


@pytest.mark.parametrize(("form", "said"), [("ctranslate2", "faster_whisper"), ("ggml", "whisper-cli -m base-it/ggml")])
def test_the_card_of_another_format_says_how_that_is_used(run, form, said):
    other = {"program": form, "clips": 4, "different": 1, "token_error_rate": 0.025}
    text = model_card(run, RECORD | {"format": form, "program": other}, "base-it")
    assert said in text
    assert f"{form} transcribes 3 of them alike; 2.5% of the tokens differ" in text


def test_a_run_that_was_not_scored_has_no_scores_in_its_card(run):
    text = model_card(run, RECORD | {"step": 7}, "base-it")
    assert "None was measured of this step" in text
    assert "model-index" not in text


@pytest.fixture
def hub():
    """Address of a stand-in for the hub, and what it was asked."""
    with commit_hub() as found:
        yield found


def publish(exported, endpoint, home, token):
    """`make publish` as a process of its own, since the hub's address and token are read when Python starts."""
    words = [".venv/bin/python", "-m", "jax_train.publish", "--repo", "anna/base-it", "--model-dir", str(exported)]
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=REPOSITORY,
        env=environment | ({"HF_TOKEN": token} if token else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_model_card_and_logs_arrive_in_one_commit(exported, hub, tmp_path):
    endpoint, asked = hub
    done = publish(exported, endpoint, tmp_path, "hf_right")
    assert (done.returncode, done.stdout) == (0, f"{endpoint}/anna/base-it/commit/1\n"), done.stderr
    method, path, _, body = next(one for one in asked if one[0] == "POST")
    assert (method, path, json.loads(body)["name"]) == ("POST", "/api/repos/create", "base-it")
    commits = [body for _, path, _, body in asked if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].splitlines()]
    assert lines[0]["value"]["summary"] == "Step 9, by Sussurro"
    files = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
    assert set(files) == {"README.md", "export.json", "runs/events.out.tfevents.1.host"}
    assert base64.b64decode(files["README.md"]["content"]) == (exported / "README.md").read_bytes()
    assert base64.b64decode(files["runs/events.out.tfevents.1.host"]["content"]) == b"curves"
    assert [line["value"]["path"] for line in lines if line["key"] == "lfsFile"] == ["model.safetensors"]
    stored = [body for method, path, _, body in asked if method == "PUT" and path.startswith("/store/")]
    assert stored == [(exported / "model.safetensors").read_bytes()]


def test_without_a_token_or_with_a_wrong_one_it_says_so_in_one_line(exported, hub, tmp_path):
    endpoint, asked = hub
    done = publish(exported, endpoint, tmp_path, "")
    assert (done.returncode, [path for _, path, *_ in asked if "/repos/" in path], done.stderr.count("\n")) == (
        2,
        [],
        1,
    )
    assert done.stderr.startswith("error: no token for the Hugging Face hub: make one")
    done = publish(exported, endpoint, tmp_path, "hf_wrong")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "anna/base-it: the hub refuses" in done.stderr


def test_only_an_export_is_published(tmp_path, exported):
    with pytest.raises(UserError, match="is no export; make it with `make export`"):
        files_to_add(PublishConfig("anna/base-it", tmp_path))
    with pytest.raises(UserError, match="no such folder; give the run that was exported"):
        files_to_add(PublishConfig("anna/base-it", exported, run=tmp_path / "none"))
