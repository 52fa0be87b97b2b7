"""The train step's options: label smoothing, accumulation, frozen parameters and the moving average."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from data.errors import UserError
from jax_train.checkpoints import Checkpoints, load_run
from jax_train.config import Lora, TrainConfig
from jax_train.loss import token_loss
from jax_train.model import functional
from jax_train.optimizer import frozen_names, make_optimizer
from jax_train.runlog import read_rows
from jax_train.sharding import data_mesh
from jax_train.spec_augment import SpecAugment
from jax_train.step import TrainState, make_train_step
from jax_train.train import initial_state, train
from jax_train.weights import load_model, torch_name
from jax_train.windows import IGNORE
from tests.power_cut import train_until_power_cut
from tests.test_windows import random_batch
from tests.torch_reference import SHALLOW, small_model_dir

pytestmark = pytest.mark.usefixtures("two_devices")
CONFIG = TrainConfig(shards=Path(), run=Path(), compute_dtype="float32")
ENCODER = ("model.encoder.*",)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model_dir(tmp_path_factory.mktemp("model"), **SHALLOW)


def steps(
    model_dir: Path, config: TrainConfig, devices: int = 2, count: int = 2, windows: int = 4
) -> list[tuple[TrainState, float]]:
    """The states before training and after each step, with the step's loss."""
    mesh = data_mesh(jax.devices()[:devices], config.fsdp)
    optimizer = make_optimizer(config, lambda _: jnp.float32(1e-3))
    model = load_model(
        model_dir, jnp.dtype(config.compute_dtype), remat=config.remat if config.remat != "auto" else "none"
    )
    state, build = initial_state(model, optimizer, mesh, config)
    step = make_train_step(build, optimizer, mesh, config)
    seen = [(jax.tree.map(np.array, state), np.nan)]  # copies: the step consumes what jax.device_get would look into
    for seed in range(count):
        state, metrics = step(state, random_batch(seed, mesh, batch=windows))
        seen.append((jax.tree.map(np.array, state), float(metrics.loss)))
    return seen


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_pytorchs(label_smoothing):
    """Loss and gradient, with ignored labels; 1e-5: float32 sums over the vocabulary in another order."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((2, 9, 50))).astype(np.float32)
    labels = rng.integers(0, 50, (2, 9)).astype(np.int32)
    labels[0, 4:] = labels[1, 7:] = IGNORE

    def loss(logits_BLV):
        return token_loss(logits_BLV, jnp.asarray(labels), label_smoothing)

    (nats, tokens), grads = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    tensor = torch.from_numpy(logits).requires_grad_()
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing, ignore_index=IGNORE)
    want = criterion(tensor.flatten(0, 1), torch.from_numpy(labels).long().flatten())
    want.backward()
    assert float(nats) / int(tokens) == pytest.approx(want.item(), rel=1e-5)
    np.testing.assert_allclose(np.asarray(grads) / int(tokens), tensor.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_accumulation_equals_the_large_batch(model_dir):
    """Windows differ in label tokens, so a mean of the parts' means would not; AdamW's first steps are signs."""
    sgd_like = dataclasses.replace(CONFIG, optimizer="muon", freeze=("*bias", "*embed*", "*norm*", "*conv*"))
    whole = steps(model_dir, sgd_like, windows=8)
    split = steps(model_dir, dataclasses.replace(sgd_like, gradient_accumulation_steps=4), windows=8)
    for (state, loss), (want, want_loss) in zip(split[1:], whole[1:], strict=True):
        assert loss == pytest.approx(want_loss, rel=1e-5)
        for name, value in want.params.items():
            moved = np.abs(value - whole[0][0].params[name]).max()
            np.testing.assert_allclose(state.params[name], value, rtol=0, atol=5e-3 * moved, err_msg=name)


def test_frozen_parameters_stay_bit_for_bit_and_have_no_optimizer_state(model_dir):
    free, frozen = (steps(model_dir, dataclasses.replace(CONFIG, freeze=freeze)) for freeze in ((), ENCODER))
    (before, _), *_, (after, _) = frozen
    for name, value in before.params.items():
        assert np.array_equal(after.params[name], value) == name.startswith("encoder."), name
    assert frozen[1][1] == pytest.approx(free[1][1], rel=1e-6)  # the first loss: the same model

    def numbers(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    trained = numbers({name: value for name, value in before.params.items() if name.startswith("decoder.")})
    assert numbers(after.opt_state) == pytest.approx(2 * trained, abs=10)


def test_freezing_goes_by_pytorchs_names(model_dir):
    params = functional(load_model(model_dir))[0]
    names = {name: torch_name(tuple(name.split("."))) for name in params}
    assert {names[name] for name in frozen_names(params, ("*.fc?.bias", "model.decoder.embed_*"))} == {
        name for name in names.values() if name.endswith(("fc1.bias", "fc2.bias")) or ".decoder.embed_" in name
    }
    with pytest.raises(UserError, match=r"--freeze encoder\.\*: matches no parameter; names are PyTorch's, for exam"):
        frozen_names(params, ("model.encoder.*", "encoder.*"))
    with pytest.raises(UserError, match=r"--freeze model\.\*: leaves no parameter to train"):
        frozen_names(params, ("model.*",))


def test_the_moving_average_is_pytorchs(model_dir):
    """Of the trained parameters, from those before the first step on; 1e-6: float32 rounding."""
    seen = steps(model_dir, dataclasses.replace(CONFIG, ema_decay=0.7, freeze=ENCODER), count=3)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)
    assert seen[0][0].ema.keys() == {name for name in seen[0][0].params if name.startswith("decoder.")}
    for name in seen[0][0].ema:
        want = [torch.from_numpy(seen[0][0].params[name].copy())]
        for state, _ in seen[1:]:
            average(want, [torch.from_numpy(state.params[name].copy())], None)
            np.testing.assert_allclose(state.ema[name], want[0].numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture
def everything(small_model_dir: Path, small_shards: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=small_shards,
        run=tmp_path / "run",
        model=str(small_model_dir),
        batch_size=4,
        steps=3,
        learning_rate=1e-2,
        save_steps=1,
        optimizer="muon",
        gradient_accumulation_steps=2,
        label_smoothing=0.1,
        freeze=("model.encoder.*",),
        ema_decay=0.5,
    )


def test_a_run_with_every_option_resumes_bit_for_bit_and_evaluates_the_average(everything, monkeypatch):
    undisturbed = dataclasses.replace(everything, run=everything.run.with_name("undisturbed"))
    train(undisturbed)
    train_until_power_cut(everything, 3, monkeypatch)
    train(everything)
    assert [row["loss"] for row in read_rows(everything.run)] == [row["loss"] for row in read_rows(undisturbed.run)]

    ours, theirs = (functional(load_run(run)[0])[0] for run in (everything.run, undisturbed.run))
    optimizer = make_optimizer(everything, lambda _: jnp.float32(0.0))
    mesh = data_mesh()
    like, _ = initial_state(load_model(Path(everything.model)), optimizer, mesh, everything)
    start = jax.tree.map(np.array, like.params)
    with Checkpoints(everything.run) as checkpoints:
        saved = checkpoints.restore(like)[0]
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
        np.testing.assert_array_equal(value, (saved.params | saved.ema)[name], err_msg=name)
        assert np.array_equal(value, start[name]) == name.startswith("encoder."), name
    assert not np.array_equal(saved.params["decoder.layers.0.fc1.kernel"], saved.ema["decoder.layers.0.fc1.kernel"])


def test_a_run_of_adapters_resumes_bit_for_bit_and_is_evaluated_with_them_merged(everything, monkeypatch):
    lora = Lora(rank=4, alpha=8.0, targets=("q_proj", "decoder.*.fc1"))
    adapters = TrainConfig(everything.shards, everything.run, model=everything.model, batch_size=2, steps=3, lora=lora)
    adapters = dataclasses.replace(adapters, learning_rate=1e-2, save_steps=1)
    undisturbed = dataclasses.replace(adapters, run=adapters.run.with_name("undisturbed"))
    train(undisturbed)
    train_until_power_cut(adapters, 3, monkeypatch)
    train(adapters)
    ours, theirs = (functional(load_run(run)[0])[0] for run in (adapters.run, undisturbed.run))
    start = functional(load_model(Path(everything.model)))[0]
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
        adapted = "q_proj.kernel" in name or (name.startswith("decoder") and "fc1.kernel" in name)
        assert np.array_equal(value, start[name]) != adapted, name
    change = np.asarray(theirs["encoder.layers.0.self_attn.q_proj.kernel"]) - np.asarray(
        start["encoder.layers.0.self_attn.q_proj.kernel"]
    )
    assert np.linalg.matrix_rank(change, tol=1e-6) <= lora.rank


def test_freezing_beside_adapters_is_refused(everything):
    with pytest.raises(UserError, match="--freeze with LoRA"):
        dataclasses.replace(everything, lora=Lora())


def test_spec_augment_masks_the_same_on_any_number_of_devices(model_dir):
    """1e-6: the same numbers added in another order. Masks move this random model's loss by 1e-3 of itself."""
    masked = dataclasses.replace(CONFIG, spec_augment=SpecAugment(mask_time_prob=0.5, mask_feature_prob=0.3))
    one, two = (steps(model_dir, masked, devices=devices, count=1)[1][1] for devices in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)
    assert one != pytest.approx(steps(model_dir, CONFIG, devices=1, count=1)[1][1], rel=1e-4)


def test_a_run_from_before_an_option_existed_is_continued(everything):
    plain = dataclasses.replace(TrainConfig(everything.shards, everything.run), model=everything.model, batch_size=2)
    plain = dataclasses.replace(plain, steps=2, learning_rate=1e-2)
    result = train(plain)
    path = plain.run / "config.json"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"optimizer"' not in line))
    assert train(plain) == result


def test_parts_that_do_not_divide_a_devices_windows_are_refused(everything):
    with pytest.raises(UserError, match="--gradient-accumulation-steps 3 does not divide a device's 2 windows"):
        train(dataclasses.replace(everything, gradient_accumulation_steps=3))
