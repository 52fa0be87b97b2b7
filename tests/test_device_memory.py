"""Too small a device is one line of advice, wherever it shows: in a step, an evaluation, or the state itself."""

import dataclasses
import gc
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jax_train.train
from data.errors import UserError
from jax_train.config import PUBLISHED, Lora, TrainConfig
from jax_train.device_memory import (
    EXHAUSTED,
    constant_bytes,
    evaluation_advice,
    no_room_for_evaluation,
    no_room_for_state,
    remat_that_fits,
    state_advice,
    too_small,
)
from jax_train.evaluation import Evaluation
from jax_train.sharding import data_mesh, shardings
from jax_train.step import TrainState, make_train_step
from jax_train.train import initial_state, train

GB = 1_000_000_000


@pytest.fixture
def config(many_words_model_dir: Path, many_words_shards: Path, tmp_path: Path) -> TrainConfig:
    """A run of a model that is large beside what else lies on a device."""
    return TrainConfig(
        many_words_shards,
        tmp_path / "run",
        model=str(many_words_model_dir),
        batch_size=8,
        steps=2,
        learning_rate=1e-2,
        compute_dtype="float32",
    )


def exhausted(*_: object) -> None:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")


class Plan:
    """A compiled step whose windows take 2 GB each, beside 6 GB of state and 2 GB of gradients."""

    argument_size_in_bytes = 6 * GB

    def __init__(self, windows: int, constant: int = 2 * GB) -> None:
        self.temp_size_in_bytes = constant + 2 * windows * GB

    def lower(self, *_: object) -> "Plan":
        return self

    compile = memory_analysis = lower


@dataclasses.dataclass
class Device:
    """One with so much memory."""

    room: float | None

    def memory_stats(self) -> dict | None:
        return {"bytes_limit": int(self.room)} if self.room else None


def state_of(numbers: int) -> TrainState:
    """A state's shapes: one matrix of so many float32 numbers."""
    params = {"kernel": jax.ShapeDtypeStruct((numbers // 8, 8), jnp.float32)}
    return TrainState(params, {}, (), jax.ShapeDtypeStruct((), jnp.int32))


@pytest.mark.parametrize(
    ("room", "windows", "said"),
    [
        (16e9, 8, r"--batch-size 64 does not fit: each device has 16\.0 GB, the step needs 24\.0 GB; "
                  r"--batch-size 32 should fit, or --gradient-accumulation-steps 2"),
        (14.5e9, 8, "--batch-size 24 should fit, or --gradient-accumulation-steps 4"),  # 8 windows are not 3 times 3
        (9e9, 8, "even one window at a time is too much"),
        (None, 8, "has too little memory, the step needs 24.0 GB; --batch-size 32 should fit"),
        (7e9, 1, "even one window at a time"),
    ],
)  # fmt: skip
def test_too_small_a_device_is_told_which_batch_would_fit(config, monkeypatch, room, windows, said):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(room)])
    config = dataclasses.replace(config, batch_size=8 * windows)
    assert re.search(said, too_small(config, Plan(windows), state_of(500_000_000), None))


@pytest.mark.parametrize(
    ("room", "kernels", "options", "remat"),
    [
        (43.5e9, True, {}, "none"),
        (43.5e9, True, {"ema_decay": 0.9}, "feed_forward"),
        (33e9, True, {}, "feed_forward"),
        (33e9, True, {"gradient_accumulation_steps": 2}, "none"),
        (33e9, True, {"attention_dropout": 0.1}, "layers"),
        (33e9, False, {}, "layers"),
        (9e9, True, {}, "layers"),
        (None, True, {}, "none"),
    ],
)
def test_as_much_is_computed_again_as_the_device_asks_for(config, monkeypatch, capsys, room, kernels, options, remat):
    """Whisper small, 64 windows in bfloat16: 43 GB on paper, 27 without the feed-forward halves, 11 without the layers.

    Without a kernel for attention, which drops no probabilities, its scores are 28 GB more; an average is 1 GB.
    """
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(room)])
    monkeypatch.setattr("jax_train.device_memory.fuses_attention", lambda *_: kernels)
    config = dataclasses.replace(config, batch_size=64 * jax.device_count(), compute_dtype="bfloat16", **options)
    assert remat_that_fits(config, PUBLISHED["small"], 96) == remat
    assert (f"--remat {remat}: " in capsys.readouterr().out) == (remat != "none")
    assert remat_that_fits(dataclasses.replace(config, remat="none"), PUBLISHED["small"], 96) == "none"


