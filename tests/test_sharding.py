"""Parameters split over devices: the step of one device, a part of the memory; checkpoints fit any topology."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from data.errors import UserError
from jax_train.checkpoints import Checkpoints, load_run
from jax_train.gathering import gathering_layers, layer_of, whole_but_layers
from jax_train.model import functional
from jax_train.optimizer import make_optimizer
from jax_train.sharding import data_mesh, gathered, specs, split_axis
from jax_train.step import make_train_step
from jax_train.train import initial_state, train
from jax_train.weights import load_model
from tests.test_step import CONFIG, steps
from tests.test_windows import random_batch
from tests.torch_reference import SHALLOW, small_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return small_model_dir(tmp_path_factory.mktemp("sharding"), **SHALLOW)


@pytest.mark.parametrize(
    "options", [{"ema_decay": 0.5}, {"lora": dataclasses.replace(CONFIG.lora, rank=4)}], ids=["whole", "lora"]
)
def test_parameters_in_four_parts_take_the_step_of_one_device_in_a_quarter_of_the_room(model_dir, options):
    """1e-5 of the loss: sums in another order. Two steps move parameters by up to 2e-3; rounding turns few signs."""
    config = dataclasses.replace(CONFIG, **options)
    one = steps(model_dir, config, devices=1, windows=8)
    split = dataclasses.replace(config, fsdp=4)
    mesh = data_mesh(jax.devices(), split.fsdp)
    optimizer = make_optimizer(split, lambda _: jnp.float32(1e-3))
    state, build = initial_state(load_model(model_dir), optimizer, mesh, split)
    step = make_train_step(build, optimizer, mesh, split)
    for seed, (want, want_loss) in enumerate(one[1:]):
        state, metrics = step(state, random_batch(seed, mesh, batch=8))
        assert float(metrics.loss) == pytest.approx(want_loss, rel=1e-5)
        for name, value in want.params.items():
            difference = np.abs(np.asarray(state.params[name]) - value)
            assert np.mean(difference > 2e-5) < 0.02, name
            assert difference.max() <= 4.1e-3, name
        for part in (state.params, state.buffers, state.opt_state):
            assert share_on_a_device(part) == pytest.approx(0.25, abs=0.01)


def test_split_parameters_are_the_same_step_in_bfloat16(model_dir):
    """2e-4: whole, the matrix that the values' bias comes through is in float32 there; split, as it is gathered."""
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    whole, split = (steps(model_dir, dataclasses.replace(config, fsdp=fsdp), windows=8)[1:] for fsdp in (1, 2))
    assert [loss for _, loss in split] == pytest.approx([loss for _, loss in whole], rel=2e-4)


def test_gradients_of_what_was_gathered_in_bfloat16_add_up_in_float32():
    """1 and 2⁻⁹, of a device each: bfloat16 has eight bits, and would take 1 for their sum."""
    lies = PartitionSpec("fsdp")

    def gradient(own, weight):
        return jax.grad(lambda own: (gathered(own, lies, jnp.bfloat16) * weight).astype(jnp.float32).sum())(own)

    mesh = data_mesh(jax.devices()[:2], 2)
    split = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(lies, lies), out_specs=lies))
    assert split(jnp.ones(2), jnp.asarray([1, 2**-9], jnp.bfloat16)).tolist() == [1 + 2**-9] * 2


@pytest.mark.parametrize("remat", ["none", "feed_forward", "layers"])
def test_no_layer_keeps_what_it_gathered(model_dir, remat):
    """For its backward pass it gathers again; of activations it keeps what it would keep of whole parameters.

    In bfloat16, where what is cast might be kept in its place.
    """
    params, buffers, build = functional(load_model(model_dir, jnp.dtype("bfloat16"), remat=remat))
    found = []
    for fsdp in (1, 2):
        mesh = data_mesh(jax.devices()[:2], fsdp)
        in_specs = specs(params, mesh), specs(buffers, mesh)
        found.append(kept(build, mesh, in_specs, params, buffers))
    matrices = {name: x for name, x in params.items() if x.ndim > 1}
    parts = {(NamedSharding(mesh, in_specs[0][name]).shard_shape(x.shape), "float32") for name, x in matrices.items()}
    whole = {(x.shape, dtype) for name, x in matrices.items() if layer_of(name) for dtype in ("float32", "bfloat16")}
    assert found[0].keys() & (whole - parts)
    assert not found[1].keys() & (whole - parts)
    assert (matrices["decoder.embed_tokens.embedding"].shape[::-1], "bfloat16") in found[1]  # which is gathered once
    activations = [{of: n for of, n in counts.items() if {TOKENS, 1500, 3000} & set(of[0])} for counts in found]
    assert activations[0] == activations[1]


TOKENS = 5  # a size that no other axis has


def kept(build, mesh, in_specs, params, buffers) -> Counter[tuple[tuple[int, ...], str]]:
    """Shapes and types of what a device keeps of a forward pass."""
    lies = {**in_specs[0], **in_specs[1]}
    found: Counter[tuple[tuple[int, ...], str]] = Counter()

    def on_device(params, buffers):
        def logits(params):
            model = build(whole_but_layers(params, lies), whole_but_layers(buffers, lies))
            gathering_layers(model, lies)
            return model(jnp.zeros((1, 3000, 80)), jnp.zeros((1, TOKENS), jnp.int32))

        found.update((x.shape, str(x.dtype)) for x in jax.tree.leaves(jax.vjp(logits, params)[1]))
        return params

    jax.eval_shape(jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=in_specs[0]), params, buffers)
    return found


def share_on_a_device(tree) -> float:
    arrays = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
    return sum(leaf.addressable_shards[0].data.size for leaf in arrays) / sum(leaf.size for leaf in arrays)


@pytest.mark.parametrize(
    ("shape", "parts", "axis"), [((3, 80, 384), 4, 2), ((51_866, 64), 4, 1), ((6,), 4, None), ((8, 8), 1, None)]
)
def test_the_longest_axis_that_divides_is_split(shape, parts, axis):
    assert split_axis(shape, parts) == axis


def test_a_number_of_parts_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(UserError, match="--fsdp 3 does not divide 8 devices"):
        data_mesh(fsdp=3)


def test_a_checkpoint_of_one_topology_is_read_on_another(small_model_dir, small_shards, tmp_path):
    """Eight devices in two groups write it; one device goes on from it, bit for bit the same state."""
    config = dataclasses.replace(
        CONFIG, shards=small_shards, run=tmp_path / "run", model=str(small_model_dir), batch_size=8, steps=2, fsdp=4
    )
    config = dataclasses.replace(config, learning_rate=1e-2)
    train(config)
    optimizer = make_optimizer(config, lambda _: jnp.float32(1e-3))
    states = []
    for devices, fsdp in ((jax.devices(), 4), (jax.devices()[:2], 1)):
        mesh = data_mesh(devices, fsdp)
        like, _ = initial_state(load_model(small_model_dir), optimizer, mesh, dataclasses.replace(config, fsdp=fsdp))
        with Checkpoints(config.run) as checkpoints:
            states.append(checkpoints.restore(like)[0])
        name = "decoder.layers.0.fc1.kernel"
        assert states[-1].params[name].sharding.device_set == set(devices)
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(state) for state in states))
    for name, value in functional(load_run(config.run)[0])[0].items():
        np.testing.assert_array_equal(value, states[0].params[name], err_msg=name)
    assert train(dataclasses.replace(config, fsdp=1))["step"] == 2  # the same run, whatever the topology
