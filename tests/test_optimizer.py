"""Optimizers, weight decay's mask, schedules and clipping are PyTorch's and Hugging Face's; Lion is its paper's."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    Trainer,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from data.errors import UserError
from jax_train.config import PUBLISHED, TrainConfig, learning_rate_for
from jax_train.model import Params, functional
from jax_train.optimizer import decayed, learning_rate_schedule, make_optimizer
from jax_train.step import TrainState, apply
from jax_train.weights import load_model, torch_name
from tests.torch_reference import load_torch, small_model_dir

RATE, DECAY, STEPS = 1e-3, 0.1, 3
CONFIG = TrainConfig(shards=Path(), run=Path(), weight_decay=DECAY)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def params(model_dir: Path) -> Params:
    return functional(load_model(model_dir))[0]


@pytest.fixture(scope="module")
def gradients(params: Params) -> list[Params]:
    """One tree a step, of global norm above and below 1; random, so that no element's sign hangs on rounding."""
    rng = np.random.default_rng(0)
    scales = (1e-1, 1e-4, 1e-2)
    return [{n: np.float32(scale * rng.standard_normal(p.shape)) for n, p in params.items()} for scale in scales]


def ours(config: TrainConfig, params: Params, gradients: list[Params]) -> list[dict[str, np.ndarray]]:
    """The parameters after each step."""
    optimizer = make_optimizer(config, lambda _: jnp.float32(RATE))
    state = TrainState(params, {}, optimizer.init(params), jnp.zeros((), jnp.int32))
    step = jax.jit(lambda grads, state: apply(optimizer, grads, state))
    after = []
    for grads in gradients:
        new, opt_state = step(jax.tree.map(jnp.asarray, grads), state)
        state = state._replace(params=new, opt_state=opt_state)
        after.append({name: np.asarray(value) for name, value in new.items()})
    return after


def theirs(make, params: Params, gradients: list[Params], layout=np.transpose) -> list[dict[str, np.ndarray]]:
    """The same with PyTorch, whose parameters are ours in `layout`, its own inverse; `make` gives its optimizers."""
    tensors = {n: torch.nn.Parameter(torch.from_numpy(layout(np.asarray(p)).copy())) for n, p in params.items()}
    optimizers = make(tensors)
    after = []
    for grads in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(layout(grads[name]).copy())
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        after.append({name: layout(tensor.detach().numpy()).copy() for name, tensor in tensors.items()})
    return after


def in_groups(tensors: dict[str, torch.nn.Parameter]) -> list[dict]:
    """PyTorch's parameter groups with and without weight decay."""
    mask = decayed(tensors)
    return [
        {"params": [t for n, t in tensors.items() if mask[n] == wanted], "weight_decay": DECAY * wanted}
        for wanted in (True, False)
    ]


def assert_moves_equal(got, want, before, tolerance):
    """Every parameter's move from where it stood equals PyTorch's, in proportion to the largest move."""
    for step, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        for name, value in theirs.items():
            start = np.asarray(before[name]) if step == 0 else want[step - 1][name]
            largest = np.abs(value - start).max()
            # Parameters up to 1 are themselves rounded to 6e-8, once a step.
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=tolerance * largest + 3e-7, err_msg=name)


def test_adamw_steps_equal_pytorchs(params, gradients):
    """1e-4: float32 rounding of Adam's square roots and quotients."""
    want = theirs(
        lambda tensors: [torch.optim.AdamW(in_groups(tensors), lr=RATE, betas=(0.9, 0.98), eps=1e-8)],
        params,
        gradients,
    )
    assert_moves_equal(ours(CONFIG, params, gradients), want, params, 1e-4)


def test_adafactor_steps_equal_pytorchs(params, gradients):
    """With the paper's eps, and convolutions laid out so that PyTorch too factors them over their channels."""
    want = theirs(
        lambda tensors: [torch.optim.Adafactor(in_groups(tensors), lr=RATE, eps=(1e-16, 1e-3))],
        params,
        gradients,
        layout=lambda x: np.swapaxes(x, -1, -2) if x.ndim > 1 else x,
    )
    assert_moves_equal(ours(dataclasses.replace(CONFIG, optimizer="adafactor"), params, gradients), want, params, 1e-4)


