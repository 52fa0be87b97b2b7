"""Our Whisper equals Hugging Face's in PyTorch: logits, loss, gradients, one AdamW step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from data.errors import UserError
from jax_train.attention import attend
from jax_train.config import PUBLISHED, TrainConfig, WhisperConfig
from jax_train.loss import token_loss
from jax_train.model import Whisper, functional, jitted
from jax_train.optimizer import make_optimizer
from jax_train.sharding import data_mesh
from jax_train.step import TrainState, apply, make_train_step
from jax_train.weights import load_model, read_safetensors, to_torch_layout, torch_name
from tests.made_models import distribute
from tests.torch_reference import SHALLOW, load_torch, random_tokens, small_model_dir, speech_features, torch_loss

LENGTH = 40


@pytest.fixture(scope="module", params=["small-80", "small-128", "base"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "base":
        return request.getfixturevalue("base_model_dir")
    return small_model_dir(tmp_path_factory.mktemp(request.param), int(request.param.split("-")[1]))


@pytest.fixture(scope="module")
def batch(model_dir: Path, sample_corpus: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    config = WhisperConfig.from_folder(model_dir)
    clips = 1 if config.d_model == 512 else 2  # a window of base costs seconds, forward and backward
    names = sorted(path.name for path in (sample_corpus / "clips").glob("*.mp3"))[:clips]
    log_mel = speech_features(sample_corpus, names, config.num_mel_bins)
    return log_mel, *random_tokens(np.random.default_rng(0), clips, LENGTH, config.vocab_size)


@pytest.fixture(scope="module")
def theirs(model_dir, batch):
    """PyTorch's loss, gradients, and parameters after a step of AdamW, by name."""
    model = load_torch(model_dir)
    loss = torch_loss(model, *batch)
    loss.backward()
    # OpenAI's encoder positions are a buffer; transformers forgets requires_grad_(False) when it loads a folder.
    named = {name: p for name, p in model.named_parameters() if name != "model.encoder.embed_positions.weight"}
    gradients = {name: p.grad.numpy().copy() for name, p in named.items()}
    torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
    torch.optim.AdamW(named.values(), lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0).step()
    return float(loss.detach()), gradients, {name: p.detach().numpy() for name, p in named.items()}


@pytest.fixture(scope="module")
def ours(model_dir, batch):
    """Our loss, gradients and parameters."""
    params, buffers, build = functional(load_model(model_dir))

    def loss(params, log_mel, tokens, labels):
        nats, count = token_loss(build(params, buffers)(log_mel, tokens), labels)
        return nats / count.astype(jnp.float32)

    return *jax.jit(jax.value_and_grad(loss))(params, *map(jnp.asarray, batch)), params


def in_torch_layout(params):
    """Our parameters (or gradients) under PyTorch's names."""
    paths = {name: tuple(name.split(".")) for name in params}
    return {torch_name(paths[n]): to_torch_layout(paths[n], np.asarray(v)) for n, v in params.items()}


def test_logits_equal_hugging_face(model_dir, batch):
    log_mel, tokens, _ = batch
    with torch.no_grad():
        want = load_torch(model_dir)(
            input_features=torch.from_numpy(log_mel.transpose(0, 2, 1).copy()),
            decoder_input_ids=torch.from_numpy(tokens).long(),
        ).logits.numpy()
    got = np.asarray(jitted(load_model(model_dir))(jnp.asarray(log_mel), jnp.asarray(tokens)))
    # Float32 rounding through a dozen layers: measured 1e-6 to 3e-6 of the largest logit.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))


def test_loss_and_gradients_equal_hugging_face(ours, theirs):
    want_loss, want, _ = theirs
    got_loss, gradients, _ = ours
    assert float(got_loss) == pytest.approx(want_loss, rel=1e-5)
    got = in_torch_layout(gradients)
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        scale = np.linalg.norm(gradient)
        # Float32 sums over 1500 positions in another order; k_proj's gradient is itself a small difference.
        assert np.linalg.norm(got[name] - gradient) <= 1e-3 * scale + 1e-7, name


