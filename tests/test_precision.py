"""float16 with a scaled loss, and recomputed activations: the same training, other costs."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_train.loss_scale import INITIAL, STEPS_TO_DOUBLE, LossScale
from tests.test_step import CONFIG, steps
from tests.torch_reference import SHALLOW, small_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return small_model_dir(tmp_path_factory.mktemp("precision"), **SHALLOW)


@pytest.fixture(scope="module")
def whole(model_dir):
    return steps(model_dir, CONFIG)


def test_recomputed_activations_give_the_same_step(model_dir, whole):
    """1e-5: the compiler fuses, and so rounds, in another way."""
    again = steps(model_dir, dataclasses.replace(CONFIG, remat=True))
    for (_, loss), (_, want) in zip(again[1:], whole[1:], strict=True):
        assert loss == pytest.approx(want, rel=1e-5)


def test_float16_trains_as_float32_does_and_leaves_out_a_step_that_overflows(model_dir, whole):
    """1 %: eleven bits. The first scales overflow in this model of large random weights: those steps change nothing."""
    with jax.numpy_dtype_promotion("standard"):  # Flax's own layer norm mixes types that strict promotion refuses
        seen = steps(model_dir, dataclasses.replace(CONFIG, compute_dtype="float16"), count=8)
    scales = [float(state.loss_scale.scale) for state, _ in seen]
    assert scales[0] == INITIAL
    moved = []
    for (before, _), (after, loss) in itertools.pairwise(seen):
        moved.append(any(np.any(before.params[name] != after.params[name]) for name in before.params))
        halved = after.loss_scale.scale == before.loss_scale.scale / 2
        assert moved[-1] != halved
        assert int(after.step) == int(before.step) + 1
        assert np.isfinite(loss)
        assert all(np.isfinite(value).all() for value in after.params.values())
    assert any(moved)
    assert seen[1][1] == pytest.approx(whole[1][1], rel=0.01)
    assert {value.dtype for value in seen[-1][0].params.values()} == {np.dtype(np.float32)}


def test_the_scale_doubles_after_many_good_steps_and_halves_at_a_bad_one():
    """As torch.amp.GradScaler: twice after 2,000, half at once, and never below 1."""
    scale = LossScale(jnp.float32(8), jnp.int32(STEPS_TO_DOUBLE - 2))
    seen = []
    for finite in (True, True, True, False, False, False, False, False, False):
        scale = scale.after(jnp.asarray(finite))
        seen.append((float(scale.scale), int(scale.good_steps)))
    assert seen[:4] == [(8, STEPS_TO_DOUBLE - 1), (16, 0), (16, 1), (8, 0)]
    assert seen[-1] == (1, 0)
