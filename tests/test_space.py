"""A Space's folder is one that Spaces accept, whole or not there, and says which model it serves."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
from huggingface_hub import ModelCard, SpaceHardware, metadata_load

from serving.errors import UserError
from serving.space import SpaceConfig, is_model_file, push, write_space, write_token
from tests.hub_commits import FAULTS, Fault, ask_here, commit_hub
from tests.hub_server import hub_server
from tests.page_process import REPOSITORY

COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
LONGEST_DESCRIPTION = 60
"""Both from the hub's documentation, "Spaces Configuration Reference"."""


def front_matter(space: Path) -> dict[str, object]:
    return metadata_load(space / "README.md")


@pytest.fixture(scope="module")
def spaces(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Space for either hardware."""
    place = tmp_path_factory.mktemp("spaces")
    return {
        hardware: write_space(SpaceConfig(str(small_model_dir), place / hardware, hardware=hardware))
        for hardware in ("cpu-basic", "zero-a10g")
    }


@pytest.mark.parametrize("hardware", ["cpu-basic", "zero-a10g"])
def test_the_front_matter_holds_only_values_that_spaces_document(spaces: dict[str, Path], hardware: str) -> None:
    space = spaces[hardware]
    found = front_matter(space)
    assert found["title"]
    assert re.fullmatch(r"[\U0001F300-\U0001FAFF]", found["emoji"])  # one emoji, and nothing else
    assert {found["colorFrom"], found["colorTo"]} <= COLORS
    assert found["sdk"] == "gradio"
    assert found["sdk_version"] == gradio.__version__
    assert found["python_version"] in ("3.10", "3.12")  # what ZeroGPU has
    assert (space / found["app_file"]).is_file()
    assert 0 < len(found["short_description"]) <= LONGEST_DESCRIPTION
    assert SpaceHardware(found["suggested_hardware"]) == hardware
    assert found["license"] == "mit"
    assert all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in found["tags"])
    known = {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "models"}
    known |= {"tags", "preload_from_hub", "short_description", "suggested_hardware", "license"}
    assert set(found) <= known


def test_requirements_are_the_tested_versions_and_zerogpu_gets_a_pytorch_it_has(spaces: dict[str, Path]) -> None:
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line[0] != "#"
    )
    asked = {hardware: (space / "requirements.txt").read_text() for hardware, space in spaces.items()}
    lines = [line for line in asked["cpu-basic"].splitlines() if not line.startswith(("#", "yt-dlp"))]
    assert {name: pinned[name] for name, _ in (line.split("==") for line in lines)} == dict(
        line.split("==") for line in lines
    )
    named = re.findall(r"^[\w.-]+", (REPOSITORY / "serving/requirements.txt").read_text(), re.MULTILINE)
    assert set(named) == set(re.findall(r"^[\w.-]+", asked["cpu-basic"], re.MULTILINE))
    assert asked["zero-a10g"] == re.sub("torch==.*", "torch>=2.8,<2.12", asked["cpu-basic"])


def test_a_space_has_no_debian_packages_for_apt_would_take_comments_for_names(spaces: dict[str, Path]) -> None:
    assert (spaces["cpu-basic"] / "packages.txt").read_bytes() == b""


def test_a_space_holds_the_model_and_nothing_of_this_machine(spaces: dict[str, Path], small_model_dir: Path) -> None:
    space = spaces["cpu-basic"]
    assert json.loads((space / "space.json").read_text()) == {"name": small_model_dir.name, "model": "model"}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (space / "model" / name).read_bytes() == (small_model_dir / name).read_bytes()
    for path in space.rglob("*"):
        assert path.is_dir() or str(small_model_dir).encode() not in path.read_bytes(), path
    assert ".safetensors filter=lfs" in (space / ".gitattributes").read_text()
    assert not list(space.rglob("__pycache__"))


def test_paths_in_an_export_stay_here_and_its_broken_files_are_said(small_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small_model_dir, tmp_path / "base-it")
    paths = {
        "export.json": {"run": "/home/anna/runs/1"},
        "tokenizer_config.json": {"name_or_path": "/home/anna/m", "special_tokens_map_file": "/home/anna/.cache/s"},
    }
    for name, fields in paths.items():
        (model / name).write_text(json.dumps({"kept": "è"} | fields))
    (model / "checkpoint-5").mkdir()
    (model / "checkpoint-5/model.safetensors").write_text("of a training, not the model")
    space = write_space(SpaceConfig(str(model), tmp_path / "space"))
    assert not (space / "model/checkpoint-5").exists()
    assert not is_model_file("checkpoint-5/model.safetensors")  # on the hub neither
    assert [json.loads((space / "model" / name).read_text()) for name in paths] == [{"kept": "è"}] * 2
    for name, broken, said in (
        ("README.md", "---\nbase_model: [\n---\n", r"README\.md: the metadata, between its --- lines, cannot be read"),
        ("export.json", "[]", r"base-it/export\.json: is no JSON object .*export the model again"),
    ):
        (model / name).write_text(broken)
        with pytest.raises(UserError, match=said):
            write_space(SpaceConfig(str(model), tmp_path / "other"))
        (model / name).unlink()
    assert not (tmp_path / "other").exists()


def test_an_exports_card_says_which_model_it_was_made_from(small_model_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "base-it"
    model.symlink_to(small_model_dir)
    card = small_model_dir / "README.md"
    card.write_text("---\nbase_model: openai/whisper-base\n---\n# base-it\n")
    try:
        space = write_space(SpaceConfig(str(model), tmp_path / "space"))
        assert ModelCard.load(space / "model/README.md").data.base_model == "openai/whisper-base"
    finally:
        card.unlink()
    assert front_matter(space)["models"] == ["openai/whisper-base"]


def test_an_earlier_space_is_replaced_and_anything_else_is_left_alone(small_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "space"
    config = SpaceConfig(str(small_model_dir), out)
    write_space(config)
    (out / "model" / "old.json").write_text("{}")
    write_space(config)
    assert not (out / "model" / "old.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["space"]
    (out / ".git").mkdir()
    with pytest.raises(UserError, match="is no Space that this command wrote"):
        write_space(config)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="is no Space that this command wrote"):
        write_space(SpaceConfig(str(small_model_dir), tmp_path / "photos"))
    assert list((tmp_path / "photos").iterdir()) == []


def test_where_no_folder_can_be_is_said_in_a_line(small_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^[^\n]*file/space: cannot be written \(File exists\); give another --out$"):
        write_space(SpaceConfig(str(small_model_dir), tmp_path / "file/space"))
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        write_space(SpaceConfig(str(small_model_dir), Path("/proc/space")))


def test_what_is_no_model_makes_no_space(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        write_space(SpaceConfig(str(tmp_path / "empty"), tmp_path / "space"))
    with pytest.raises(UserError, match="neither a folder here nor a model's name on the hub"):
        write_space(SpaceConfig(str(tmp_path / "no/such/folder"), tmp_path / "space"))
    assert not (tmp_path / "space").exists()


def command(endpoint: str, tmp_path: Path, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """The command as people run it, against a hub that stands in; the hub's address is read when Python starts."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "serving.space", "--out", str(tmp_path / "space"), *arguments],
        cwd=REPOSITORY,
        env=os.environ | hub,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_on_the_hub_is_named_not_copied(small_model_dir: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    (hub / "anna").mkdir(parents=True)
    (hub / "anna/base-it").symlink_to(small_model_dir)
    with hub_server(hub) as (endpoint, _):
        done = command(endpoint, tmp_path, "--model", "anna/base-it")
        assert done.returncode == 0, done.stderr
        unknown = command(endpoint, tmp_path, "--model", "anna/nothing")
    found = front_matter(tmp_path / "space")
    assert found["models"] == ["anna/base-it"]
    (preloaded,) = found["preload_from_hub"]
    name, files = preloaded.split(" ")
    assert name == "anna/base-it"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files.split(","))
    assert not (tmp_path / "space/model").exists()
    assert json.loads((tmp_path / "space/space.json").read_text()) == {"name": "base-it", "model": "anna/base-it"}
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert unknown.stderr.startswith("error: anna/nothing: no folder here, and of a model of that name the hub says")


def test_a_space_is_pushed_in_one_commit_that_takes_old_code_away(small_model_dir: Path, tmp_path: Path) -> None:
    asked_for = ("--model", str(small_model_dir), "--repo", "anna/base-it")
    with commit_hub("README.md", "serving/old.py", "notes.txt") as (endpoint, asked):
        done = command(endpoint, tmp_path, *asked_for, token="hf_right")
        refused = command(endpoint, tmp_path, *asked_for, token="hf_wrong")
    assert (done.returncode, done.stdout) == (0, f"{endpoint}/spaces/anna/base-it\n"), done.stderr
    made = json.loads(next(body for _, path, _, body in asked if path.endswith("/repos/create")))
    assert (made["type"], made["sdk"], made["name"]) == ("space", "gradio", "base-it")
    (commit,) = [body for _, path, token, body in asked if "/commit/" in path and token == "Bearer hf_right"]
    lines = [json.loads(line) for line in commit.splitlines()]
    found = {kind: {line["value"]["path"] for line in lines if line["key"] == kind} for kind in ("file", "lfsFile")}
    written = {path.relative_to(tmp_path / "space").as_posix() for path in (tmp_path / "space").rglob("*")}
    sent = found["file"] | found["lfsFile"]
    assert sent == {name for name in written if (tmp_path / "space" / name).is_file()}
    assert found["lfsFile"] == {"model/model.safetensors"}
    assert [line["value"]["path"] for line in lines if line["key"] == "deletedFile"] == ["serving/old.py"]
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: anna/base-it: the hub refuses")


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the client's own way to its HTTP library
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.part)
def test_what_fails_at_the_hub_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: none\n---\n")
    (tmp_path / "model.safetensors").write_bytes(bytes(2048))
    with commit_hub(fault=fault) as (endpoint, asked):
        ask_here(monkeypatch, endpoint)
        with pytest.raises(UserError, match=f"^[^\n]*{fault.said}[^\n]*$"):
            push(tmp_path, "anna/base-it", False, write_token())
    assert not [path for _, path, *_ in asked if "/commit/" in path]


