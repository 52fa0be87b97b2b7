"""A dataset by its name on the hub, against a small server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from tests.hub_server import COMMIT, hub_server
from tests.test_sources_hub import ROWS, make_dataset, wav, write_parquet

READ = """
import hashlib, json, sys
from data.errors import UserError
from data.sources import SourceOptions, read_split
source, split, options = json.loads(sys.argv[1])
try:
    clips = read_split(source, split, SourceOptions(**options)).clips
except UserError as error:
    print(json.dumps(str(error)))
else:
    print(json.dumps([(clip.id, clip.sentence, hashlib.sha1(clip.audio.load()).hexdigest()) for clip in clips]))
"""


DATASET = """
import json, sys, time
from data.sources import SourceOptions, read_split
source, split, options = json.loads(sys.argv[1])
print(json.dumps(read_split(source, split, SourceOptions(**options)).dataset))
time.sleep(0.5)
"""
"""It waits, as threads of Arrow's that `datasets` streams with may hold a piece of a file that was just read, and one
that gives it back after the interpreter's end is an abort. Commands go on for longer after reading a source."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Two datasets: one plain, one with a configuration for each language."""
    folder = tmp_path_factory.mktemp("hub")
    write_parquet(folder / "org" / "speech" / "data", make_dataset())
    write_parquet(folder / "org" / "speech" / "data", make_dataset(2), "test", files=1)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("it", "de"))
    for name in ("it", "de"):
        write_parquet(folder / "org" / "languages" / name, make_dataset(3), files=1)
    (folder / "org" / "languages" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with hub_server(folder) as (address, requests):
        yield address, requests


def read(address, home, source, split="train", program=READ, **options):
    """What another process reads, whose hub is at `address`: the clips, or the error."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program, json.dumps([source, split, options])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_by_its_name_gives_its_rows(hub, tmp_path, streaming):
    address, _ = hub
    want = [[f"train-row-{n:08d}", f"Frase {n}.", hashlib.sha1(wav(n)).hexdigest()] for n in range(ROWS)]
    assert read(address, tmp_path, "org/speech", streaming=streaming) == want
    assert len(read(address, tmp_path, "hf:org/languages", dataset_config="it", streaming=streaming)) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_is_known_again_by_name_configuration_and_commit(hub, tmp_path, streaming):
    """The folder that its files are kept in, of this machine's cache, is no name for it."""
    address, _ = hub
    options = {"dataset_config": "it", "streaming": streaming}
    found = read(address, tmp_path, "hf:org/languages", program=DATASET, **options)
    assert found == {"name": "org/languages", "config": "it", "revision": COMMIT}
    write_parquet(tmp_path / "corpus", make_dataset(3), files=1)
    assert read(address, tmp_path, str(tmp_path / "corpus"), program=DATASET, streaming=streaming) is None


def test_names_that_the_hub_does_not_have_are_told_what_there_is(hub, tmp_path):
    address, _ = hub
    assert "no split 'dev' (read as a Hugging Face dataset); there are: test, train" in read(
        address, tmp_path, "org/speech", "dev"
    )
    assert "no corpus: org/none is neither a folder here nor a dataset on the hub" in read(
        address, tmp_path, "org/none"
    )
    without = read(address, tmp_path, "org/languages")
    assert "cannot be read as a Hugging Face dataset: Config name is missing" in without
    assert "['it', 'de']" in without
    assert "'fr' not found. Available: ['it', 'de']" in read(address, tmp_path, "org/languages", dataset_config="fr")


def test_without_a_network_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as without a network, less half a minute of trying again
    got = read("http://127.0.0.1:9", tmp_path, "org/speech")
    assert "org/speech is not a folder here, and the hub cannot be reached" in got