def lying(state: TrainState, fsdp: int) -> TrainState:
    """The state's shapes as they lie on eight devices."""
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        state,
        shardings(state, data_mesh(fsdp=fsdp)),
    )


def test_split_parameters_count_as_each_device_holds_them(config, monkeypatch):
    """2 GB of parameters in eight parts: a quarter GB of gradients on a device, and the 2 GB that a step gathers.

    A frozen matrix is gathered and has no gradient. Layers are gathered in the compute type, two of them at a time.
    """
    split = lying(state_of(500_000_000), fsdp=8)
    assert constant_bytes(split, (), "float32") == 2 * GB // 8 + 2 * GB
    assert constant_bytes(lying(state_of(500_000_000), fsdp=1), (), "float32") == 2 * GB
    both = split._replace(params=split.params | {"other.kernel": split.params["kernel"]})
    assert constant_bytes(both, ("model.other.*",), "float32") == 2 * GB // 8 + 4 * GB
    layers = {f"encoder.layers.{number}.fc1.kernel": split.params["kernel"] for number in range(3)}
    assert constant_bytes(split._replace(params=layers), (), "bfloat16") == 3 * 2 * GB // 8 + 2 * GB

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(16.5e9)])
    plan = Plan(8, constant=2 * GB // 8 + 2 * GB)  # beside 8.25 GB there is room for 4 windows of 2 GB
    said = too_small(dataclasses.replace(config, batch_size=64, fsdp=8), plan, split, None)
    assert "--batch-size 32 should fit" in said


def test_an_exhausted_device_ends_the_run_in_a_line_of_advice(config, monkeypatch):
    monkeypatch.setattr(jax_train.train, "make_train_step", lambda *_: Step(exhausted))
    with pytest.raises(UserError, match=r"--batch-size 16 does not fit: .*; --batch-size 8 should fit, or "):
        train(dataclasses.replace(config, batch_size=16))


@dataclasses.dataclass
class Step:
    """A step that neither compiles nor runs."""

    lower: Callable

    def __call__(self, *arguments: object) -> None:
        self.lower(*arguments)


def test_an_evaluation_that_does_not_fit_beside_training_names_the_batch_to_lower(config, monkeypatch):
    monkeypatch.setattr(Evaluation, "run", exhausted)
    monkeypatch.setattr("jax_train.device_memory._room", lambda: 16 * GB)
    evaluated = dataclasses.replace(config, eval_split="test", eval_steps=1)
    wanted = r"--eval-batch-size 8 does not fit beside .* has 16\.0 GB; give --eval-batch-size 4: the same command cont"
    with pytest.raises(UserError, match=wanted):
        train(evaluated)
    said = no_room_for_evaluation(dataclasses.replace(config, eval_batch_size=1))
    assert "another RUN without --eval-split" in said


@pytest.mark.parametrize("place", ["initial_state", "load_model"])
def test_a_state_that_does_not_fit_before_any_step_is_told_what_takes_less(config, monkeypatch, place):
    monkeypatch.setattr(jax_train.train, place, exhausted)
    with pytest.raises(UserError, match=r"parameters and optimizer state do not fit, before any step.*--lora\.rank 32"):
        train(config)


def test_only_what_the_run_does_not_do_yet_is_advised(config):
    frugal = dataclasses.replace(config, optimizer="adafactor", lora=Lora(8, frozen_dtype="float16"), fsdp=8)
    assert "too little memory; take a smaller model" in no_room_for_state(frugal)
    assert "--ema-decay 0, --optimizer adafactor, --lora.rank 32, --fsdp 8 take less" in no_room_for_state(
        dataclasses.replace(config, ema_decay=0.9)
    )


@pytest.mark.parametrize("advice", [state_advice, evaluation_advice])
def test_other_errors_keep_their_traceback(config, advice):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), advice(config):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def buffers(arrays) -> dict[int, int]:
    """The bytes of each buffer that some arrays lie in, by its place."""
    shards = [shard.data for array in arrays for shard in array.addressable_shards]
    return {data.unsafe_buffer_pointer(): data.nbytes for data in shards}


