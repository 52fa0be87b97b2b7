"""Orbax checkpoints of a run: state, data position and step, committed by rename, the newest kept.

A run's folder is self-contained: `checkpoints/<step>/`, `config.json`, `metrics.jsonl`, `tensorboard/`, and `model/`
with the small files of the model it started from (architecture, tokenizer, generation settings), which evaluation and
export need beside the parameters.
"""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from data.errors import UserError
from jax_train.config import WhisperConfig
from jax_train.model import Params, Whisper, functional
from jax_train.optimizer import trained
from jax_train.runlog import write_json
from jax_train.step import TrainState

SMALL_FILES = ("*.json", "*.txt")
WEIGHT_INDEX = "*.index.json"


class Checkpoints:
    """The checkpoints of one run; use as a context manager, so that pending writes are finished."""

    def __init__(self, run: Path, keep: int = 1) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(
            (run / "checkpoints").absolute(), options=options, item_names=("state", "data")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data_state: bytes | dict[str, Any]) -> None:
        """Start writing the state under its step; the files are under their final name only when complete."""
        data = {"bytes": base64.b64encode(data_state).decode()} if isinstance(data_state, bytes) else data_state
        args = ocp.args.Composite(state=ocp.args.StandardSave(_as_saved(state)), data=ocp.args.JsonSave(data))
        self._manager.save(int(state.step), args=args)

    def restore(self, like: TrainState) -> tuple[TrainState, bytes | dict[str, Any]]:
        """The newest checkpoint in the shapes and shardings of `like`, and the data iterator's state."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_saved(like))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        found = self._manager.restore(self.latest(), args=args)
        data = found.data
        return TrainState(**found.state), base64.b64decode(data["bytes"]) if "bytes" in data else data


def _as_saved(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if value is not None}


def copy_small_files(source: Path, target: Path) -> None:
    """Architecture, tokenizer and settings of a model folder, without its weights."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in SMALL_FILES:
        for path in source.glob(pattern):
            if not path.match(WEIGHT_INDEX):
                shutil.copyfile(path, target / path.name)


def set_heads(folder: Path, heads: int) -> None:
    """Write another number of attention heads into a model folder's settings, for whoever loads it from there.

    The heads that word timestamps are read from are the pretrained ones, so their list goes.
    """
    changed = {"encoder_attention_heads": heads, "decoder_attention_heads": heads}
    config, generation = folder / "config.json", folder / "generation_config.json"
    write_json(config, json.loads(config.read_text(encoding="utf-8")) | changed)
    if generation.is_file():
        fields = json.loads(generation.read_text(encoding="utf-8"))
        fields.pop("alignment_heads", None)
        write_json(generation, fields)


def run_model_folder(run: Path) -> Path:
    """RUN/model: the small files of the run's model. Raises `UserError` where RUN is no run."""
    folder = run / "model"
    if not folder.is_dir():
        raise UserError(f"{run}: not a run folder (no model/ in it); give the RUN of a `make train`")
    return folder


def load_run(run: Path, dtype: DTypeLike = jnp.float32) -> tuple[Whisper, int]:
    """The newest checkpoint's model, computing in `dtype`, and its step.

    Of a run that keeps a moving average of its parameters, the model has the average.
    """
    config = WhisperConfig.from_folder(run_model_folder(run))
    params, buffers, build = functional(Whisper(config, dtype))
    folder = (run / "checkpoints").absolute()
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []  # complete ones only
    if not steps:
        raise UserError(f"{run}: no complete checkpoint in it; run `make train` with this RUN first")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        _wanted(run, params) | {"buffers": buffers},
    )
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        args = ocp.args.PyTreeRestore(abstract, restore_args, partial_restore=True)
        found = checkpointer.restore(folder / str(max(steps)) / "state", args=args)
    return build(found.get("params", {}) | found.get("ema", {}), found["buffers"]), max(steps)


def _wanted(run: Path, params: Params) -> dict[str, Params]:
    """The parameters by the part of a checkpoint that evaluation takes them from: `ema` those that it averages."""
    path = run / "config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    if not settings.get("ema_decay"):
        return {"params": params}
    own = trained(params, tuple(settings["freeze"]))
    frozen = {name: value for name, value in params.items() if name not in own}
    return {"ema": own} | ({"params": frozen} if frozen else {})
