"""The command that fine-tunes: devices → data → model → optimizer → restore → loop, read from top to bottom.

Order in the loop: evaluate, save, stop if asked to, batch, step, check, log. So a run that continues evaluates first
what it was stopped from evaluating, and nothing twice. On an accelerator check and log are one step behind, but what is
evaluated or saved has been checked. A run found in RUN is continued where its newest whole checkpoint stands, and
refused where what it computes would change.
"""

import dataclasses
import functools
import gc
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from data.errors import UserError, command
from data.records import Shards
from data.tokens import load_tokenizer
from jax_train import batches as data_batches
from jax_train.accounting import Accounting, Given, steps_left_out
from jax_train.checkpoint_files import has_checkpoint
from jax_train.checkpoints import Checkpoints
from jax_train.config import TrainConfig, WhisperConfig, compilation_cache, learning_rate_for
from jax_train.device_memory import evaluation_advice, memory_advice, remat_that_fits, state_advice
from jax_train.evaluation import Evaluation
from jax_train.lora import adapted, merging
from jax_train.lora import summary as lora_summary
from jax_train.loss_scale import LossScale
from jax_train.model import Params, Whisper, functional
from jax_train.optimizer import learning_rate_schedule, make_optimizer, trained
from jax_train.precision import decided, same_bits
from jax_train.preemption import Stopped, StopRequest
from jax_train.presets import from_command_line
from jax_train.processes import Wishes, join_processes
from jax_train.run_folder import prepare_run, starting_model
from jax_train.run_settings import claimed
from jax_train.runlog import SUMMARY, WER, RunLog, evaluations_since_best, read_rows, wer_by_step
from jax_train.saving import Saving, failures_in_a_line
from jax_train.sharding import data_mesh, placed, shardings
from jax_train.step import TrainState, make_train_step
from jax_train.suited_shards import check_suited
from jax_train.trace import Trace
from jax_train.weights import load_model
from jax_train.windows import Prompt


def train(config: TrainConfig, stop: StopRequest | None = None) -> dict[str, Any]:
    """Train to the end, and return the last step's metrics with the run's speed.

    Raises:
        UserError: a wrong setting or input, a loss that is no number, a checkpoint that cannot be written.
        Stopped: `stop` was asked for; the state is saved.
    """
    stop = stop or StopRequest(config.run)
    # 1. Devices
    config = decided(config)
    mesh = data_mesh(fsdp=config.fsdp)
    if config.batch_size % mesh.size:
        raise UserError(f"--batch-size {config.batch_size} does not divide by {mesh.size} devices")
    share, parts = config.batch_size // mesh.size, config.gradient_accumulation_steps
    if share % parts:
        raise UserError(f"--gradient-accumulation-steps {parts} does not divide a device's {share} windows of a step")

    # 2. Data
    shards = config.fold.for_training(Shards.open(config.shards, config.split))
    folder = starting_model(config)
    tokenizer = load_tokenizer(str(folder))
    check_suited(shards, config, folder, tokenizer)
    config = dataclasses.replace(config, language=shards.manifest["language"])
    prompt = Prompt.of(tokenizer, config.language)
    plan = data_batches.plan_run(shards.index, config)
    windows = data_batches.Windows(shards, plan, prompt, jax.process_index(), jax.process_count())
    ahead = data_batches.Ahead(data_batches.batches(windows, config.workers), mesh)

    # 3. Model
    architecture = WhisperConfig.from_folder(folder).with_heads(config.attention_heads)
    dtype = jnp.dtype(config.compute_dtype)
    remat = remat_that_fits(config, architecture, plan.label_length)
    continues = has_checkpoint(config.run)
    with state_advice(config):
        if continues:  # all that was loaded is in the checkpoint too
            model = Whisper(architecture, dtype, remat=remat)
        else:
            place = functools.partial(placed, mesh=mesh)  # a device that is too small for all may hold its part
            model = load_model(folder, dtype, config.attention_heads, remat, place)

    # 4. Optimizer and step
    peak = config.learning_rate or learning_rate_for(model.config, config.optimizer)
    schedule = learning_rate_schedule(config, peak, plan.steps)
    optimizer = make_optimizer(config, schedule)
    with state_advice(config):
        state, build = initial_state(model, optimizer, mesh, config)
    del model
    gc.collect()  # Flax holds its arrays in circles; they are to live on in the state alone
    train_step = make_train_step(build, optimizer, mesh, config)

    # 5. Restore
    evaluation = Evaluation(config, folder, build, stop) if config.eval_split else None
    prepare_run(config, folder, shards)
    with Checkpoints(config.run, config.keep, config.keep_best) as checkpoints:
        if continues:
            with state_advice(config):
                state, data_state = checkpoints.restore(state)
            ahead.set_state(data_state)
        first = int(state.step)
        evaluated = wer_by_step([row for row in read_rows(config.run) if row["step"] <= first])
        if (first >= plan.steps or is_over(config, evaluated)) and (config.run / SUMMARY).is_file():
            if jax.process_index() == 0:
                print(f"{config.run}: already trained, {first} steps; give another RUN to train anew")
            return json.loads((config.run / SUMMARY).read_text())

        # 6. Loop
        may_lose_rows = config.on_save_failure == "continue"
        with RunLog(config.run, first, plan.steps, jax.process_index() == 0, may_lose_rows) as log:
            saving = Saving(config, checkpoints, log, first)
            profiled = 0 if jax.process_index() else config.profile  # traces of several in one folder are none
            trace = Trace(config.run / "profile", profiled, first)
            if said := trace.too_late(plan.steps):
                log.say(said)
            rates = learning_rates(schedule, plan.steps)
            accounting = Accounting(config, plan, shards.index, rates, log, steps_left_out(state))
            overlapping = overlaps(config)
            wishes = Wishes(mesh, overlapping)
            in_flight: deque[Given] = deque()

            def settle(most: int = 0) -> None:
                """Wait for the steps in flight, the oldest first, until `most` are left."""
                while len(in_flight) > most:
                    accounting.count(in_flight.popleft())

            for step in range(first, plan.steps + 1):  # steps that are done
                last = step == plan.steps
                evaluating = evaluation and step not in log.wer and evaluation.due(step, last, log)
                broken_off = False
                if evaluation and evaluating:
                    settle()
                    with saving.in_any_case(state, ahead, step), evaluation_advice(config):
                        evaluation.run(state, step, log)
                    broken_off = step not in log.wer
                if not last and is_over(config, log.wer):
                    log.say(f"step {step}: no lower WER in {config.patience} evaluations; the run ends here")
                    last = True
                stopping, late = wishes.heard(int(bool(stop.name)), saving.wish())
                always = last or bool(stopping or evaluating)
                saving.save_if_due(state, ahead, step, always, late, first_of_all=settle)
                if last and not broken_off:
                    break
                if stopping or broken_off:
                    saving.wait()
                    raise stop.stopped(step)

                batch, waited = ahead.take()
                trace.before(step)
                with memory_advice(config, train_step, state, batch):
                    state, metrics = train_step(state, batch)
                    in_flight.append(Given(step, metrics, waited))
                    if overlapping and step + 1 < plan.steps:
                        ahead.fetch(beside=metrics.loss)
                    settle(1 if overlapping else 0)
                if slowest := trace.after(step, step + 1 == plan.steps):
                    log.say(slowest)
                stop.there_is_work_to_save()
            settle()
            saving.wait()
            return log.summary()


