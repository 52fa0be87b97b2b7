"""A run's folder: made once, and continued only by what computes the same.

`config.json` has the settings, `data.json` the manifest of the shards it is trained on, `model/` the small files of the
model it started from.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from data.errors import UserError
from data.records import Shards
from jax_train.checkpoint_files import has_checkpoint
from jax_train.checkpoints import copy_small_files, set_heads
from jax_train.config import TrainConfig, WhisperConfig
from jax_train.pretrained import model_folder
from jax_train.run_settings import SETTINGS, read_settings
from jax_train.runlog import write_json

MAY_CHANGE = {
    *("fsdp", "remat", "deterministic", "coordinator", "processes", "process"),
    *("run", "shards", "preset", "model", "base_model"),  # data and model are checked by what they hold
    *("save_steps", "save_minutes", "keep", "on_save_failure", "log_steps", "profile"),
    *("eval_steps", "eval_batch_size", "max_eval_share", "patience", "keep_best", "skip_non_finite"),
}
"""Settings that a resumed run may have otherwise: they do not change what it computes."""
DROPOUTS = ("dropout", "activation_dropout", "attention_dropout")
"""Settings of which one above 0 draws anew for each part of a batch, so that the number of parts may not change."""
DATA = "data.json"
SHOWN = 5  # differences of the data that are printed


def starting_model(config: TrainConfig) -> Path:
    """The folder of the model to train. A run of a model of the hub's goes on by what it has of it, and asks nobody."""
    of_hub = _of_hub(config)
    goes_on = of_hub and has_checkpoint(config.run) and read_settings(config.run).get("base_model") == of_hub
    return config.run / "model" if goes_on else model_folder(config.model)


def prepare_run(config: TrainConfig, folder: Path, shards: Shards) -> None:
    """Make RUN's folder, or check that the run there computes the same. Raises `UserError` with the difference.

    What has no checkpoint yet has nothing to lose, and is made anew.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings["data"] = hashlib.sha256(json.dumps(shards.manifest, sort_keys=True).encode()).hexdigest()
    settings["base_model"] = _of_hub(config)
    settings["architecture"] = _architecture(folder, config.attention_heads)
    there = read_settings(config.run)
    if not has_checkpoint(config.run):
        if jax.process_index():
            return  # the first process makes it
        copy_small_files(folder, config.run / "model")
        if config.attention_heads:
            set_heads(config.run / "model", config.attention_heads)
        write_json(config.run / DATA, shards.manifest)
        write_json(config.run / SETTINGS, settings)
        return
    if not there:
        raise UserError(f"{config.run}: has checkpoints and no {SETTINGS}; put it back, or give another RUN")
    before = _defaults() | there  # a setting the run did not know yet had its default
    if not isinstance(before["architecture"], dict):  # runs once noted d_model alone
        before["architecture"] = _architecture(config.run / "model", config.attention_heads)
    may_change = MAY_CHANGE if any(map(before.get, DROPOUTS)) else MAY_CHANGE | {"gradient_accumulation_steps"}
    changed = differences(
        {name: value for name, value in before.items() if name not in may_change},
        {name: value for name, value in settings.items() if name not in may_change},
    )
    if before["data"] != settings["data"] and (config.run / DATA).is_file():
        changed = [line for line in changed if not line.startswith("data ")]
        changed += _data_differences(json.loads((config.run / DATA).read_text()), shards.manifest)
    if changed:
        dtype = before["compute_dtype"]
        hint = f" (--compute-dtype {dtype} continues it on any device)" if dtype != settings["compute_dtype"] else ""
        raise UserError(
            f"{config.run}: holds another run: {'; '.join(changed)}; give another RUN, or these settings{hint}"
        )


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Each value that is not the same in two JSON values, as `name before → after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [
            line for key in keys for line in differences(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if before == after else [f"{name} {_short(before)} → {_short(after)}"]


def _data_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The first differences of two manifests; shards by their file names."""
    by_file = [
        manifest | {"shards": {shard["file"]: shard for shard in manifest["shards"]}} for manifest in (before, after)
    ]
    found = differences(by_file[0], by_file[1], "data")
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _of_hub(config: TrainConfig) -> str | None:
    """The model's name, if it is one of the hub's."""
    return None if Path(config.model).expanduser().exists() else config.model


def _architecture(folder: Path, heads: int) -> dict[str, int]:
    return dataclasses.asdict(WhisperConfig.from_folder(folder).with_heads(heads))


def _defaults() -> dict[str, Any]:
    """What a run that does not say so was trained with."""
    config = TrainConfig(Path(), Path(), compute_dtype="float32")
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
