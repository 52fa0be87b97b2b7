"""LoRA: gradients equal PyTorch's, a fresh adapter changes nothing, merging is what the step computed."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from data.errors import UserError
from jax_train.config import Lora, TrainConfig
from jax_train.lora import adapted, init, merge, merged, merging, summary
from jax_train.loss import token_loss
from jax_train.model import functional
from jax_train.sharding import data_mesh
from jax_train.step import TrainState, make_train_step
from jax_train.weights import load_model
from jax_train.windows import Window
from tests.made_models import distribute
from tests.torch_reference import SMALL, load_torch, random_tokens, small_model_dir, torch_loss

SIZES = (7, 12, 5)
RANK, ALPHA = 3, 6.0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return small_model_dir(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def model(model_dir):
    return load_model(model_dir)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    log_mel = rng.uniform(-1, 1, (2, 3000, 80)).astype(np.float32)
    return log_mel, *random_tokens(rng, 2, 16, SMALL["vocab_size"])


def adapted_model(model, lora):
    """Adapters, all that the model has, and what builds it from the two."""
    params, buffers, build = functional(model)
    return *adapted(params, buffers, lora, jax.random.key(0)), merging(build, buffers.keys(), lora.alpha)


def stack() -> dict[str, jax.Array]:
    """Two linear layers as a flat parameter dict."""
    rng = np.random.default_rng(1)
    params = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(SIZES)):
        params[f"layers.{layer}.fc.kernel"] = jnp.asarray(rng.normal(size=(n_in, n_out)), jnp.float32)
        params[f"layers.{layer}.fc.bias"] = jnp.asarray(rng.normal(size=n_out), jnp.float32)
    return params


def trained(adapters: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Adapters as after some training: B is not 0."""
    rng = np.random.default_rng(2)
    return {name: value + rng.normal(size=value.shape).astype(np.float32) * 0.1 for name, value in adapters.items()}


def as_torch(adapters: dict[str, jax.Array]) -> dict[str, torch.Tensor]:
    """The adapters as leaves in PyTorch's layout, (R, I) and (O, R)."""
    return {name: torch.from_numpy(np.array(value).T.copy()).requires_grad_() for name, value in adapters.items()}


