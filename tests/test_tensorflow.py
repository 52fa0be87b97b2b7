"""The shards are what TensorFlow's own reader takes them for."""

import base64
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data.records import Record, ShardWriter

REPOSITORY = Path(__file__).resolve().parent.parent

# TensorFlow pins its own numpy and protobuf, so it lives in an environment of its own and answers in JSON.
READ_WITH_TENSORFLOW = """
import base64, json, sys
import tensorflow as tf

features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("id", "log_mel", "text", "speaker")}
features |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("copy", "frames", "n_mels")}
features |= {name: tf.io.FixedLenFeature([], tf.float32) for name in ("log_mel_max", "seconds")}
features["tokens"] = tf.io.VarLenFeature(tf.int64)
records = []
for serialized in tf.data.TFRecordDataset(sys.argv[1]):
    parsed = tf.io.parse_single_example(serialized, features)
    log_mel = tf.reshape(tf.io.decode_raw(parsed["log_mel"], tf.uint8), [parsed["frames"], parsed["n_mels"]])
    records.append({
        "names": sorted(tf.train.Example.FromString(serialized.numpy()).features.feature),
        "log_mel": base64.b64encode(log_mel.numpy().tobytes()).decode(),
        "shape": log_mel.shape.as_list(),
        "tokens": tf.sparse.to_dense(parsed["tokens"]).numpy().tolist(),
        **{name: parsed[name].numpy().decode() for name in ("id", "text", "speaker")},
        **{name: parsed[name].numpy().item() for name in ("copy", "log_mel_max", "seconds")},
    })
print(json.dumps(records))
"""


@pytest.fixture(scope="module")
def tensorflow_python() -> str:
    """The interpreter that has TensorFlow."""
    python = Path(os.environ.get("SUSSURRO_TF_PYTHON", REPOSITORY / ".venv-tensorflow" / "bin" / "python"))
    if not python.is_file():
        pytest.fail(f"no TensorFlow: {python} does not exist; run `make test`, which makes it")
    return str(python)


def test_tensorflow_reads_every_feature_of_every_record(tensorflow_python, tmp_path):
    rng = np.random.default_rng(0)
    records = [
        Record(
            id=f"clip_{number}.mp3",
            copy=number,
            log_mel_q=rng.integers(0, 256, (20 + number, (80, 128)[number % 2]), dtype=np.uint8),
            log_mel_max=float(rng.normal()),
            text=("Così fan tutte.", "Perché «no»?", "…")[number % 3],
            tokens=tuple(rng.integers(0, 51_865, number).tolist()),
            speaker="" if number == 3 else f"speaker {number}",
            seconds=0.2 + number / 3,
        )
        for number in range(8)
    ]
    path = tmp_path / "train-00000-of-00001.tfrecord"
    with ShardWriter(path) as writer:
        for record in records:
            writer.write(record)

    run = subprocess.run(
        [tensorflow_python, "-c", READ_WITH_TENSORFLOW, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout)
    schema = ["copy", "frames", "id", "log_mel", "log_mel_max", "n_mels", "seconds", "speaker", "text", "tokens"]
    assert len(got) == len(records)
    for theirs, ours in zip(got, records, strict=True):
        assert theirs["names"] == schema
        assert tuple(theirs["shape"]) == ours.log_mel_q.shape
        assert base64.b64decode(theirs["log_mel"]) == ours.log_mel_q.tobytes()
        assert tuple(theirs["tokens"]) == ours.tokens
        for name in ("id", "copy", "text", "speaker"):
            assert theirs[name] == getattr(ours, name)
        for name in ("log_mel_max", "seconds"):
            assert theirs[name] == np.float32(getattr(ours, name))
