"""Orbax checkpoints of a run: state, data position and step, committed by rename, the newest and the best kept.

A run's folder is self-contained: `checkpoints/<step>/`, `config.json`, `data.json` (the shards' manifest),
`metrics.jsonl`, `tensorboard/`, and `model/` with the small files of the model it started from (architecture,
tokenizer, generation settings), which evaluation and export need beside the parameters.
"""

import base64
import json
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from data.errors import UserError
from jax_train.checkpoint_files import (
    PARTIAL,
    best,
    damage,
    remove,
    remove_partial,
    seal,
    set_aside,
    steps_in,
    superfluous,
)
from jax_train.config import WhisperConfig
from jax_train.lora import apart, init, merge
from jax_train.model import Params, Whisper, functional
from jax_train.optimizer import trained
from jax_train.processes import of_all_processes
from jax_train.run_settings import read_settings
from jax_train.runlog import read_rows, wer_by_step, write_json
from jax_train.step import TrainState

SMALL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "normalizer.json"),
    *("vocab.json", "merges.txt"),
)
"""Of a model's folder, by name: what else lies in it, as a trainer's own records, is nobody's business."""
SHARED_BYTES = 1 << 24  # of an array from which on replicas share its writing; cutting it costs a compilation
WRITE_ERRORS = (OSError, ValueError, RuntimeError)  # TensorStore's are no OSErrors


class SaveError(Exception):
    """A checkpoint could not be written; those before it stand."""


class Checkpoints:
    """The checkpoints of one run; use as a context manager, so that pending writes are finished.

    Saving copies the state to the host and returns; threads write it while steps go on. The newest `keep` stay, and the
    `keep_best` of lowest WER.
    """

    def __init__(self, run: Path, keep: int = 1, keep_best: int = 1) -> None:
        self._folder, self._keep, self._keep_best = (run / "checkpoints").absolute(), keep, keep_best
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED_BYTES)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.PyTreeCheckpointHandler(type_handler_registry=registry), data=ocp.JsonCheckpointHandler()
            )
        )
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        if jax.process_index() == 0:
            remove_partial(self._folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            self.wait()
        except SaveError as failed:
            if kind is None:
                raise
            print(failed, file=sys.stderr)  # what ended the run comes first
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def save(
        self, state: TrainState, data_state: bytes | dict[str, Any], wer: Mapping[int, float] | None = None
    ) -> None:
        """Start writing the state under its step, after the one before. `wer` of steps decides which is the best.

        Raises:
            SaveError: this one could not be begun, or the one before not be finished.
        """
        self.wait()
        data = {"bytes": base64.b64encode(data_state).decode()} if isinstance(data_state, bytes) else data_state
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(_as_saved(state)), data=ocp.args.JsonSave(data))
        step = int(state.step)
        partial = self._folder / f"{step}{PARTIAL}"
        try:
            self._orbax.save(partial, args=args, force=True)
        except WRITE_ERRORS as error:
            raise self._failed(step, error) from error
        self._pending = self._thread.submit(self._finish, step, partial, dict(wer or {}))

    def wait(self, only_if_done: bool = False) -> None:
        """Wait for the pending checkpoint; `only_if_done`: just look. Raises `SaveError` if it was not written."""
        pending = self._pending
        if pending and (pending.done() or not only_if_done):
            self._pending = None
            pending.result()

    def restore(self, like: TrainState) -> tuple[TrainState, bytes | dict[str, Any]]:
        """The newest whole checkpoint in the shapes and shardings of `like`, and the data iterator's state.

        Newer ones that are damaged are named on standard error and set aside.

        Raises:
            UserError: none of them is whole.
        """
        step = self._newest_whole()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_saved(like))
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(abstract, restore_args), data=ocp.args.JsonRestore())
        found = self._orbax.restore(self._folder / str(step), args=args)
        data = found.data
        return TrainState(**found.state), base64.b64decode(data["bytes"]) if "bytes" in data else data

    def _newest_whole(self) -> int:
        """The step to continue from, the same in every process."""
        damaged: dict[int, str] = {}
        whole = 0
        if jax.process_index() == 0:
            for step in reversed(steps_in(self._folder)):
                if not (wrong := damage(self._folder / str(step))):
                    whole = step
                    break
                damaged[step] = wrong
        whole = int(of_all_processes(whole)[0].item())
        if not whole:
            found = "; ".join(f"step {step}: {wrong}" for step, wrong in damaged.items())
            raise UserError(f"{self._folder}: no whole checkpoint ({found}); give another RUN to train anew")
        for step, wrong in damaged.items():
            set_aside(self._folder / str(step))
            print(f"{self._folder / str(step)} is damaged ({wrong}): continuing from step {whole}", file=sys.stderr)
        return whole

    def _finish(self, step: int, partial: Path, wer: dict[int, float]) -> None:
        """Once Orbax has written it: seal, name, and delete what is superfluous now."""
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                seal(partial)
                partial.rename(self._folder / str(step))
                for old in superfluous(steps_in(self._folder), self._keep, self._keep_best, wer):
                    remove(self._folder / str(old))
        except WRITE_ERRORS as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> SaveError:
        remove_partial(self._folder)  # the room it took may be what the next one needs
        last = max(steps_in(self._folder), default=None)
        kept = f"the newest is that of step {last}" if last else "there is none yet"
        cause = str(error).splitlines()[0]
        return SaveError(f"the checkpoint of step {step} could not be written to {self._folder}: {cause}; {kept}")


