"""The run whose losses are stored: 20 steps of a very small model on packed windows of sample clips, with timestamps.

Decision: everything that is not said here is TrainConfig's default, so that a changed default is seen as well as a
changed program; the weights are NumPy's, so that neither JAX's nor Flax's random numbers are part of it; the clips are
clean, as the recipes have tests of their own.

To renew the file after a change that is meant to alter training, and see by how much:

    python -m tests.golden
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from data.featurize import FeaturizeConfig, featurize
from jax_train.checkpoints import copy_small_files
from jax_train.config import TrainConfig, WhisperConfig
from jax_train.model import Whisper, functional
from jax_train.pretrained import fetch_base
from jax_train.runlog import read_rows
from jax_train.train import train
from jax_train.weights import to_torch_layout, torch_name
from tests.conftest import REPOSITORY, SMALL  # which also sets up the eight devices

LOSSES = REPOSITORY / "tests" / "golden_losses.json"
STEPS = 20
CLIPS = 120  # about ten packed windows: two steps an epoch, the second completed with empty windows


def write_model(folder: Path) -> Path:
    """A Whisper folder with base's tokenizer and NumPy's random weights."""
    copy_small_files(fetch_base(REPOSITORY / ".cache" / "models"), folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | SMALL))
    params, buffers, _ = functional(Whisper(WhisperConfig.from_folder(folder)))
    rng = np.random.default_rng(0)
    tensors = {}
    for name, like in sorted(params.items()):
        path = tuple(name.split("."))
        value = rng.normal(1.0 if path[-1] == "scale" else 0.0, 0.05, like.shape).astype(np.float32)
        tensors[torch_name(path)] = to_torch_layout(path, value)
    tensors |= {torch_name(tuple(name.split("."))): np.asarray(value) for name, value in buffers.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def golden_run(place: Path, **changed: object) -> list[float]:
    """The losses of the run's steps, nats per label token; `changed` settings are for showing that they matter."""
    model, shards, run = write_model(place / "model"), place / "shards", place / "run"
    clips = {"source": str(REPOSITORY / "sample" / "it"), "model": str(model), "recipe": "none", "limit": CLIPS}
    featurize(FeaturizeConfig(shards=str(shards), workers=1, **clips))
    settings = {"batch_size": 8, "steps": STEPS, "learning_rate": 5e-3, "save_steps": STEPS} | changed
    train(TrainConfig(shards=shards, run=run, model=str(model), **settings))
    return [row["loss"] for row in read_rows(run)]


def main() -> None:
    """Runs it, prints the losses beside the stored ones, and stores them."""
    stored = json.loads(LOSSES.read_text())["losses"] if LOSSES.is_file() else [float("nan")] * STEPS
    with tempfile.TemporaryDirectory() as place:
        found = golden_run(Path(place))
    for step, (before, now) in enumerate(zip(stored, found, strict=True), start=1):
        print(f"step {step:2}  {before:.7f} → {now:.7f}  ({now - before:+.1e})")
    LOSSES.write_text(json.dumps({"losses": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