def test_one_adamw_step_equals_pytorch(ours, theirs):
    _, gradients, want = theirs
    _, own_gradients, params = ours
    optimizer = make_optimizer(TrainConfig(shards=Path(), run=Path(), weight_decay=0.0), lambda _: jnp.float32(1e-3))
    state = TrainState(params, {}, optimizer.init(params), jnp.zeros((), jnp.int32))
    after = jax.jit(lambda gradients, state: apply(optimizer, gradients, state)[0])(own_gradients, state)
    before, got = in_torch_layout(params), in_torch_layout(after)
    for name, value in want.items():
        # Adam's first step is lr · g / (|g| + eps): where |g| is no larger than the gradient's own rounding, its sign
        # is a coin toss, so those are left out; they are few.
        sure = np.abs(gradients[name]) > 1e-2 * np.abs(gradients[name]).max()
        moved, expected = got[name] - before[name], value - before[name]
        np.testing.assert_allclose(moved[sure], expected[sure], rtol=0, atol=2e-5, err_msg=name)


def test_published_sizes_have_the_published_parameter_counts():
    """Millions of parameters, table 1 of the paper and the cards of large-v3 and its turbo."""
    published = {
        "tiny": 39,
        "base": 74,
        "small": 244,
        "medium": 769,
        "large": 1550,
        "large-v3": 1550,
        "large-v3-turbo": 809,
    }
    for name, millions in published.items():
        leaves = jax.tree.leaves(nnx.state(Whisper(PUBLISHED[name])))
        count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        assert count / 1e6 == pytest.approx(millions, rel=0.07), name


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize(("is_causal", "keys"), [(False, 7), (False, 40), (True, 40)])
def test_attention_by_head_equals_jax_nn(is_causal, keys, one_by_one, monkeypatch):
    """One head after another, as on a CPU without a compiler, and all at once, as on older TPUs and GPUs."""
    monkeypatch.setattr("jax_train.cpu_attention.takes", lambda _: False)
    monkeypatch.setattr("jax_train.attention._one_by_one", lambda: one_by_one)
    q, k, v, weight = (
        jax.random.normal(key, (2, n, 3, 16))
        for key, n in zip(jax.random.split(jax.random.key(0), 4), (40, keys, keys, 40), strict=True)
    )

    def reference(q, k, v):
        return (jax.nn.dot_product_attention(q, k, v, is_causal=is_causal, implementation="xla") * weight).sum()

    def ours(q, k, v):
        return (attend(q, k, v, is_causal) * weight).sum()

    for got, want in zip(
        jax.tree.leaves(jax.value_and_grad(ours, (0, 1, 2))(q, k, v)),
        jax.tree.leaves(jax.value_and_grad(reference, (0, 1, 2))(q, k, v)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)  # float32 sums of a few dozen terms near 1


def test_a_missing_tensor_names_itself(tmp_path):
    from safetensors.numpy import save_file

    folder = small_model_dir(tmp_path / "model")
    tensors = read_safetensors(folder)
    tensors["model.encoder.surplus"] = tensors.pop("model.encoder.conv1.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing \['model.encoder.conv1.bias'\], unexpected \['model.encoder.surplus'\]"
    ):
        load_model(folder)


@pytest.mark.parametrize("count", [2, 8])
def test_the_step_on_several_devices_gives_the_losses_and_parameters_of_one(tmp_path, count):
    from tests.test_windows import random_batch

    model = load_model(small_model_dir(tmp_path / "model", **SHALLOW))
    config = TrainConfig(shards=Path(), run=Path())
    optimizer = make_optimizer(config, lambda _: jnp.float32(1e-3))
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:count]):
        mesh = data_mesh(devices)
        params, buffers, build = functional(model)
        step = make_train_step(build, optimizer, mesh, config)
        state = distribute(TrainState(params, buffers, optimizer.init(params), jnp.zeros((), jnp.int32)), mesh)
        losses = []
        for seed in range(3):
            state, metrics = step(state, random_batch(seed, mesh, batch=8))
            losses.append(float(metrics.loss))  # waits: queued steps deadlock several devices on few cores
        results.append((jax.device_get(state.params), losses))
    assert len(jax.devices()) == 8
    (one, one_losses), (several, several_losses) = results
    np.testing.assert_allclose(several_losses, one_losses, rtol=1e-5)  # sums in another order
    for name, value in one.items():
        # Three steps move a parameter by up to 3e-3; where its gradient is rounding noise, Adam may differ by its sign.
        difference = np.abs(several[name] - value)
        assert np.mean(difference > 1e-5) < 0.01, name
        assert difference.max() <= 6.1e-3, name
