"""The export's check passes a folder that computes the reference's logits, and fails one that does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from serving import verify

BATCH, LENGTH, N_MELS, N_FRAMES = 2, 7, 8, 3000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small random Whisper folder, and its logits computed in float64: another arithmetic, the same model."""
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=99,
            num_mel_bins=N_MELS,
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            init_std=0.3,
            pad_token_id=98,
            bos_token_id=98,
            eos_token_id=98,
            decoder_start_token_id=97,
        )
    ).eval()
    model.save_pretrained(folder / "model")
    features_BMF = torch.randn(BATCH, N_MELS, N_FRAMES)
    tokens_BL = torch.randint(0, 97, (BATCH, LENGTH))
    with torch.inference_mode():
        logits_BLV = model.double()(input_features=features_BMF.double(), decoder_input_ids=tokens_BL).logits.float()
    no_clips = torch.zeros((0, 8), dtype=torch.int32)
    reference = {"input_features": features_BMF, "decoder_input_ids": tokens_BL.int(), "transcripts": no_clips}
    save_file(reference | {"logits": logits_BLV.contiguous()}, folder / "reference.safetensors")
    return folder / "model", folder / "reference.safetensors"


def run(model: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["verify", "--model", str(model), "--reference", str(reference)])
    code = 0
    try:
        verify.main()
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


def changed(path: Path, target: Path, change) -> Path:
    tensors = load_file(path)
    change(tensors)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
    return target


def changed_model(model: Path, target: Path, change) -> Path:
    changed(model / "model.safetensors", target / "model.safetensors", change)
    (target / "config.json").write_bytes((model / "config.json").read_bytes())
    return target


def test_the_same_model_passes_as_a_command_with_one_line_of_json(exported: tuple[Path, Path]) -> None:
    model, reference = exported
    arguments = [sys.executable, "-m", "serving.verify", "--model", str(model), "--reference", str(reference)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert 0 < report["max_abs_logit_difference"] < verify.TOLERANCE * report["max_abs_logit"]
    assert report["mean_abs_logit_difference"] <= report["max_abs_logit_difference"]
    assert report["same_argmax"] == 1.0
    assert (report["missing"], report["unexpected"]) == ([], [])


def scale(name: str, factor: float):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name] * factor

    return change


@pytest.mark.parametrize(
    "name",
    [
        "model.encoder.conv1.weight",
        "model.encoder.layers.1.self_attn.q_proj.weight",
        "model.decoder.layers.0.encoder_attn.v_proj.weight",
        "model.decoder.layer_norm.weight",
    ],
)
def test_one_weight_scaled_by_two_percent_fails(exported, tmp_path: Path, name: str, monkeypatch, capsys) -> None:
    model, reference = exported
    other = changed_model(model, tmp_path / "other", scale(name, 1.02))
    code, out, err = run(other, reference, monkeypatch, capsys)
    assert code == 2
    assert json.loads(out)["max_abs_logit_difference"] > 0
    assert err.startswith(f"error: {other}: logits differ by up to ")
    assert err.count("\n") == 1


def test_logits_that_are_not_numbers_fail(exported, tmp_path: Path, monkeypatch, capsys) -> None:
    model, reference = exported
    other = changed(reference, tmp_path / "nan.safetensors", scale("logits", float("nan")))
    code, _, err = run(model, other, monkeypatch, capsys)
    assert code == 2
    assert "logits differ by up to nan" in err


def rename(old: str, new: str):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[new] = tensors.pop(old)

    return change


def drop(name: str):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return change


def cut(name: str, *dims: int):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][tuple(slice(n) for n in dims)].contiguous()

    return change


BIAS = "model.encoder.layer_norm.bias"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(BIAS), f"1 missing: {BIAS}"),
        (rename(BIAS, "model.encoder.extra"), "1 unexpected: model.encoder.extra"),
        (cut(BIAS, 8), "1 mismatched"),
    ],
)
def test_weights_that_are_not_the_models_fail(exported, tmp_path: Path, change, says: str, monkeypatch, capsys) -> None:
    """Transformers alone would fill the gap with random numbers and go on."""
    model, reference = exported
    code, out, err = run(changed_model(model, tmp_path / "other", change), reference, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("logits"), "expected ['decoder_input_ids', 'input_features', 'logits', 'transcripts']"),
        (scale("decoder_input_ids", 1.0), "decoder_input_ids is torch.float32 (2, 7), expected torch.int32 (B, L)"),
        (cut("input_features", 2, 7), "the model's is (2, 8, 3000)"),
        (cut("logits", 2, 7, 98), "the model's is (2, 7, 99)"),
    ],
)
def test_a_reference_of_another_shape_fails(exported, tmp_path: Path, change, says: str, monkeypatch, capsys) -> None:
    model, reference = exported
    other = changed(reference, tmp_path / "other.safetensors", change)
    code, out, err = run(model, other, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert says in err


def test_a_reference_that_is_none_fails(exported, tmp_path: Path, monkeypatch, capsys) -> None:
    model, _ = exported
    assert "no such file" in run(model, tmp_path / "none", monkeypatch, capsys)[2]
    (tmp_path / "text").write_text("ciao")
    assert "is not a safetensors file" in run(model, tmp_path / "text", monkeypatch, capsys)[2]