def _as_saved(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if value is not None}


def copy_small_files(source: Path, target: Path) -> None:
    """Architecture, tokenizer and settings of a model folder, without its weights."""
    target.mkdir(parents=True, exist_ok=True)
    for name in SMALL_FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())  # copyfile would name the wrong disk


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


def chosen_step(run: Path, step: str = "newest") -> int:
    """The step that `newest`, `best` (of lowest WER) or a number means. Raises `UserError` where there is none."""
    steps = steps_in((run / "checkpoints").absolute())
    if not steps:
        raise UserError(f"{run}: no complete checkpoint in it; run `make train` with this RUN first")
    if step == "newest":
        return steps[-1]
    scored = best(steps, wer_by_step(read_rows(run)))
    if step == "best" and not scored:
        raise UserError(f"{run}: none of its checkpoints was scored; train with --eval-split, or take the newest")
    if step == "best":
        return scored[0]
    if not step.isdigit() or int(step) not in steps:
        raise UserError(f"{run}: no checkpoint {step}; there are {', '.join(map(str, steps))}, newest and best")
    return int(step)


def load_run(run: Path, dtype: DTypeLike = jnp.float32, step: str = "newest") -> tuple[Whisper, int]:
    """A checkpoint's model, computing in `dtype`, and its step; `step` as `chosen_step` takes it.

    Of a run that keeps a moving average of its parameters, the model has the average; adapters are merged. A run that
    trains meanwhile may delete the checkpoint, for a newer one: that is taken then.
    """
    while True:
        number = chosen_step(run, step)
        folder = (run / "checkpoints").absolute() / str(number)
        try:
            if wrong := damage(folder):
                raise UserError(f"{folder} is damaged ({wrong}); `make train` goes on from the one before")
            return _loaded(run, dtype, folder), number
        except Exception:
            if folder.is_dir():
                raise


def _loaded(run: Path, dtype: DTypeLike, folder: Path) -> Whisper:
    model = Whisper(WhisperConfig.from_folder(run_model_folder(run)), dtype)
    params, buffers, build = functional(model)
    settings = read_settings(run)
    lora = settings.get("lora", {"rank": 0})
    adapters = init(params, lora["rank"], lora["targets"], jax.random.key(0)) if lora["rank"] else {}
    kept = {name: _as_kept(value, lora["frozen_dtype"]) for name, value in params.items()} if adapters else {}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        _wanted(settings, adapters or params) | {"buffers": kept | buffers},
    )
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        args = ocp.args.PyTreeRestore(abstract, restore_args, partial_restore=True)
        found = checkpointer.restore(folder / "state", args=args)
    own = found.get("params", {}) | found.get("ema", {})
    if adapters:
        base, found_buffers = apart(found["buffers"], buffers.keys())
        whole = {name: value.astype(jnp.float32) for name, value in base.items()}
        return build(merge(whole, own, lora["alpha"]), found_buffers)
    return build(own, found["buffers"])


def _as_kept(value: Any, frozen_dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, jnp.dtype(frozen_dtype) if len(value.shape) > 1 else value.dtype)


def _wanted(settings: dict[str, Any], params: Params) -> dict[str, Params]:
    """The parameters by the part of a checkpoint that evaluation takes them from: `ema` those that it averages."""
    if not settings.get("ema_decay"):
        return {"params": params}
    own = trained(params, tuple(settings["freeze"]))
    frozen = {name: value for name, value in params.items() if name not in own}
    return {"ema": own} | ({"params": frozen} if frozen else {})