def test_neither_an_offline_hub_nor_what_is_no_token_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_here(monkeypatch, "http://127.0.0.1:9", offline=True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so the hub is not asked; unset it"):
        push(tmp_path, "anna/base-it", False, write_token())
    monkeypatch.setenv("HF_TOKEN", "hf_perché")
    with pytest.raises(UserError, match="has signs that no token has; copy the token again"):
        write_token()


def test_without_a_token_nothing_is_written_or_pushed(small_model_dir: Path, tmp_path: Path) -> None:
    with commit_hub() as (endpoint, asked):
        done = command(endpoint, tmp_path, "--model", str(small_model_dir), "--repo", "anna/base-it")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: no token for the Hugging Face hub: make one")
    assert not (tmp_path / "space").exists()
    assert [path for _, path, *_ in asked if "/repos/" in path] == []


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `make` says in a folder that has nothing else of the project; with BIN nothing is installed."""
    command = ["make", "-f", str(REPOSITORY / "Makefile"), "BIN=bin", *words]
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", ["serve", "space", "transcribe"])
def test_the_newest_exported_model_is_taken_and_without_any_the_way_to_one_is_told(tmp_path: Path, target: str) -> None:
    none = make(tmp_path, target)
    said = [line for line in none.stderr.splitlines() if not line.startswith("make: ***")]
    assert (none.returncode, none.stdout, len(said)) == (2, "", 1)
    assert said[0].startswith("error: no model here yet: run `make demo`")
    for age, folder in enumerate(("demo/model", "models/old", "models/newest")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").touch()
        os.utime(tmp_path / folder / "model.safetensors", (1e9 + age, 1e9 + age))
    assert "--model 'models/newest'" in make(tmp_path, "-n", target).stdout
    parts = tmp_path / "models/in parts/model.safetensors.index.json"
    parts.parent.mkdir()
    parts.touch()
    assert "--model 'models/in parts'" in make(tmp_path, "-n", target).stdout
    assert "--model 'demo/model'" in make(tmp_path, "-n", target, "MODEL=demo/model").stdout
