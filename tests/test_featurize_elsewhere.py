"""Beyond one machine: a real Dask cluster on loopback that loses a worker, and a real object store's protocol."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from data.featurize import FeaturizeConfig, featurize
from data.records import Shards
from tests.conftest import REPOSITORY
from tests.test_featurize import contents

BUCKET = "sussurro"


@pytest.fixture(name="cluster")
def dask_cluster(tmp_path):
    """The scheduler's address, and two workers of one thread each, with their logs."""
    address_file = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def start(module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(address_file), *options]
        with (tmp_path / f"{module}-{len(processes)}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path))
        return processes[-1]

    processes: list[subprocess.Popen[bytes]] = []
    start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    while not address_file.exists():
        assert processes[0].poll() is None, (tmp_path / "dask_scheduler-0.log").read_text()
        time.sleep(0.1)
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    workers = [start("dask_worker", *options) for _ in range(2)]
    yield json.loads(address_file.read_text())["address"], workers
    for process in processes:
        process.kill()
        process.wait()


def test_a_dask_cluster_that_loses_a_worker_gives_the_same_bytes(cluster, sample_corpus, base_model_dir, tmp_path):
    address, workers = cluster
    options = {"source": sample_corpus, "model": base_model_dir, "copies": 2, "limit": 300}
    command = [sys.executable, "-m", "data.featurize", *(f"--{name}={value}" for name, value in options.items())]
    there = tmp_path / "cluster" / "train"
    on_cluster = [*command, f"--shards={there.parent}", f"--scheduler={address}"]
    with (tmp_path / "featurize.log").open("w") as log:
        run = subprocess.Popen(on_cluster, stdout=log, stderr=log)
        while run.poll() is None and not (writing := list(there.glob(".*.tfrecord.*.partial"))):
            time.sleep(0.005)
        busy = writing[0].name  # it holds the writer's process number
        lost = next(worker for worker in workers if f".{worker.pid}-" in busy)
        lost.send_signal(signal.SIGKILL)
        run.wait(timeout=120)
    assert run.returncode == 0, (tmp_path / "featurize.log").read_text()
    assert lost.wait() == -signal.SIGKILL
    subprocess.run([*command, f"--shards={tmp_path / 'here'}"], check=True, capture_output=True)
    assert contents(there) == contents(tmp_path / "here" / "train")


@pytest.fixture(name="store", scope="module")
def object_store():
    """An object store that speaks S3, for this process and those it starts."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir(BUCKET)
        yield files
    server.stop()


def test_corpus_and_shards_may_be_in_an_object_store(store, sample_corpus, base_model_dir, tmp_path, monkeypatch):
    lines = (sample_corpus / "train.tsv").read_text().splitlines()[:13]
    column = lines[0].split("\t").index("path")
    store.pipe(f"{BUCKET}/it/train.tsv", "\n".join(lines).encode())
    for line in lines[1:]:
        name = line.split("\t")[column]
        store.put(str(sample_corpus / "clips" / name), f"{BUCKET}/it/clips/{name}")

    def config(source: str, shards: str) -> FeaturizeConfig:
        return FeaturizeConfig(source, shards, str(base_model_dir), workers=1, limit=12)

    featurize(config(str(sample_corpus), str(tmp_path / "here")))
    featurize(config(f"s3://{BUCKET}/it", f"s3://{BUCKET}/shards"))
    here = contents(tmp_path / "here" / "train")
    there = {Path(path).name: store.cat(path) for path in store.ls(f"{BUCKET}/shards/train")}
    assert there.keys() == here.keys() | {"timing.json"}
    for name, content in here.items():
        if name != "manifest.json":  # it names its source
            assert there[name] == content, name

    monkeypatch.setenv("SUSSURRO_CACHE", str(tmp_path / "cache"))
    ours, theirs = Shards.open(tmp_path / "here", "train"), Shards.open(f"s3://{BUCKET}/shards", "train")
    assert [theirs[position].id for position in range(24)] == [ours[position].id for position in range(24)]
    assert len(list((tmp_path / "cache").iterdir())) == 1

    before = store.info(f"{BUCKET}/shards/train/manifest.json")["LastModified"]
    featurize(config(f"s3://{BUCKET}/it", f"s3://{BUCKET}/shards"))
    assert store.info(f"{BUCKET}/shards/train/manifest.json")["LastModified"] == before