def initial_state(
    model: Whisper, optimizer: optax.GradientTransformation, mesh: Mesh, config: TrainConfig
) -> tuple[TrainState, Callable[[Params, Params], Whisper]]:
    """The state before the first step, as it lies on the mesh, and what builds the model from its arrays.

    Of a model without weights it is the state's shapes alone, for a checkpoint to fill.
    """
    params, buffers, build = functional(model)
    if config.lora.rank:
        build = merging(build, buffers.keys(), config.lora.alpha)

    def first(params: Params, buffers: Params) -> TrainState:
        if config.lora.rank:
            params, buffers = adapted(params, buffers, config.lora, jax.random.key(config.seed))
        own = trained(params, config.freeze)
        ema = jax.tree.map(jnp.copy, own) if config.ema_decay else None
        scale = LossScale.initial() if config.compute_dtype == "float16" else None
        params, buffers = jax.tree.map(jnp.copy, (params, buffers))  # a step consumes them; the model's may live on
        return TrainState(params, buffers, optimizer.init(own), jnp.zeros((), jnp.int32), ema, scale)

    shapes = jax.eval_shape(first, params, buffers)
    lies = shardings(shapes, mesh)
    if config.lora.rank and not jax.process_index():
        print(lora_summary(shapes.buffers, shapes.params))
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in params.values()):
        return jax.tree.map(lambda x, lie: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie), shapes, lies), build
    params, buffers = ({name: placed(x, mesh) for name, x in part.items()} for part in (params, buffers))
    return jax.block_until_ready(jax.jit(first, out_shardings=lies)(params, buffers)), build


def is_over(config: TrainConfig, wer: Mapping[int, float]) -> bool:
    """Whether the WER of so many evaluations in a row was no better than the best."""
    return 0 < config.patience <= evaluations_since_best(wer)


def learning_rates(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """The learning rate of every step, computed at once: one at a time would be a wait for the device each."""
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(jnp.arange(steps)))


def overlaps(config: TrainConfig) -> bool:
    """Whether a step is given to the devices before the one before it is looked at, so that they never wait.

    Not on a CPU, where there is nothing to gain and several host devices deadlock, and not in a trace.
    """
    return jax.default_backend() != "cpu" and not config.profile


@command
def main() -> None:
    config = from_command_line(sys.argv[1:], __doc__)
    same_bits(config)
    compilation_cache()
    join_processes(config)
    failures_in_a_line()
    with claimed(config.run) if jax.process_index() == 0 else nullcontext(), StopRequest(config.run) as stop:
        try:
            found = train(config, stop)
        except Stopped as stopped:
            print(stopped)
            return
    if jax.process_index():
        return
    wer = f"WER {found['wer']:.2f} % as written, {found[WER]:.2f} % normalised, " if WER in found else ""
    first = found["first_step_seconds"]
    loss = f"loss {found['loss']:.3f}, " if found["loss"] is not None else ""
    print(
        f"trained {found['step']} steps, {loss}{wer}"
        f"{found['speech_seconds_per_second']:.1f} seconds of speech per second"
        + (f" (first step, with compilation: {first:.1f} s)" if first is not None else "")
        + f"\n{config.run}"
    )


if __name__ == "__main__":
    main()
