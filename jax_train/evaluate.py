"""The command that scores a model or a run on a split: scores.json and predictions.tsv.

Decision: each clip is alone in its 30 s window as `transformers` would see it, unless short windows are asked for, and
results stand in the shards' order. Time is told apart (loading, compiling,
decoding, scoring with the import of `evaluate`): the clips per second are those of decoding, reading the shards
included, and nothing is left out but Python's own start.
"""

import csv
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from tokenizers import Tokenizer

from data.errors import UserError, command
from data.log_mel import FRAMES_PER_SECOND
from data.records import Shards
from jax_train.checkpoints import load_run, run_model_folder
from jax_train.config import WhisperConfig, compilation_cache
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.fallback import Fallback
from jax_train.model import Whisper
from jax_train.pretrained import model_folder
from jax_train.scores import scores
from jax_train.transcribe import AS_THEY_ARE, short_windows, transcribe
from jax_train.weights import load_model


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Word and character error rates of a model, or of a run's newest checkpoint, on one split."""

    shards: Path
    """Folder written by featurize: one folder per split."""
    model: str = ""
    """Hugging Face Whisper folder, or a name on the hub; this or --run."""
    run: Path | None = None
    """Folder of a training run; this or --model."""
    split: str = "test"
    """Split to score on; only its clean copies."""
    out: Path | None = None
    """Folder for the results; by default RUN/evaluate-SPLIT, or scores/MODEL-SPLIT."""
    batch_size: int = 8
    """30 s windows at a time on each device."""
    limit: int = 0
    """Take only the split's first clips; 0: all."""
    language: str = ""
    """Whisper's code of the language to write, for example it; by default the shards'."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type the model is computed in; bfloat16, or on a T4 float16, is faster where the device has it, and may change a
    word."""
    max_new_tokens: int = 0
    """Tokens a transcript may have; 0: as many as the model can."""
    windows: Literal["30s", "short"] = "30s"
    """30s: each clip alone in a 30 s window, as `transformers` sees it; short: windows as short as a batch's clips,
    several times as fast, with other errors: such scores are not to be compared with those of 30 s."""
    num_beams: int = 1
    """Transcripts of a clip followed at a time, the best of which is taken; 1: greedy."""
    timestamps: bool = False
    """Decode with Whisper's timestamps, by its rules for them; they are left out of the text."""
    fallback: Fallback = AS_THEY_ARE
    """When to decode again at a higher temperature."""

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.run):
            raise UserError("give either --model (a Whisper folder or hub name) or --run (a training run's folder)")
        if self.batch_size < 1 or self.limit < 0:
            raise UserError(f"--batch-size {self.batch_size} --limit {self.limit}: at least 1, and not negative")

    def out_folder(self) -> Path:
        """Where the results go."""
        if self.out:
            return self.out
        if self.run:
            return self.run / f"evaluate-{self.split}"
        return Path("scores") / f"{Path(self.model).resolve().name}-{self.split}"


def evaluate(config: EvaluateConfig, devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """Scores, speed and settings, as written to scores.json.

    Raises:
        UserError: no such split, model or run; shards of another mel size than the model; nothing to score.
    """
    devices = list(devices or jax.local_devices())
    marks = [time.perf_counter()]
    shards = Shards.open(config.shards, config.split)
    rows = np.flatnonzero(shards.index["copy"] == 0)[: config.limit or None]
    if not len(rows):
        raise UserError(f"{shards.folder}: no clips to score; see its rejected.tsv")
    folder = run_model_folder(config.run) if config.run else model_folder(config.model)
    n_mels, wanted = shards[rows[0]].log_mel_q.shape[1], WhisperConfig.from_folder(folder).num_mel_bins
    if n_mels != wanted:
        raise UserError(f"{shards.folder} has {n_mels} mel bins, {folder} takes {wanted}: featurize again with it")
    language = config.language or shards.manifest["language"]
    rules = DecodingRules.from_folder(folder, language, config.max_new_tokens, config.timestamps)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, name = _load(config, folder)
    marks.append(time.perf_counter())
    batch = config.batch_size * len(devices)
    frames = short_windows(shards.index["frames"][rows], batch) if config.windows == "short" else ()
    decoder = BatchDecoder(model, rules, batch, devices, frames, config.num_beams)
    prepared = decoder.compile_seconds
    marks.append(time.perf_counter())
    transcripts = transcribe(shards, rows, decoder, tokenizer, config.fallback)
    references, hypotheses = [t.reference for t in transcripts], [t.text for t in transcripts]
    marks.append(time.perf_counter())
    found = scores(references, hypotheses)
    marks.append(time.perf_counter())
    load, prepare, decode, score = np.diff(marks).tolist()
    late = decoder.compile_seconds - prepared  # programs that only a fallback asked for
    seconds = {"load": load, "compile": prepare + late, "decode": decode - late, "score": score}
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    speech_seconds = float(shards.index["seconds"][rows].sum(dtype=np.float64))
    result = {
        **found,
        "clips": len(rows),
        "speech_seconds": round(speech_seconds, 3),
        "clips_per_second": len(rows) / seconds["decode"],
        "speech_seconds_per_second": speech_seconds / seconds["decode"],
        "seconds": seconds,
        "model": name,
        "split": config.split,
        "encoder_window_seconds": [length / FRAMES_PER_SECOND for length in decoder.frames],
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "settings": json.loads(json.dumps(dataclasses.asdict(config) | dataclasses.asdict(rules), default=str)),
    }
    _write(config.out_folder(), result, shards.index["id"][rows].tolist(), references, hypotheses)
    return result


def _load(config: EvaluateConfig, folder: Path) -> tuple[Whisper, str]:
    """The model, and what to call it in the results."""
    if config.run:
        model, step = load_run(config.run, config.compute_dtype)
        return model, f"{config.run} step {step}"
    return load_model(folder, config.compute_dtype), config.model


def _write(
    out: Path, result: dict[str, Any], ids: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "predictions.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["id", "reference", "hypothesis"])
        table.writerows(zip(ids, references, hypotheses, strict=True))
    partial = out / "scores.json.partial"
    partial.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / "scores.json")


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    seconds = result["seconds"]
    speed = f"{result['clips_per_second']:.2f} clips/s, {result['speech_seconds_per_second']:.1f} × real time"
    rest = ", ".join(f"{seconds[name]:.1f} s to {name}" for name in ("load", "compile", "score"))
    return "\n".join(
        [
            f"{result['model']} on {result['split']}: {result['clips']} clips, {result['speech_seconds']:.0f} s speech",
            f"{'':4}{'as written':>12}{'normalised':>12}",
            f"{'WER':4}{result['wer']:10.2f} %{result['wer_normalised']:10.2f} %",
            f"{'CER':4}{result['cer']:10.2f} %{result['cer_normalised']:10.2f} %",
            f"in {_windows(result['encoder_window_seconds'], result['settings']['windows'])}",
            f"decoded in {seconds['decode']:.1f} s: {speed} (and {rest})",
        ]
    )


def _windows(seconds: Sequence[float], windows: str) -> str:
    if windows == "30s":
        return f"windows of {seconds[0]:g} s"
    return f"windows as short as the clips, {seconds[0]:g} to {seconds[-1]:g} s: not the score of 30 s windows"


def main() -> None:
    """Scores a model or a run on a split."""
    config = tyro.cli(EvaluateConfig)
    compilation_cache()
    result = evaluate(config)
    print(f"{table(result)}\n{config.out_folder() / 'scores.json'}")


if __name__ == "__main__":
    command(main)()
