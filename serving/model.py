"""A Hugging Face Whisper folder, loaded by transformers and checked: nothing missing, nothing left over.

`from_pretrained` alone fills a missing weight with random numbers and goes on; here that is an error.
"""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.utils import logging

from serving.model_folder import ModelError, check_folder

LONGEST = 300  # of what transformers says
# What transformers and PyTorch raise for settings that make no model, and for damaged weights.
UNFIT = (
    *(OSError, SafetensorError, StrictDataclassError),
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
)


def quiet_transformers() -> None:
    """Leaves standard error to our own lines: no progress bar of weights, no advice meant for developers."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(folder: Path, dtype: torch.dtype, needs: tuple[str, ...] = ()) -> WhisperForConditionalGeneration:
    """The model in `folder`, in evaluation mode on the CPU.

    `needs` are further files the caller will read from the folder. Raises `ModelError` when the folder or a file is not
    there, is not Whisper's, or when the weights are not exactly those its config asks for.
    """
    check_folder(folder, needs)
    where = folder / "config.json"
    try:
        config = WhisperConfig.from_pretrained(folder, local_files_only=True)
        where = folder
        model, report = WhisperForConditionalGeneration.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are reported below, all of them, rather than raised
            output_loading_info=True,
        )
    except UNFIT as error:
        raise ModelError(f"{where}: does not load ({_one_line(error)}); export the model again") from error
    wrong = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        said = "; ".join(f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in wrong.items() if names)
        raise ModelError(
            f"{folder}: its weights are not those its config.json asks for ({said}); export the model again"
        )
    return model.eval()


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"
