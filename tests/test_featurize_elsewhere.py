"""Beyond one machine: a real Dask cluster on loopback that loses a worker, and a real object store's protocol."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from data.featurize import FeaturizeConfig, featurize
from data.records import Shards
from data.verify import VerifyConfig, verify
from tests.conftest import REPOSITORY
from tests.test_featurize import contents


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


def test_corpus_and_shards_may_be_in_an_object_store(bucket, sample_corpus, base_model_dir, tmp_path, monkeypatch):
    lines = (sample_corpus / "train.tsv").read_text(encoding="utf-8").splitlines()[:13]
    column = lines[0].split("\t").index("path")
    (bucket / "it" / "train.tsv").write_text("\n".join(lines), encoding="utf-8")
    for line in lines[1:]:
        name = line.split("\t")[column]
        (bucket / "it" / "clips" / name).write_bytes((sample_corpus / "clips" / name).read_bytes())

    def config(source: str, shards: str) -> FeaturizeConfig:
        return FeaturizeConfig(source, shards, str(base_model_dir), workers=1, limit=12)

    on_bucket = config(str(bucket / "it"), str(bucket / "shards"))
    featurize(config(str(sample_corpus), str(tmp_path / "here")))
    featurize(on_bucket)
    here = contents(tmp_path / "here" / "train")
    there = {path.name: path.read_bytes() for path in (bucket / "shards" / "train").iterdir()}
    assert there.keys() == here.keys() | {"timing.json"}
    for name, content in here.items():
        if name != "manifest.json":  # it names its source
            assert there[name] == content, name

    monkeypatch.setenv("SUSSURRO_CACHE", str(tmp_path / "cache"))
    ours, theirs = Shards.open(tmp_path / "here", "train"), Shards.open(str(bucket / "shards"), "train")
    assert [theirs[position].id for position in range(24)] == [ours[position].id for position in range(24)]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    verify(VerifyConfig(str(bucket / "shards")))

    manifest = bucket / "shards" / "train" / "manifest.json"
    before = manifest.stat().st_mtime
    featurize(on_bucket)
    assert manifest.stat().st_mtime == before