def test_a_step_finds_on_the_devices_only_what_it_takes(config, monkeypatch):
    """The model as it was loaded is gone, and so is what an evaluation merged. A tenth of the weights: small arrays."""
    left_over, before = [], buffers(jax.live_arrays())

    def watched(*arguments):
        step = make_train_step(*arguments)

        def call(state, batch):
            others = buffers(jax.live_arrays()).items() - buffers(jax.tree.leaves((state, batch))).items()
            weights = sum(buffers(state.buffers.values()).values())
            left_over.append(sum(size for place, size in others if place not in before) / weights)
            return step(state, batch)

        return call

    monkeypatch.setattr(jax_train.train, "make_train_step", watched)
    gc.disable()  # it would come by chance
    try:
        train(dataclasses.replace(config, lora=Lora(4), eval_split="test", eval_steps=1, eval_clips=1))
    finally:
        gc.enable()
    assert len(left_over) == 2
    assert max(left_over) < 0.1, left_over


@pytest.mark.parametrize(("rank", "at_most"), [(0, [0.16, 0.54]), (4, [0.16, 0.35])])
def test_a_device_is_given_its_part_of_the_model_alone_also_at_the_start(config, monkeypatch, rank, at_most):
    """An eighth of what is loaded, but for what does not divide; the state has as much, and AdamW's two moments."""
    before, found = set(buffers(jax.live_arrays())), []

    def watched(name):
        function = getattr(jax_train.train, name)

        def call(*arguments):
            result = function(*arguments)
            found.append(max(bytes_by_device(jax.live_arrays(), before).values()))
            return result

        monkeypatch.setattr(jax_train.train, name, call)

    watched("load_model")
    watched("initial_state")
    monkeypatch.setattr(jax_train.train, "make_train_step", exhausted)
    with pytest.raises(jax.errors.JaxRuntimeError, match=EXHAUSTED):
        train(dataclasses.replace(config, fsdp=8, lora=Lora(rank)))
    weights = (Path(config.model) / "model.safetensors").stat().st_size
    assert all(size / weights < most for size, most in zip(found, at_most, strict=True)), [x / weights for x in found]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_that_goes_on_has_its_state_once_and_needs_no_other_weights(config, monkeypatch, rank):
    """Where a state just fits beside a step, two of them would not: the run would never go on."""
    config = dataclasses.replace(config, save_steps=1, keep=2, lora=Lora(rank))
    undisturbed = train(config)
    shutil.rmtree(config.run / "checkpoints" / "2")
    before, started = set(buffers(jax.live_arrays())), initial_state

    def watched(*arguments):
        state, build = started(*arguments)
        assert not {place for place, size in buffers(jax.live_arrays()).items() if size > 1e5} - before
        return state, build

    monkeypatch.setattr(jax_train.train, "initial_state", watched)
    monkeypatch.setattr(jax_train.train, "load_model", exhausted)
    assert train(config)["loss"] == undisturbed["loss"]


def bytes_by_device(arrays, but) -> Counter[jax.Device]:
    """The bytes of some arrays that lie on each device, in other buffers than those in `but`."""
    found: Counter[jax.Device] = Counter()
    for device in jax.local_devices():
        own = [shard.data for x in arrays for shard in x.addressable_shards if shard.device == device]
        found[device] = sum(size for place, size in buffers(own).items() if place not in but)
    return found
