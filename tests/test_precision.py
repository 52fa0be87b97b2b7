"""Number types: float16 with a scaled loss, which type suits a device, and a GPU's same bits every time."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.errors import UserError
from jax_train.decode import BatchDecoder, on_rows
from jax_train.decoding_rules import DecodingRules
from jax_train.loss_scale import INITIAL, STEPS_TO_DOUBLE, LossScale
from jax_train.precision import SAME_BITS, decided, same_bits, suited
from jax_train.train import train
from jax_train.weights import load_model
from tests.conftest import REPOSITORY
from tests.test_step import CONFIG, steps
from tests.torch_reference import SHALLOW, small_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return small_model_dir(tmp_path_factory.mktemp("precision"), **SHALLOW)


@pytest.fixture(scope="module")
def whole(model_dir):
    return steps(model_dir, CONFIG)


@pytest.mark.parametrize("remat", ["feed_forward", "layers"])
def test_recomputed_activations_give_the_same_step(model_dir, whole, remat):
    """1e-5: the compiler fuses, and so rounds, in another way."""
    again = steps(model_dir, dataclasses.replace(CONFIG, remat=remat))
    for (_, loss), (_, want) in zip(again[1:], whole[1:], strict=True):
        assert loss == pytest.approx(want, rel=1e-5)


def test_float16_trains_as_float32_does_and_leaves_out_a_step_that_overflows(model_dir, whole):
    """1 %: eleven bits. The first scales overflow in this model of large random weights: those steps change nothing."""
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


@pytest.mark.parametrize(
    ("platform", "capability", "dtype"),
    [
        ("tpu", None, "bfloat16"),
        ("gpu", "9.0", "bfloat16"),
        ("gpu", "8.0", "bfloat16"),
        ("gpu", "7.5", "float16"),
        ("gpu", "gfx90a", "float16"),
        ("cpu", None, "float32"),
    ],
)
def test_each_device_has_a_type_that_suits_it(platform, capability, dtype):
    device = SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))
    assert suited(device) == dtype


@pytest.mark.usefixtures("two_devices")
def test_a_run_keeps_its_type_on_a_machine_that_another_would_suit(
    small_model_dir, small_shards, tmp_path, monkeypatch
):
    """Begun on a CPU, which a new run on an A100 would not be like; and what the type became stands in its settings."""
    config = dataclasses.replace(
        CONFIG, shards=small_shards, run=tmp_path / "run", model=str(small_model_dir), batch_size=2, steps=1,
        learning_rate=1e-2, compute_dtype="auto",
    )  # fmt: skip
    train(config)
    assert json.loads((config.run / "config.json").read_text())["compute_dtype"] == "float32"
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu", compute_capability="8.0")])
    assert decided(config).compute_dtype == "float32"
    assert decided(dataclasses.replace(config, run=tmp_path / "other")).compute_dtype == "bfloat16"
    assert decided(dataclasses.replace(config, compute_dtype="float16")).compute_dtype == "float16"
    settings = json.loads((config.run / "config.json").read_text())
    settings.pop("compute_dtype")  # a run from before the setting
    (config.run / "config.json").write_text(json.dumps(settings))
    assert decided(config).compute_dtype == "float32"


DETERMINISTIC = """
import os, sys
import jax_train.train
jax_train.train.train = lambda config, stop: sys.exit(os.environ["XLA_FLAGS"] + f" {len(__import__('jax').devices())}")
sys.argv[1:] = ["--shards", "shards", "--run", "run", *sys.argv[1:]]
jax_train.train.main()
"""


@pytest.mark.parametrize("options", [[], ["--deterministic"]])
def test_deterministic_reaches_xla_beside_the_flags_that_are_there(options, tmp_path):
    """XLA ends a process whose flags it does not know: it starts with them, and with the two devices of the other."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    flags = " ".join(["--xla_force_host_platform_device_count=2", *([SAME_BITS] if options else [])])
    assert done.stderr.splitlines()[-1] == f"{flags} 2"


def test_deterministic_is_refused_once_jax_has_started_with_other_flags(monkeypatch):
    jax.devices()
    config = dataclasses.replace(CONFIG, deterministic=True)
    with pytest.raises(UserError, match=f"--deterministic: JAX has started in this process already; .*{SAME_BITS}"):
        same_bits(config)
    same_bits(CONFIG)
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {SAME_BITS}")
    same_bits(config)


GENERATION = {"decoder_start_token_id": 1, "no_timestamps_token_id": 4, "eos_token_id": 0}
GENERATION |= {"lang_to_id": {"<|it|>": 2}, "task_to_id": {"transcribe": 3}}


class LoweredError(Exception):
    """Its argument is the program."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_decodes_in_float32_has_products_of_all_its_bits_on_every_device(model_dir, monkeypatch, dtype):
    """A TPU would multiply in bfloat16 unasked, a GPU in TF32, and the score would be called float32's."""

    def lowered(*arguments):
        program = on_rows(*arguments)

        def lower(*shapes):
            raise LoweredError(program.lower(*shapes).as_text())

        return SimpleNamespace(lower=lower)

    monkeypatch.setattr("jax_train.decode.on_rows", lowered)
    (model_dir / "generation_config.json").write_text(json.dumps(GENERATION))
    rules = DecodingRules.from_folder(model_dir, "it")
    with pytest.raises(LoweredError) as found:
        BatchDecoder(load_model(model_dir, jnp.dtype(dtype)), rules, 1, jax.devices()[:1])
    products = [
        line for line in str(found.value).splitlines() if re.search("stablehlo.(dot_general|convolution)", line)
    ]
    assert len(products) > 10
    highest = sum(line.count("HIGHEST") == 2 for line in products)
    assert highest == (len(products) if dtype == "float32" else 1)  # in float32 there too: a bias through a matrix
