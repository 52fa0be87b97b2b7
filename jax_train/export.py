"""The command that turns a run into a Hugging Face folder, and proves it equal before it gets its name.

The folder is written beside its final name; PyTorch, in a process of its own (`serving.verify`), loads it with no
weight missing or left over and computes logits, which are compared with ours. The two meet in files, so that the
trainer never imports torch. Only then is the folder renamed.

B windows, F mel frames, M mel bins, L tokens, V vocabulary.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from safetensors.numpy import save_file

from data.errors import UserError, command
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS, log_mel, pad_to_window
from jax_train.checkpoints import copy_small_files, load_run, run_model_folder
from jax_train.config import compilation_cache
from jax_train.model import Whisper, jitted
from jax_train.runlog import write_json
from jax_train.weights import to_torch_tensors

RECORD = "export.json"
REFERENCE_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes a run's newest checkpoint as a Hugging Face folder, its logits checked against PyTorch."""

    run: Path
    """Folder of a training run."""
    model_dir: Path
    """Folder to write; an earlier export there is replaced once the new one is proved."""
    step: str = "newest"
    """Checkpoint to take: newest, best (of lowest WER), or its step."""


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the folder; what was compared, as in its export.json.

    Raises:
        UserError: no such run, a foreign folder under the final name, or logits that differ: then nothing is written.
    """
    final = config.model_dir
    if final.exists() and not (final / RECORD).is_file():
        raise UserError(f"{final}: exists and is no export of ours; give another MODEL_DIR, or move it away")
    if importlib.util.find_spec("torch") is None:
        raise UserError("the export is proved with PyTorch, which is not installed: pip install 'sussurro[serve]'")
    model, step = load_run(config.run, step=config.step)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as place:
        folder, reference = Path(place) / final.name, Path(place) / "reference.safetensors"
        write_folder(model, config.run, folder)
        save_file(reference_logits(model), reference)
        record = {"run": str(config.run), "step": step, "parity": compare(folder, reference)}
        write_json(folder / RECORD, record)
        if final.exists():
            final.rename(Path(place) / "replaced")
        folder.rename(final)
    return record


def write_folder(model: Whisper, run: Path, folder: Path) -> None:
    """A Hugging Face folder: float32 safetensors, config, tokenizer, and the language it now writes."""
    copy_small_files(run_model_folder(run), folder)
    generation = folder / "generation_config.json"
    fields = json.loads(generation.read_text(encoding="utf-8"))
    fields.pop("forced_decoder_ids", None)  # transformers 4.50 and newer refuse it beside language and task
    language = json.loads((run / "config.json").read_text())["language"]
    write_json(generation, {**fields, "language": language, "task": "transcribe"})
    save_file(to_torch_tensors(nnx.state(model)), folder / "model.safetensors", metadata={"format": "pt"})


def reference_logits(model: Whisper) -> dict[str, np.ndarray]:
    """Our logits for noise that swells like speech, and random tokens: `input_features` are (B, M, F)."""
    rng = np.random.default_rng(0)
    seconds_N = np.arange(SAMPLE_RATE * WINDOW_SECONDS) / SAMPLE_RATE
    windows = []
    for last_second in (WINDOW_SECONDS, 7):
        noise_N = rng.standard_normal(len(seconds_N)) * 0.1 * np.sin(2 * np.pi * 3 * seconds_N) ** 2
        audio_N = noise_N[: SAMPLE_RATE * last_second].astype(np.float32)
        windows.append(pad_to_window(log_mel(audio_N, model.config.num_mel_bins)))
    log_mel_BFM = np.stack(windows)
    tokens_BL = rng.integers(0, model.config.vocab_size, (len(windows), REFERENCE_TOKENS)).astype(np.int32)
    with jax.default_matmul_precision("highest"):
        logits_BLV = jitted(model)(jnp.asarray(log_mel_BFM), jnp.asarray(tokens_BL))
    return {
        "input_features": np.ascontiguousarray(log_mel_BFM.transpose(0, 2, 1)),
        "decoder_input_ids": tokens_BL,
        "logits": np.asarray(logits_BLV),
    }


def compare(folder: Path, reference: Path) -> dict[str, Any]:
    """PyTorch's verdict on the folder. Raises `UserError` with its reason where it says no."""
    verdict = subprocess.run(
        [sys.executable, "-m", "serving.verify", "--model", str(folder), "--reference", str(reference)],
        capture_output=True,
        text=True,
        check=False,
    )
    if verdict.returncode:
        lines = verdict.stderr.strip().splitlines() or [f"serving.verify ended with {verdict.returncode}"]
        raise UserError(f"export refused: {lines[-1].removeprefix('error: ')}")
    found: dict[str, Any] = json.loads(verdict.stdout.strip().splitlines()[-1])
    return found


@command
def main() -> None:
    config = tyro.cli(ExportConfig)
    compilation_cache()
    record = export(config)
    parity = record["parity"]
    print(
        f"step {record['step']} equals PyTorch: logits differ by at most {parity['max_abs_logit_difference']:.1e} "
        f"(largest {parity['max_abs_logit']:.1f})\n{config.model_dir}"
    )


if __name__ == "__main__":
    main()