@pytest.mark.parametrize(("rounded", "tolerance"), [(False, 1e-3), (True, 0.1)])
def test_muon_steps_equal_pytorchs(params, gradients, rounded, tolerance, monkeypatch):
    """PyTorch orthogonalizes in bfloat16, an error of some hundredths; in float32 it is ours."""
    if not rounded:
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())

    def optimizers(tensors):
        matrices = {n: t for n, t in tensors.items() if n.endswith(".kernel") and t.ndim == 2}
        rest = {n: t for n, t in tensors.items() if n not in matrices}
        return [
            torch.optim.Muon(matrices.values(), lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(in_groups(rest), lr=RATE, betas=(0.9, 0.98), eps=1e-8),
        ]

    got = ours(dataclasses.replace(CONFIG, optimizer="muon"), params, gradients)
    assert_moves_equal(got, theirs(optimizers, params, gradients), params, tolerance)


def test_lion_steps_are_its_papers(params, gradients):
    """Algorithm 2 of arXiv 2302.06675 in float64; PyTorch has no Lion."""
    config = dataclasses.replace(CONFIG, optimizer="lion", max_grad_norm=0.0, beta2=0.99)
    values = {name: np.asarray(value, np.float64) for name, value in params.items()}
    momentum = {name: np.zeros(value.shape) for name, value in params.items()}
    want = []
    for grads in gradients:
        for name, g in grads.items():
            update = np.sign(0.9 * momentum[name] + 0.1 * g)
            momentum[name] = 0.99 * momentum[name] + 0.01 * g
            decay = DECAY if decayed(params)[name] else 0.0
            values[name] = values[name] - RATE * (update + decay * values[name])
        want.append(dict(values))
    assert_moves_equal(ours(config, params, gradients), want, params, 1e-4)


@pytest.mark.parametrize(("optimizer", "share"), [("adamw", 2.0), ("lion", 1.0), ("muon", 1.24), ("adafactor", 0.05)])
def test_optimizers_keep_as_much_as_their_help_says(params, optimizer, share):
    """In float32 numbers per parameter, of a model with the published proportions."""
    state = make_optimizer(dataclasses.replace(CONFIG, optimizer=optimizer), lambda _: jnp.float32(RATE)).init(params)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state)) / sum(value.size for value in params.values())
    assert numbers == pytest.approx(share, abs=0.05)


def test_weight_decay_covers_what_hugging_faces_trainer_covers(model_dir, params):
    model = load_torch(model_dir)
    want = set(Trainer.get_decay_parameter_names(None, model))
    want -= {"model.encoder.embed_positions.weight", "proj_out.weight"}  # a buffer; the token embedding's other name
    assert {torch_name(tuple(name.split("."))) for name, yes in decayed(params).items() if yes} == want
    assert "model.decoder.embed_tokens.weight" in want


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
        ("constant", lambda optimizer, warmup, _: get_constant_schedule_with_warmup(optimizer, warmup)),
    ],
)
def test_schedules_are_hugging_faces_but_for_its_first_step_at_rate_0(name, reference):
    steps, warmup, peak = 40, 8, 2e-3
    schedule = learning_rate_schedule(dataclasses.replace(CONFIG, schedule=name, warmup=warmup / steps), peak, steps)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = reference(optimizer, warmup, steps)
    want = []
    for _ in range(steps):
        want.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    got = [float(schedule(step)) for step in range(steps)]
    assert got[warmup:] == pytest.approx(want[warmup:], rel=1e-5)
    assert got[: warmup - 1] == pytest.approx(want[1:warmup], rel=1e-5)  # rises one step earlier
    assert got[warmup - 1] == pytest.approx(peak)


def test_only_optimizers_at_adamws_scale_have_a_usual_rate():
    assert learning_rate_for(PUBLISHED["tiny"], "muon") == learning_rate_for(PUBLISHED["tiny"])
    for optimizer in ("lion", "adafactor"):
        with pytest.raises(UserError, match=f"no usual learning rate for {optimizer}: give --learning-rate"):
            learning_rate_for(PUBLISHED["tiny"], optimizer)
