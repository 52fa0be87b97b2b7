"""The command that averages checkpoints of a run into a new one: weights from several points are often better than any.

Decision: the average is a run folder of its own with one checkpoint, so that evaluate and export take it like any
other. What is averaged is what they would load: adapters merged, a moving average in its parameters' place. Sums are
in float64. Source: arXiv 1803.05407 (stochastic weight averaging).
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data.errors import UserError, command
from jax_train.checkpoint_files import best, steps_in
from jax_train.checkpoints import Checkpoints, copy_small_files, load_run, run_model_folder
from jax_train.model import Params, functional
from jax_train.run_folder import DATA
from jax_train.run_settings import SETTINGS, read_settings
from jax_train.runlog import read_rows, wer_by_step, write_json
from jax_train.step import TrainState

PLAIN = {"lora": {"rank": 0}, "ema_decay": 0.0, "freeze": []}
"""What the average no longer is, whatever the run was: its parameters are all there is. What the run had of these
stands under `averaged_recipe`."""


@dataclasses.dataclass(frozen=True)
class AverageConfig:
    """Averages the weights of a run's checkpoints; keep several with --keep or --keep-best."""

    run: Path
    """Folder of a training run."""
    out: Path
    """Folder to write, in the form of a run."""
    last: int = 0
    """Average the newest so many checkpoints; this or --best."""
    best: int = 0
    """Average the checkpoints of the so many lowest WERs."""

    def __post_init__(self) -> None:
        if (self.last > 0) == (self.best > 0) or min(self.last, self.best) < 0:
            raise UserError(f"--last {self.last} --best {self.best}: give one of them, the number of checkpoints")


def average(config: AverageConfig) -> list[int]:
    """Write the averaged run; the steps that went into it.

    Raises:
        UserError: no run, too few checkpoints or none scored, or a folder in the way.
    """
    source = run_model_folder(config.run)
    if config.out.is_file() or (config.out.is_dir() and any(config.out.iterdir())):
        raise UserError(f"{config.out}: exists; give another --out, or move it away")
    wanted, steps = config.last or config.best, steps_in(config.run / "checkpoints")
    scored = best(steps, wer_by_step(read_rows(config.run)))
    chosen = sorted(steps[-wanted:] if config.last else scored[:wanted])
    if len(chosen) < wanted:
        kind = "checkpoints" if config.last else "checkpoints whose WER is known"
        raise UserError(f"{config.run}: {len(chosen)} {kind}, not {wanted}; train with a larger --keep or --keep-best")
    params, buffers = mean(functional(load_run(config.run, step=str(step))[0])[:2] for step in chosen)
    partial = config.out.with_name(f".{config.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed command
    copy_small_files(source, partial / "model")
    settings = read_settings(config.run)
    recipe = {name: settings[name] for name in PLAIN if name in settings} | settings.get("averaged_recipe", {})
    origin = {"averaged_run": str(config.run), "averaged_steps": chosen, "averaged_recipe": recipe}
    write_json(partial / SETTINGS, settings | PLAIN | origin)
    if (config.run / DATA).is_file():
        write_json(partial / DATA, json.loads((config.run / DATA).read_text()))
    state = TrainState(params, buffers, (), jnp.asarray(chosen[-1], jnp.int32))
    with Checkpoints(partial) as checkpoints:
        checkpoints.save(state, {})
    partial.rename(config.out)
    return chosen


def mean(models: Iterable[tuple[Params, Params]]) -> tuple[Params, Params]:
    """The mean of each array of models that are given one at a time, summed in float64."""
    sums: Any = None
    count = 0
    for model in models:
        wide = jax.tree.map(lambda value: np.asarray(value, np.float64), model)
        sums = jax.tree.map(np.add, sums, wide) if count else wide
        count += 1
    found: tuple[Params, Params] = jax.tree.map(lambda total: jnp.asarray((total / count).astype(np.float32)), sums)
    return found


@command
def main() -> None:
    config = tyro.cli(AverageConfig)
    chosen = average(config)
    print(f"the mean of steps {', '.join(map(str, chosen))}\n{config.out}")


if __name__ == "__main__":
    main()
