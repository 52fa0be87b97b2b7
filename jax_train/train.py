"""The command that fine-tunes: devices → data → model → optimizer → restore → loop, read from top to bottom.

Order in a step: batch, step, check, log, checkpoint. A run found in RUN is continued where its newest checkpoint
stands, and refused where what it computes would change.
"""

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from data.errors import UserError, command
from data.records import Shards
from data.tokens import load_tokenizer
from jax_train import batches as data_batches
from jax_train.checkpoints import Checkpoints, copy_small_files, set_heads
from jax_train.config import TrainConfig, WhisperConfig, compilation_cache, learning_rate_for
from jax_train.model import Params, Whisper, functional
from jax_train.optimizer import learning_rate_schedule, make_optimizer, trained
from jax_train.presets import from_command_line
from jax_train.pretrained import model_folder
from jax_train.runlog import SUMMARY, RunLog, write_json
from jax_train.step import TrainState, data_mesh, make_train_step, replicate
from jax_train.weights import load_model
from jax_train.windows import Prompt

MAY_CHANGE = {"run", "shards", "preset", "model", "save_steps", "keep", "log_steps"}
"""Settings that a resumed run may have otherwise: they do not change what it computes (data and model are checked)."""


def train(config: TrainConfig) -> dict[str, Any]:
    """Train to the end, and return the last step's metrics with the run's speed."""
    # 1. Devices
    mesh = data_mesh()
    if config.batch_size % mesh.size:
        raise UserError(f"--batch-size {config.batch_size} does not divide by {mesh.size} devices")
    share, parts = config.batch_size // mesh.size, config.gradient_accumulation_steps
    if share % parts:
        raise UserError(f"--gradient-accumulation-steps {parts} does not divide a device's {share} windows of a step")

    # 2. Data
    shards = Shards.open(config.shards, config.split)
    folder = model_folder(config.model)
    prompt = Prompt.of(load_tokenizer(str(folder)), config.language)
    plan = data_batches.plan_run(shards.index, config)
    windows = data_batches.Windows(shards, plan, prompt, jax.process_index(), jax.process_count())
    iterator = data_batches.batches(windows, config.workers)

    # 3. Model
    n_mels, wanted = shards.manifest["features"]["n_mels"], WhisperConfig.from_folder(folder).num_mel_bins
    if n_mels != wanted:
        raise UserError(
            f"{config.shards}: features of {n_mels} mel bins, {config.model} takes {wanted}; run `make featurize` with "
            f"MODEL={config.model}"
        )
    model = load_model(folder, jnp.dtype(config.compute_dtype), config.attention_heads)

    # 4. Optimizer and step
    peak = config.learning_rate or learning_rate_for(model.config, config.optimizer)
    schedule = learning_rate_schedule(config, peak, plan.steps)
    optimizer = make_optimizer(config, schedule)
    state, build = initial_state(model, optimizer, mesh, config)
    del model  # its arrays live on in the state alone
    train_step = make_train_step(build, optimizer, mesh, config)

    # 5. Restore
    prepare_run(config, folder, shards)
    with Checkpoints(config.run, config.keep) as checkpoints:
        if checkpoints.latest() is not None:
            state, data_state = checkpoints.restore(state)
            iterator.set_state(data_state)
        first = int(state.step)
        if first >= plan.steps:
            print(f"{config.run}: already trained, {first} steps; give another RUN to train anew")
            return json.loads((config.run / SUMMARY).read_text())

        # 6. Loop
        with RunLog(config.run, first, plan.steps) as log:
            for step in range(first, plan.steps):
                asked = time.perf_counter()
                batch = data_batches.to_devices(next(iterator), mesh)
                waited = time.perf_counter() - asked
                state, metrics = train_step(state, batch)
                values = {name: float(value) for name, value in metrics._asdict().items()}  # waits for the step
                values["learning_rate"] = float(schedule(step))
                rows = plan.rows_of_step(step)
                check_finite(step + 1, values, shards.index["id"][rows].tolist())
                last = step + 1 == plan.steps
                speech = float(shards.index["seconds"][rows].sum())
                log.step(step + 1, values, speech, waited, write=last or (step + 1) % config.log_steps == 0)
                if last or (step + 1) % config.save_steps == 0:
                    checkpoints.save(state, iterator.get_state())
            return log.summary()


def initial_state(
    model: Whisper, optimizer: optax.GradientTransformation, mesh: Mesh, config: TrainConfig
) -> tuple[TrainState, Callable[[Params, Params], Whisper]]:
    """The state before the first step, on every device, and what builds the model from its arrays."""
    params, buffers, build = functional(model)
    own = trained(params, config.freeze)
    ema = jax.tree.map(jnp.copy, own) if config.ema_decay else None  # a step cannot consume the same array twice
    state = TrainState(params, buffers, optimizer.init(own), jnp.zeros((), jnp.int32), ema)
    return replicate(state, mesh), build


def check_finite(step: int, values: dict[str, float], clip_ids: list[str]) -> None:
    """Stop at a loss or gradient that is no number: raises `UserError` with step, learning rate and clips."""
    if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
        raise UserError(
            f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']} at learning rate "
            f"{values['learning_rate']:.3g}, clips {', '.join(map(str, clip_ids))}; lower --learning-rate, or leave "
            "these clips out; the run continues from its newest checkpoint"
        )


def prepare_run(config: TrainConfig, folder: Path, shards: Shards) -> None:
    """Make RUN's folder, or check that the run there computes the same. Raises `UserError` with the difference."""
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings["data"] = hashlib.sha256(json.dumps(shards.manifest, sort_keys=True).encode()).hexdigest()
    settings["architecture"] = json.loads((folder / "config.json").read_text())["d_model"]
    path = config.run / "config.json"
    if path.is_file():
        before = _defaults() | json.loads(path.read_text())  # a setting the run did not know yet had its default
        names = sorted((before.keys() | settings.keys()) - MAY_CHANGE)
        changed = [
            f"{name} {before.get(name)} → {settings.get(name)}"
            for name in names
            if before.get(name) != settings.get(name)
        ]
        if changed:
            raise UserError(
                f"{config.run}: holds another run: {'; '.join(changed)}; give another RUN, or these settings"
            )
        return
    copy_small_files(folder, config.run / "model")
    if config.attention_heads:
        set_heads(config.run / "model", config.attention_heads)
    write_json(path, settings)


def _defaults() -> dict[str, Any]:
    fields = dataclasses.fields(TrainConfig)
    values = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return json.loads(json.dumps(values))


@command
def main() -> None:
    config = from_command_line(sys.argv[1:], __doc__)
    compilation_cache()
    found = train(config)
    print(
        f"trained {found['step']} steps, loss {found['loss']:.3f}, "
        f"{found['speech_seconds_per_second']:.1f} seconds of speech per second "
        f"(first step, with compilation: {found['first_step_seconds']:.0f} s)\n{config.run}"
    )


if __name__ == "__main__":
    main()
