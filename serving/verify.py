"""Whether an exported folder computes in PyTorch what the trainer computed in JAX: logit for logit.

The trainer runs this as a subprocess and the two meet in one file, so that it never imports torch. What
`generate` writes of the file's clips with the folder's own settings is printed, for the trainer to compare.

Of logits only the largest difference decides. Agreement of the likeliest token is printed but not required: within the
tolerance it can differ only where the two best tokens tie, and among 50,000 tokens some do.

B windows, C clips of them (the last ones), M mel bins, F mel frames (3000), L tokens, N new tokens, V vocabulary.

    python -m serving.verify --model FOLDER --reference FILE.safetensors
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from serving.errors import UserError, command
from serving.model import load_model, quiet_transformers

N_FRAMES = 3000
REFERENCE = {
    "input_features": (torch.float32, "(B, n_mels, 3000)"),
    "decoder_input_ids": (torch.int32, "(B, L)"),
    "logits": (torch.float32, "(B, L, V)"),
    "transcripts": (torch.int32, "(C, N)"),
}


class VerifyError(UserError):
    """The reference cannot be compared, or the logits differ."""


# Share of the largest logit. Float32 rounding: PyTorch against itself in float64 differs by 2e-6 to 1.7e-5 (base,
# speech and noise, 24 and 448 tokens), deeper models and other orders of summation by a few times more. The subtlest
# mistake tried, GELU's tanh form in the encoder, differs by 9e-4 and more; a layer norm's epsilon of 1e-6 by 3e-2.
TOLERANCE = 3e-4


@dataclass(frozen=True)
class Report:
    """How far PyTorch's logits lie from the reference's."""

    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    max_abs_logit: float
    same_argmax: float
    """Share of positions where both choose the same token."""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    transcripts: tuple[tuple[int, ...], ...] = ()
    """Greedy tokens of each clip, by `generate`."""


def read_reference(path: Path) -> dict[str, torch.Tensor]:
    """The reference's tensors (see `REFERENCE`); a `VerifyError` where one is absent or unlike."""
    if not path.is_file():
        raise VerifyError(f"{path}: no such file; expected the reference tensors in safetensors form")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise VerifyError(f"{path}: is not a safetensors file ({error})") from error
    if set(tensors) != set(REFERENCE):
        raise VerifyError(f"{path}: holds {sorted(tensors)}, expected {sorted(REFERENCE)}")
    for name, (dtype, shape) in REFERENCE.items():
        if tensors[name].dtype != dtype or tensors[name].ndim != shape.count(",") + 1:
            is_now = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            raise VerifyError(f"{path}: {name} is {is_now}, expected {dtype} {shape}")
    return tensors


@torch.inference_mode()
def compare(model: WhisperForConditionalGeneration, reference: dict[str, torch.Tensor]) -> Report:
    """The model's logits against the reference's; a `VerifyError` where the shapes do not fit the model."""
    features_BMF, tokens_BL, want_BLV, _ = (reference[name] for name in REFERENCE)
    batch, length = tokens_BL.shape
    for name, shape in (
        ("input_features", (batch, model.config.num_mel_bins, N_FRAMES)),
        ("logits", (batch, length, model.config.vocab_size)),
    ):
        if reference[name].shape != shape:
            raise VerifyError(f"reference {name}: shape {tuple(reference[name].shape)}, the model's is {shape}")
    got_BLV = model(input_features=features_BMF, decoder_input_ids=tokens_BL.long()).logits
    difference_BLV = (got_BLV - want_BLV).abs()
    return Report(
        max_abs_logit_difference=difference_BLV.max().item(),
        mean_abs_logit_difference=difference_BLV.mean().item(),
        max_abs_logit=want_BLV.abs().max().item(),
        same_argmax=(got_BLV.argmax(-1) == want_BLV.argmax(-1)).float().mean().item(),
        transcripts=transcripts(model, reference),
    )


def transcripts(
    model: WhisperForConditionalGeneration, reference: dict[str, torch.Tensor]
) -> tuple[tuple[int, ...], ...]:
    """What `generate` writes of the reference's clips: greedily, language and task by the folder's own settings."""
    clips, length = reference["transcripts"].shape
    if not clips:
        return ()
    features_CMF = reference["input_features"][-clips:]
    tokens_CN = model.generate(features_CMF, num_beams=1, do_sample=False, max_new_tokens=length)
    return tuple(map(tuple, tokens_CN.tolist()))


@dataclass(frozen=True)
class Config:
    """Compares a folder's logits in PyTorch float32 with reference logits; prints one line of JSON."""

    model: Path
    """A Hugging Face Whisper folder."""
    reference: Path
    """A safetensors file with `input_features`, `decoder_input_ids`, the `logits` to expect, and the `transcripts` of
    the last windows, which say how many are clips and how many tokens to write of them."""
    tolerance: float = TOLERANCE
    """Largest difference allowed, as a share of the largest logit; the default is a few times float32's rounding."""


@command
def main() -> None:
    config = tyro.cli(Config)
    quiet_transformers()
    reference = read_reference(config.reference)
    report = compare(load_model(config.model, torch.float32), reference)
    print(json.dumps(asdict(report)), flush=True)
    allowed = config.tolerance * report.max_abs_logit
    if not report.max_abs_logit_difference <= allowed:  # not a number counts as different
        raise VerifyError(
            f"{config.model}: logits differ by up to {report.max_abs_logit_difference:.3g} from the reference,"
            f" at most {allowed:.3g} is rounding; the folder does not compute what was trained"
        )


if __name__ == "__main__":
    main()