def assert_same_gradients(ours: dict[str, jax.Array], theirs: dict[str, torch.Tensor], rtol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        want = theirs[name].grad.numpy().T
        assert np.abs(want).max() > 0, name
        np.testing.assert_allclose(value, want, rtol=0, atol=rtol * np.abs(want).max(), err_msg=name)


def test_gradients_of_a_linear_stack_equal_pytorchs():
    """1e-5 of the largest: float32 sums of at most 12 products in another order."""
    params = stack()
    adapters = trained(init(params, RANK, ["fc"], jax.random.key(0)))
    x = np.random.default_rng(3).normal(size=(4, SIZES[0])).astype(np.float32)

    def loss(adapters):
        full, y = merged(params, adapters, ALPHA), jnp.asarray(x)
        for layer in range(2):
            y = jnp.tanh(y @ full[f"layers.{layer}.fc.kernel"] + full[f"layers.{layer}.fc.bias"][None])
        return (y**2).sum()

    ours = jax.grad(loss)(adapters)
    theirs, y = as_torch(adapters), torch.from_numpy(x)
    for layer in range(2):
        weight, bias = (torch.from_numpy(np.array(params[f"layers.{layer}.fc.{end}"]).T) for end in ("kernel", "bias"))
        a, b = (theirs[f"layers.{layer}.fc.lora_{end}.kernel"] for end in "AB")
        linear = torch.nn.functional.linear
        y = torch.tanh(linear(y, weight, bias) + ALPHA / RANK * linear(linear(y, a), b))
    (y**2).sum().backward()
    assert_same_gradients(ours, theirs, 1e-5)


def test_loss_and_gradients_of_whisper_equal_pytorchs(model, model_dir, batch):
    """PyTorch adds B(A x) to each layer's output; 1e-3 of an adapter's largest gradient, and 1e-5 of the loss: float32
    through five layers, 1500 positions."""
    lora = Lora(RANK, ALPHA, ("q_proj", "v_proj", "decoder.*.fc1"))
    adapters, frozen, build = adapted_model(model, lora)
    adapters = trained(adapters)
    log_mel, tokens, labels = batch

    def loss(adapters):
        logits = build(adapters, frozen)(jnp.asarray(log_mel), jnp.asarray(tokens))
        nats, count = token_loss(logits, jnp.asarray(labels))
        return nats / count.astype(jnp.float32)

    with jax.default_matmul_precision("highest"):
        value, ours = jax.jit(jax.value_and_grad(loss))(adapters)
    reference, theirs = load_torch(model_dir), as_torch(adapters)
    linear = torch.nn.functional.linear
    for path, module in reference.model.named_modules():
        if f"{path}.lora_A.kernel" in theirs:
            a, b = (theirs[f"{path}.lora_{end}.kernel"] for end in "AB")
            module.register_forward_hook(
                lambda _module, inputs, output, a=a, b=b: output + ALPHA / RANK * linear(linear(inputs[0], a), b)
            )
    want = torch_loss(reference, *batch)
    want.backward()
    assert float(value) == pytest.approx(want.item(), rel=1e-5)
    assert_same_gradients(ours, theirs, 1e-3)


def test_a_fresh_adapter_changes_nothing_bit_for_bit(model, batch):
    params, buffers, build = functional(model)
    adapters, frozen, build_adapted = adapted_model(model, Lora(targets=("*",)))
    for name, value in merged(params, adapters, 64.0).items():
        np.testing.assert_array_equal(value, params[name], err_msg=name)
    log_mel, tokens = jnp.asarray(batch[0]), jnp.asarray(batch[1])
    logits = jax.jit(lambda params, buffers: build(params, buffers)(log_mel, tokens))(params, buffers)
    adapted_logits = jax.jit(lambda params, buffers: build_adapted(params, buffers)(log_mel, tokens))(adapters, frozen)
    np.testing.assert_array_equal(adapted_logits, logits)


def test_a_step_trains_the_adapters_alone_on_every_device(model_dir):
    """The project's own step takes `adapted` as it takes `functional`, and consumes it."""
    adapters, frozen, build = adapted_model(load_model(model_dir), Lora(4))
    optimizer = optax.sgd(1e-2)
    mesh = data_mesh()
    before = {name: np.array(value) for name, value in (adapters | frozen).items()}
    state = TrainState(adapters, frozen, optimizer.init(adapters), jnp.zeros((), jnp.int32))
    rng = np.random.default_rng(4)
    tokens, labels = random_tokens(rng, 8, 48, SMALL["vocab_size"])
    window = Window(
        rng.integers(0, 256, (8, 3000, 80)).astype(np.uint8), np.full((8, 3000), 0.5, np.float32), tokens, labels
    )
    state, metrics = make_train_step(build, optimizer, mesh, TrainConfig(Path(), Path()))(
        distribute(state, mesh), window
    )
    assert np.isfinite(float(metrics.loss))
    for name, value in state.buffers.items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    # B is 0 at first, so A's first gradient is 0 and B's is not.
    assert all((np.asarray(value) != before[name]).any() == ("lora_B" in name) for name, value in state.params.items())


def test_merging_for_good_is_what_the_step_computed_and_touches_nothing_else(model):
    """1e-5 of the largest entry: the default product on the CPU is float32 already."""
    params, _, _ = functional(model)
    adapters = trained(init(params, 4, ["encoder.*.q_proj"], jax.random.key(0)))
    full = merge(params, adapters, 8.0)
    assert full.keys() == params.keys()
    touched = {name for name in params if not np.array_equal(full[name], params[name])}
    assert touched == {f"encoder.layers.{layer}.self_attn.q_proj.kernel" for layer in range(SMALL["encoder_layers"])}
    for name in touched:
        a, b = (np.asarray(adapters[name.replace("kernel", f"lora_{end}.kernel")], np.float64) for end in "AB")
        np.testing.assert_allclose(full[name], np.asarray(params[name], np.float64) + 2.0 * a @ b, rtol=0, atol=1e-5)


def test_a_layers_first_adapter_does_not_depend_on_the_other_targets():
    params = stack()
    both, one = (init(params, RANK, targets, jax.random.key(0)) for targets in (["fc"], ["1.fc"]))
    assert set(one) == {"layers.1.fc.lora_A.kernel", "layers.1.fc.lora_B.kernel"}
    for name, value in one.items():
        np.testing.assert_array_equal(value, both[name])
    a = np.asarray(both["layers.1.fc.lora_A.kernel"])
    assert 0.5 / SIZES[1] ** 0.5 < np.abs(a).max() <= 1 / SIZES[1] ** 0.5
    twins = init({f"{name}.kernel": jnp.ones((4, 4)) for name in "ab"}, RANK, ["*"], jax.random.key(0))
    assert not np.array_equal(twins["a.lora_A.kernel"], twins["b.lora_A.kernel"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_frozen_matrices_may_be_kept_in_two_bytes_and_the_adapters_stay_float32(model, dtype):
    adapters, frozen, _ = adapted_model(model, Lora(4, frozen_dtype=dtype))
    assert {value.dtype for value in adapters.values()} == {jnp.dtype(jnp.float32)}
    assert {str(value.dtype) for name, value in frozen.items() if name.endswith(".kernel")} == {dtype}
    assert frozen["encoder.layer_norm.scale"].dtype == jnp.float32
    full = merged(frozen, trained(adapters), 8.0)
    assert {name: value.dtype for name, value in full.items()} == {name: x.dtype for name, x in frozen.items()}


def test_the_number_of_trainable_parameters_is_said():
    """Rank 3: 3 · (7 + 12) + 3 · (12 + 5) = 108 of 7 · 12 + 12 + 12 · 5 + 5 = 161."""
    params = stack()
    adapters = init(params, RANK, ["fc"], jax.random.key(0))
    assert summary(params, adapters) == "LoRA: 108 trainable parameters in 2 layers, 67.08% of 161"


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ("q_proj", "query")}, r"target 'query' matches no linear layer; there are fc1, fc2, k_proj"),
        ({"targets": ("conv1",)}, "target 'conv1' matches no linear layer"),
        ({"targets": ("encoder.*.encoder_attn.q_proj",)}, "matches no linear layer"),
        ({"rank": 65}, r"rank 65: decoder\.layers\.0\.encoder_attn\.q_proj is 64 × 64"),
        ({"rank": -1}, "rank -1: at least 1"),
        ({"alpha": 0.0}, r"alpha 0\.0: more than 0"),
        ({"targets": ()}, "without targets"),
    ],
)
def test_a_wrong_setting_is_said(model, lora, message):
    with pytest.raises(UserError, match=message):
        adapted_model(model, Lora(**lora))


@pytest.mark.parametrize("name", ["layers.9.fc.lora_A.kernel", "layers.1.fc.lora_A.kernel", "layers.1.fc.bias"])
def test_adapters_of_another_model_are_not_merged(name):
    params = stack()
    adapters = init(params, RANK, ["0.fc"], jax.random.key(0)) | {name: jnp.zeros((2, RANK))}
    with pytest.raises(UserError, match="adapters of another model"):
        merge(params, adapters, ALPHA)
