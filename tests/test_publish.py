"""The model card says what was measured, and publishing asks the hub for exactly one commit with everything."""

import base64
import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from data.errors import UserError
from jax_train.card_scores import scores_of
from jax_train.model_card import base_model, model_card, renamed
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
    "clean_seconds": 900.0,
    "rejected": {"too long": 2, "silent": 1},
    "recipe": {"name": "standard", "speed": [0.9, 1.1], "speed_probability": 0.8},
}
SETTINGS = {"run": "r", "model": "openai/whisper-base", "language": "it", "learning_rate": 5e-5, "lora": {"rank": 0}}
SETTINGS |= {"base_model": "openai/whisper-base"}
RECORD = {
    "name": "base-it",
    "run": "somewhere",
    "step": 9,
    "language": "it",
    "format": "huggingface",
    "dtype": "float16",
    "parity": {"max_abs_logit_difference": 1.2e-5, "max_abs_logit": 30.0},
    "rounding": {"max_abs_logit_difference": 0.02, "changed_transcripts": 1},
    "transcripts": {"clips": 4},
}


TEST = {"source": "/mnt/fleurs/it", "split": "test", "language": "it", "index_sha256": "0123456789abcdef" * 4}


@pytest.fixture
def run(tmp_path):
    """The files of a run that its card is made of, with scores of its step, of another, and none that is a number."""
    folder = tmp_path / "run"
    scores = RATES | {"normaliser": NORMALISER, "clips": 83, "speech_seconds": 324.0, "model": "run step 9"}
    scores |= {"settings": {"compute_dtype": "float32"}, "intervals": {"over_clips": {"wer": [20.1, 29.9]}}}
    scores |= {"data": TEST}
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
    fields = {"name": "fleurs/it", "type": "fleurs-it", "config": "it", "split": "test"}  # not the training corpus
    assert [result["dataset"] for result in written["results"]] == [fields]
    assert [scores["split"] for scores in scores_of(run, 9)] == ["test"]


def test_only_the_score_of_a_whole_split_of_a_known_corpus_is_given_to_the_hub(run):
    """Thinned, cut short, in part, folded, or from before the corpus was noted: in the table with what it is."""
    whole = json.loads((run / "evaluate-test" / "scores.json").read_text())
    others = {
        "thin": {"windows": "thinned"},
        "some": {"limit": 40},
        "fold": {"fold": {"of": 5, "number": 2}},
        "short": {"asked_new_tokens": 60},
        "beams": {"num_beams": 5, "timestamps": {"begin": 50_364}},
    }
    for name, settings in others.items():
        changed = whole | {"split": name, "settings": whole["settings"] | settings}
        (run / f"evaluate-{name}").mkdir()
        write_json(run / f"evaluate-{name}" / "scores.json", changed)
    (run / "evaluate-ancient").mkdir()
    ancient = {key: value for key, value in whole.items() if key != "data"}
    write_json(run / "evaluate-ancient" / "scores.json", ancient | {"split": "ancient"})
    text = model_card(run, RECORD, "base-it")
    (run / "README.md").write_text(text, encoding="utf-8")
    results = ModelCard.load(run / "README.md").data.eval_results
    beams = "WER, as written; 5 beams, whole windows, with timestamps"
    names = {
        result.metric_name
        for result in results
        if result.metric_type == "wer" and "normalised" not in result.metric_name
    }
    assert names == {"WER, as written", beams}
    assert len(results) == 8
    for said in (
        "- fleurs/it, thin (in part or thinned): 83 clips, 0.09 hours; greedy, thinned windows; computed in float32; "
        "not the split's score: thinned windows, so not the score of whole windows; SHA-256",
        "not the split's score: the split's first 40 clips alone",
        "not the split's score: fold 2 of 5 alone",
        "not the split's score: transcripts cut after 60 tokens",
        "- fleurs/it, beams: 83 clips, 0.09 hours; 5 beams, whole windows, with timestamps; computed in float32",
        "| corpus not recorded, ancient | 24.70 %",
    ):
        assert said in text


