"""Wrong input to the featurize command: each one clear line that names it and what was allowed."""

import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data import budget
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize


@pytest.fixture(name="config")
def good_run(sample_corpus, base_model_dir, tmp_path):
    """A run with nothing wrong, to change one thing of."""
    return FeaturizeConfig(sample_corpus, tmp_path / "shards", str(base_model_dir), workers=1, limit=60)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200GB", 200 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("300MiB", 300 * 2**20),
        ("1TiB", 2**40),
        ("10kB", 10_000),
        ("4096", 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert budget.parse_bytes(text) == count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": Path("nowhere")}, "no corpus: nowhere is not a folder"),
        ({"split": "prova"}, "has no split 'prova' .*there are: dev, .*test, train"),
        ({"model": "nowhere"}, "no model: nowhere is neither a folder nor a hub name"),
        ({"recipe": "loud"}, "no recipe 'loud'; there are: lab, none, standard; your own is module:NAME"),
        ({"budget": "much"}, "budget 'much' is not a size"),
        ({"copies": -1}, "copies is -1; it takes 0 .* or more, or auto"),
        ({"max_rejected": "some"}, "max-rejected 'some' is not a share; write for example 5% or 0.05"),
        ({"max_rejected": "120%"}, "max-rejected '120%' is not a share"),
        ({"max_rejected": "5"}, "max-rejected '5' is not a share"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers at 'tcp://127.0.0.1:9'"),
        ({"workers": 0}, "workers is 0; it takes 1 or more"),
        ({"limit": 0}, "limit is 0; it takes 1 or more"),
        ({"language": "xx"}, "language 'xx' is not one of Whisper's"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(config, change, said):
    with pytest.raises(UserError, match=said):
        featurize(replace(config, **change))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"model_type": "bert"}', "is not Whisper: its config.json says model_type 'bert'"),
        ('{"model_type": "whisper", "num_mel_bins": 40}', "num_mel_bins 40, Whisper has 80 or 128"),
        ("{", "config.json is not JSON"),
        (None, "is not a Hugging Face Whisper folder: it has no config.json"),
    ],
)
def test_a_model_folder_that_is_not_whisper_is_refused(config, tmp_path, content, said):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        featurize(replace(config, model=str(tmp_path)))


def test_a_corpus_that_does_not_tell_its_language_needs_it_said(config, tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "clips").mkdir(parents=True)
    (corpus / "train.tsv").write_text("client_id\tpath\tsentence\ns\ta.mp3\tUno.\n")
    with pytest.raises(UserError, match="does not say one language in a `locale` column: give --language"):
        featurize(replace(config, source=corpus))


@pytest.mark.parametrize("name", ["manifest.json", ".settings.json"])
def test_a_set_whose_settings_cannot_be_read_is_named(config, name):
    folder = config.shards / "train"
    folder.mkdir(parents=True)
    (folder / name).write_text("{")
    with pytest.raises(UserError, match=rf"{name} is not JSON .*: delete .*train and run featurize again"):
        featurize(config)


def test_two_runs_never_write_one_folder(config):
    (config.shards / "train").mkdir(parents=True)
    descriptor = os.open(config.shards / "train", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another featurize is writing"):
        featurize(config)
    os.close(descriptor)


def test_the_command_ends_wrong_input_in_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "data.featurize", "--source=nowhere", f"--shards={tmp_path}", "--model=nowhere"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: no corpus: nowhere is not a folder\n"
