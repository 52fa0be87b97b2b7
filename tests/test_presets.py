"""Presets: each resolves, options override it, and other attention heads reach evaluation and export."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from transformers import WhisperConfig as HuggingFaceConfig

from data.errors import UserError
from jax_train.checkpoints import load_run
from jax_train.config import PUBLISHED, TrainConfig
from jax_train.export import ExportConfig, export
from jax_train.memory_plan import memory_plan
from jax_train.model import functional
from jax_train.precision import decided, fuses_attention, has_kernels, suited
from jax_train.presets import PRESETS, from_command_line
from jax_train.train import train
from jax_train.weights import load_model

PATHS = ["--shards", "shards", "--run", "run"]
T4 = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
A100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100-SXM4-40GB", compute_capability="8.0")


def decided_on(config: TrainConfig, device: SimpleNamespace) -> TrainConfig:
    """What a preset comes to on a made device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [device])
        return decided(config)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_to_its_settings_and_says_what_it_is(name):
    config = from_command_line(["--preset", name, *PATHS], None)
    assert config.preset == name
    assert config.model.removeprefix("openai/whisper-") in PUBLISHED
    assert {field: getattr(config, field) for field in PRESETS[name].settings} == PRESETS[name].settings
    assert (
        name.startswith("sample/")
        or "not known to us" in PRESETS[name].doc
        or "not measured by us" in PRESETS[name].doc
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_the_device_it_names_on_paper(name):
    """Packed windows may have 448 label tokens; a sentence read aloud for Common Voice has fewer than 128.

    Those of 16 GB are a T4: no bfloat16, and no kernel for attention. Others are counted without that kernel too.
    """
    config = from_command_line(["--preset", name, *PATHS], None)
    device = T4 if PRESETS[name].card_gb == 16 else A100
    config = decided_on(config, device)
    assert config.compute_dtype == ("float16" if device is T4 else "bfloat16")
    plan = memory_plan(
        PUBLISHED[config.model.removeprefix("openai/whisper-")],
        lora=None,
        batch_size=config.batch_size // config.gradient_accumulation_steps,
        tokens=448 if config.windows == "packed" else 128,
        compute_dtype=config.compute_dtype,
    )
    assert plan.fits(PRESETS[name].card_gb), plan.table()


def test_a_t4_has_neither_bfloat16_nor_a_kernel_for_attention_and_an_a100_both():
    assert (suited(T4), has_kernels(T4, "float16")) == ("float16", False)
    assert (suited(A100), has_kernels(A100, "bfloat16"), has_kernels(A100, "float32")) == (
        "bfloat16",
        True,
        False,
    )


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "fuses"),
    [
        (T4, "float16", 64, False),
        (A100, "bfloat16", 64, True),
        (A100, "bfloat16", 96, True),
        (A100, "bfloat16", 100, False),
        (SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"), "bfloat16", 64, True),
        (SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"), "bfloat16", 96, False),
        (SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"), "float32", 64, False),
        (SimpleNamespace(platform="tpu", device_kind="TPU v3"), "bfloat16", 64, False),
        (SimpleNamespace(platform="cpu", device_kind="cpu"), "bfloat16", 64, False),
    ],
)
def test_which_devices_attend_without_a_layers_scores_in_memory(device, dtype, head_size, fuses):
    assert fuses_attention(device, dtype, head_size) == fuses


def test_there_is_a_preset_of_every_published_size():
    assert {name for name in PRESETS if "/" not in name} == PUBLISHED.keys()


@pytest.mark.parametrize("given", [["--preset", "small"], ["--preset=small"]])
def test_options_override_the_preset_wherever_they_stand(given):
    config = from_command_line(["--batch-size", "4", *given, *PATHS, "--model", "folder"], None)
    assert (config.batch_size, config.model, config.learning_rate) == (4, "folder", 1.25e-5)


def test_without_a_preset_the_defaults_stand():
    assert from_command_line(PATHS, None) == TrainConfig(Path("shards"), Path("run"))


def test_help_shows_the_presets_values_and_what_is_known_of_it(capsys):
    with pytest.raises(SystemExit):
        from_command_line(["--preset", "lab/small", "--help"], "Trains.")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "WER 22.11 on the first 10 % of test" in shown
    assert "(default: openai/whisper-small)" in shown


def test_an_unknown_preset_is_one_line_that_lists_all():
    with pytest.raises(UserError, match=r"--preset huge: there are tiny, base, .*lab/tiny-8-heads"):
        from_command_line(["--preset", "huge", *PATHS], None)


@pytest.mark.usefixtures("proved_here", "two_devices")
def test_a_lab_run_with_other_heads_is_evaluated_and_exported_with_them(small_model_dir, small_shards, tmp_path):
    """The pretrained matrices stay as they are at first: it is their splitting that differs."""
    options = ["--shards", str(small_shards), "--run", str(tmp_path / "run"), "--model", str(small_model_dir)]
    options += ["--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3", "--attention-heads", "4"]
    config = from_command_line(["--preset", "lab/tiny-8-heads", *options], None)
    train(config)
    model, step = load_run(config.run)
    assert step == 2
    assert (model.config.encoder_attention_heads, model.config.decoder_attention_heads) == (4, 4)
    start = functional(load_model(small_model_dir, heads=4))[0]
    for name, value in functional(model)[0].items():  # AdamW moves a number by at most its rate a step
        np.testing.assert_allclose(value, start[name], atol=2.1e-3, rtol=0)
    assert export(ExportConfig(config.run, tmp_path / "model"))["step"] == 2  # PyTorch's logits are those of 4 heads
    assert HuggingFaceConfig.from_pretrained(tmp_path / "model").encoder_attention_heads == 4
    assert "alignment_heads" not in json.loads((tmp_path / "model" / "generation_config.json").read_text())
    with pytest.raises(UserError, match="attention_heads 4 → 0"):
        train(dataclasses.replace(config, attention_heads=0))


def test_heads_that_do_not_divide_the_model_are_refused(small_model_dir):
    with pytest.raises(UserError, match="--attention-heads 3: does not divide d_model 16"):
        load_model(small_model_dir, heads=3)
