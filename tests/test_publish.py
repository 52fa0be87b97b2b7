"""Publishing asks the hub for exactly one commit with everything, and says in one line why it was refused."""

import base64
import json
import subprocess
import sys

import pytest

from data.errors import UserError
from jax_train.model_card import model_card
from jax_train.publish import PublishConfig, files_to_add, publish
from jax_train.runlog import write_json
from tests.conftest import REPOSITORY
from tests.hub_commits import FAULTS, ask_here, commit_hub
from tests.test_model_card import MANIFEST, RECORD, SETTINGS, made_run


@pytest.fixture
def run(tmp_path):
    """A run's folder."""
    return made_run(tmp_path / "run")


@pytest.fixture
def exported(run, tmp_path):
    """An export's folder with its card; the weights are a stand-in."""
    folder = tmp_path / "base-it"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    write_json(folder / "export.json", RECORD | {"run": str(run)})
    (folder / "README.md").write_text(model_card(run, RECORD, "base-it"), encoding="utf-8")
    return folder


@pytest.fixture
def hub():
    """Address of a stand-in for the hub, and what it was asked."""
    with commit_hub() as found:
        yield found


def publish_as_command(exported, endpoint, home, token):
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
    done = publish_as_command(exported, endpoint, tmp_path, "hf_right")
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
    done = publish_as_command(exported, endpoint, tmp_path, "")
    assert (done.returncode, [path for _, path, *_ in asked if "/repos/" in path], done.stderr.count("\n")) == (
        2,
        [],
        1,
    )
    assert done.stderr.startswith("error: no token for the Hugging Face hub: make one")
    done = publish_as_command(exported, endpoint, tmp_path, "hf_wrong")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "anna/base-it: the hub refuses" in done.stderr


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the client's own way to its HTTP library
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.part)
def test_what_fails_at_the_hub_is_one_line_that_says_what_to_do(exported, monkeypatch, fault):
    with commit_hub(fault=fault) as (endpoint, asked):
        ask_here(monkeypatch, endpoint)
        with pytest.raises(UserError, match=f"^[^\n]*{fault.said}[^\n]*$"):
            publish(PublishConfig("anna/base-it", exported))
    assert not [path for _, path, *_ in asked if "/commit/" in path]


def test_neither_an_offline_hub_nor_what_is_no_token_is_tried(exported, monkeypatch):
    ask_here(monkeypatch, "http://127.0.0.1:9", offline=True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so the hub is not asked; unset it"):
        publish(PublishConfig("anna/base-it", exported))
    monkeypatch.setenv("HF_TOKEN", "hf_perché")
    with pytest.raises(UserError, match="has signs that no token has; copy the token again"):
        publish(PublishConfig("anna/base-it", exported))


def test_hidden_files_stay_here_and_logs_that_are_gone_are_told(exported, run, capsys):
    for name in (".git/config", ".cache/huggingface/x", "sub/.secret"):
        (exported / name).parent.mkdir(parents=True, exist_ok=True)
        (exported / name).write_text("mine")
    config = PublishConfig("anna/base-it", exported)
    whole = {"README.md", "export.json", "model.safetensors"}
    assert set(files_to_add(config)) == whole | {"runs/events.out.tfevents.1.host"}
    assert capsys.readouterr().err == ""
    run.rename(run.with_name("moved"))
    assert set(files_to_add(config)) == whole
    said = f"{run}/tensorboard: no TensorBoard logs there, so none are published; give the run with RUN=\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("record", "said"),
    [("{", r"export\.json: cannot be read .*; export it again"), ("[]", "no JSON object"), ("{}", "lacks run, step")],
)
def test_an_exports_broken_record_is_said(exported, record, said):
    (exported / "export.json").write_text(record)
    with pytest.raises(UserError, match=said):
        files_to_add(PublishConfig("anna/base-it", exported))


def test_only_an_export_is_published(tmp_path, exported):
    with pytest.raises(UserError, match="is no export; make it with `make export`"):
        files_to_add(PublishConfig("anna/base-it", tmp_path))
    with pytest.raises(UserError, match="no such folder; give the run that was exported"):
        files_to_add(PublishConfig("anna/base-it", exported, run=tmp_path / "none"))
