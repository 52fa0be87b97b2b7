"""What a GPU is given to do, read from the program that is compiled for it; and steps that overlap, as they do there.

There is no GPU here: JAX translates the real train step for one all the same, and the text of that program shows which
kernels it calls and in which types it multiplies.
"""

import collections
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_train.batches
import jax_train.train
from data.errors import UserError
from jax_train.accounting import MOST_OVERFLOWS, Accounting, Given, steps_left_out
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig, WhisperConfig
from jax_train.model import Whisper, functional
from jax_train.optimizer import make_optimizer
from jax_train.runlog import read_rows
from jax_train.sharding import WINDOWS, data_mesh, shardings
from jax_train.step import Metrics, TrainState, make_train_step
from jax_train.windows import Window

LAYERS = 2
TWO_LAYERS = WhisperConfig(128, LAYERS, LAYERS, 2, 2, 512, 512, vocab_size=1000)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """JAX's own checks ask the GPU and cuDNN that are there; these are an H100's answers."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "cuda_versions", SimpleNamespace(cudnn_get_version=lambda: 91_000))
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)
    hopper = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr("jax_train.attention.jax", SimpleNamespace(**vars(jax) | {"devices": lambda: [hopper]}))
    monkeypatch.setattr("jax_train.attention._one_by_one", lambda: False)
    monkeypatch.setattr("jax_train.ops.jax", SimpleNamespace(**vars(jax) | {"devices": lambda: [hopper]}))
    monkeypatch.setattr("jax_train.ops.LARGE", 4 * 1500 * 128)  # an encoder layer's, here
    monkeypatch.setattr("jax_train.kernels._interpreted", lambda: False)
    monkeypatch.setattr("jax_train.loss.default_chunk", lambda: 1024)
    jax.clear_caches()  # of kernels as they are on a CPU


def gpu_program(compute_dtype: str) -> str:
    """The train step as StableHLO for CUDA."""
    mesh = data_mesh(devices=jax.devices()[:1])
    config = TrainConfig(shards=Path(), run=Path(), compute_dtype=compute_dtype, batch_size=4)
    params, buffers, build = functional(Whisper(TWO_LAYERS, jnp.dtype(compute_dtype)))
    optimizer = make_optimizer(config, lambda _: jnp.float32(1e-5))
    params, buffers = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part) for part in (params, buffers)
    )
    state = TrainState(params, buffers, jax.eval_shape(optimizer.init, params), jax.ShapeDtypeStruct((), jnp.int32))
    state = jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), state, shardings(state, mesh)
    )
    windows = jax.sharding.NamedSharding(mesh, WINDOWS)
    shapes = [((4, 3000, 80), jnp.uint8), ((4, 3000), jnp.float32), ((4, 96), jnp.int32), ((4, 96), jnp.int32)]
    batch = Window(*(jax.ShapeDtypeStruct(shape, dtype, sharding=windows) for shape, dtype in shapes))
    step = make_train_step(build, optimizer, mesh, config)
    return step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()


def kernels_called(program: str) -> list[str]:
    """Names of our kernels, each as often as the function that holds it is called."""
    functions = re.split(r"\n  func\.func ", program)
    held = {
        text.split("(")[0].split("@")[1]: re.findall(r"gpu\.triton.*? name = \"(\w+)\"", text) for text in functions[1:]
    }
    return [name for called in re.findall(r"call @(\w+)\(", program) for name in held[called]]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_gpu_in_bfloat16_has_fused_attention_and_multiplies_in_bfloat16():
    """Three attentions in each pair of layers, forwards and backwards, none of them computed twice."""
    program = gpu_program("bfloat16")
    calls = collections.Counter(re.findall(r"__cudnn\$\w+", program))
    assert calls == {"__cudnn$fmhaSoftmax": 3 * LAYERS, "__cudnn$fmhaSoftmaxBackward": 3 * LAYERS}
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*: \((tensor<[^>]*>), (tensor<[^>]*>)\)", program)
    assert len(products) > 40
    of_biases = "tensor<128xf32>"  # what is made of the values' biases, in float32
    assert all(shape.endswith("xbf16>") for pair in products for shape in pair if of_biases not in pair)
    kernels = collections.Counter(kernels_called(program))
    assert kernels == {
        "layer_norm": 1,
        "add_layer_norm": 2 * LAYERS,
        "layer_norm_backward": 2 * LAYERS + 1,
        "biased": LAYERS + 2,
        "biased_backward": LAYERS + 2,
    }  # the encoder's; the first has no branch to add; of the decoder's few positions here XLA makes kernels
    looked_up = re.findall(r'"stablehlo\.scatter".*?\}\) : \((tensor<1000x128x\w+>)', program, re.DOTALL)
    assert looked_up  # the embedding's gradient, which adds up what every token of the batch asks for
    assert set(looked_up) == {"tensor<1000x128xf32>"}


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_gpu_without_fused_attention_multiplies_in_half_precision_all_the_same(monkeypatch):
    monkeypatch.setattr("jax_train.attention._has_cudnn", lambda _: False)
    program = gpu_program("float16")
    assert "__cudnn" not in program
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*: \((tensor<[^>]*>), (tensor<[^>]*>)\)", program)
    assert all(shape.endswith("xf16>") for pair in products for shape in pair if "tensor<128xf32>" not in pair)


@pytest.fixture
def config(terse_model_dir, small_shards, tmp_path):
    return TrainConfig(
        shards=small_shards, run=tmp_path / "run", model=str(terse_model_dir), batch_size=2, steps=5,
        learning_rate=1e-2, save_steps=2, eval_split="test", eval_steps=3, max_eval_share=1.0,
    )  # fmt: skip


TIMES = ("seconds", "data_wait", "eval_share", "first_step")


def without_times(run):
    return [{key: value for key, value in row.items() if not any(t in key for t in TIMES)} for row in read_rows(run)]


def test_steps_that_overlap_give_the_rows_checkpoints_and_parameters_of_steps_that_do_not(config, monkeypatch):
    monkeypatch.setattr(jax_train.train, "data_mesh", lambda fsdp: data_mesh(jax.devices()[:1], fsdp))
    alone = dataclasses.replace(config, run=config.run.with_name("alone"))
    monkeypatch.setattr(jax_train.train, "overlaps", lambda _: False)
    jax_train.train.train(alone)
    monkeypatch.setattr(jax_train.train, "overlaps", lambda _: True)
    jax_train.train.train(config)
    assert without_times(config.run) == without_times(alone.run)
    checkpoints = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (config.run, alone.run)]
    assert checkpoints[0] == checkpoints[1]
    (got, _), (want, _) = load_run(config.run), load_run(alone.run)
    assert all(map(np.array_equal, *(jax.tree.leaves(functional(model)[0]) for model in (got, want))))


def test_a_checkpoint_keeps_the_place_before_the_batch_that_was_sent_ahead(monkeypatch):
    """No step was given that batch yet: a run that goes on takes it."""
    monkeypatch.setattr(jax_train.batches, "to_devices", lambda batch, _mesh: batch)
    ahead = jax_train.batches.Ahead(iter(grain.MapDataset.range(1, 9).to_iter_dataset()), data_mesh())
    assert ahead.take()[0] == 1
    ahead.fetch(beside=jnp.zeros(()))
    place = ahead.get_state()
    assert ahead.take()[0] == 2
    ahead.fetch(beside=jnp.zeros(()))
    ahead.set_state(place)
    assert ahead.take()[0] == 2


def metrics(loss: float, grad_norm: float, skipped: bool = False) -> Metrics:
    return Metrics(jnp.float32(loss), jnp.int32(3), jnp.float32(grad_norm), jnp.asarray(skipped))


@pytest.fixture
def accounting():
    log = SimpleNamespace(skipped=0, step=lambda *_, **__: None)
    plan = SimpleNamespace(steps=1000, rows_of_step=lambda _: np.array([0]))
    index = {"id": np.array(["a clip"], object), "seconds": np.array([1.0])}
    config = TrainConfig(Path(), Path(), compute_dtype="float16")
    return Accounting(config, plan, index, np.full(1000, 1e-5, np.float32), log, left_out=0)


def test_a_loss_that_is_no_number_stops_a_float16_run_too(accounting):
    """A scale of the loss that is too large makes gradients overflow, never the loss itself."""
    accounting.count(Given(0, metrics(2.0, np.inf, skipped=True), 0.0))
    with pytest.raises(UserError, match=r"step 2: loss nan, .* clips a clip"):
        accounting.count(Given(1, metrics(np.nan, np.nan, skipped=True), 0.0))


def test_the_rate_of_a_step_is_that_of_the_schedule_which_counts_no_step_left_out(accounting, monkeypatch):
    """As the optimizer's own count, which a resumed run begins from."""
    logged = []
    monkeypatch.setattr(accounting._log, "step", lambda _, values, *__, **___: logged.append(values["learning_rate"]))
    monkeypatch.setattr(accounting, "_rates", np.arange(1000.0))
    for step, skipped in enumerate((False, True, True, False)):
        accounting.count(Given(step, metrics(2.0, np.inf if skipped else 1.0, skipped), 0.0))
    assert logged == [0.0, 1.0, 1.0, 1.0]
    for name in ("adamw", "adafactor", "lion", "muon"):
        optimizer = make_optimizer(TrainConfig(Path(), Path(), optimizer=name), optax.constant_schedule(1.0))
        params = {"a.kernel": jnp.ones((4, 4)), "a.bias": jnp.ones(4)}
        opt_state = optimizer.init(params)
        with jax.numpy_dtype_promotion("standard"):
            for _ in range(3):
                opt_state = optimizer.update(params, opt_state, params)[1]
        assert steps_left_out(TrainState(params, {}, opt_state, jnp.int32(5))) == 2, name


def test_overflows_are_counted_anew_after_a_step_without(accounting):
    for step in range(2 * MOST_OVERFLOWS):
        overflows = step != MOST_OVERFLOWS
        accounting.count(Given(step, metrics(2.0, np.inf if overflows else 1.0, overflows), 0.0))


def test_overflows_without_end_stop_a_float16_run(accounting):
    for step in range(MOST_OVERFLOWS):
        accounting.count(Given(step, metrics(2.0, np.inf, skipped=True), 0.0))
    with pytest.raises(UserError, match=f"step {MOST_OVERFLOWS + 1}: loss 2.0, gradient norm inf"):
        accounting.count(Given(MOST_OVERFLOWS, metrics(2.0, np.inf, skipped=True), 0.0))