def test_a_base_model_is_named_to_the_hub_only_if_it_is_the_hubs(run):
    for settings, said in [
        ({"base_model": "anna/whisper-voci"}, "anna/whisper-voci"),
        ({"model": "models/tiny", "base_model": None}, None),
        ({"model": "openai/whisper-base"}, "openai/whisper-base"),  # runs of earlier versions
        ({"model": "models/tiny"}, None),
    ]:
        old = {"model": "models/tiny", "language": "it"}
        assert base_model(old | settings) == said
    write_json(run / "config.json", SETTINGS | {"model": "models/tiny", "base_model": None})
    text = model_card(run, RECORD, "base-it")
    assert "base_model:" not in text
    assert "fine-tuned for `it` from tiny, 9 steps." in text


def test_a_renamed_card_keeps_what_people_wrote_and_shows_how_to_get_the_model(run):
    for form, fetched, used in [
        ("huggingface", "", 'pipeline("automatic-speech-recognition", model="anna/base-it")'),
        ("ctranslate2", "hf download anna/base-it --local-dir base-it", 'WhisperModel("base-it")'),
        ("ggml", "hf download anna/base-it --local-dir base-it", "whisper-cli -m base-it/ggml-model.bin -l it"),
    ]:
        record = RECORD | {"format": form, "name": "local-folder"}
        card = model_card(run, record, "local-folder").replace("## Data", "Ours, with love.\n\n## Data")
        assert "hf download" not in card
        published = renamed(card, record, "local-folder", "anna/base-it")
        assert fetched in published
        assert used in published
        assert "# anna/base-it\n" in published
        assert "Ours, with love." in published
        assert "local-folder" not in published
        (run / "README.md").write_text(published, encoding="utf-8")
        assert ModelCard.load(run / "README.md").data.model_name == "anna/base-it"


def test_the_card_names_data_settings_scores_and_checks(exported):
    text = (exported / "README.md").read_text(encoding="utf-8")
    for said in (
        "| fleurs/it, test | 24.70 % [20.10, 29.90] | 14.51 % | 6.14 % | 4.50 % |",
        "fleurs/it, test: 83 clips, 0.09 hours; greedy, whole windows; computed in float32; SHA-256",
        "measured on the checkpoint, before conversion to huggingface, float16",
        "- cv-corpus-11.0/it, split `train`, language `it`\n- 400 clips, 0.25 hours\n",
        "- augmented copies: 1 of each clip; with them 800 recordings, 0.51 hours\n",
        f"normalised: {NORMALISER}",
        "recipe `standard`: speed [0.9, 1.1]; speed_probability 0.8",
        "- 3 more were left out",
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
    card = base64.b64decode(files["README.md"]["content"]).decode()
    assert 'model="anna/base-it"' in card
    assert "- name: anna/base-it\n" in card
    assert card.replace("anna/base-it", "base-it") == (exported / "README.md").read_text(encoding="utf-8")
    record = json.loads(base64.b64decode(files["export.json"]["content"]))
    assert record == json.loads((exported / "export.json").read_text()) | {"run": "run"}  # no path of this machine
    assert base64.b64decode(files["runs/events.out.tfevents.1.host"]["content"]) == b"curves"
    assert [line["value"]["path"] for line in lines if line["key"] == "lfsFile"] == ["model.safetensors"]
    stored = [body for method, path, _, body in asked if method == "PUT" and path.startswith("/store/")]
    assert stored == [(exported / "model.safetensors").read_bytes()]


def test_an_average_is_published_with_the_logs_of_the_run_behind_it_and_its_recipe(run, exported, tmp_path):
    average = tmp_path / "run-average"
    average.mkdir()
    origin = {
        "averaged_run": str(run),
        "averaged_steps": [3, 9],
        "averaged_recipe": {"lora": {"rank": 8}, "freeze": []},
    }
    write_json(average / "config.json", SETTINGS | origin)
    write_json(average / "data.json", MANIFEST)
    write_json(exported / "export.json", RECORD | {"run": str(average)})
    files = files_to_add(PublishConfig("anna/base-it", exported))
    assert files["runs/events.out.tfevents.1.host"] == run / "tensorboard" / "events.out.tfevents.1.host"
    text = model_card(average, RECORD, "base-it")
    assert "the mean of the weights after steps 3, 9." in text
    assert '| lora | {"rank": 8} |' in text
    assert "| averaged_steps | [3, 9] |" in text
    assert str(tmp_path) not in text


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
