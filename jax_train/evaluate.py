"""The command that scores a model or a run on a split: predictions.parquet, scores.json and report.html.

Decision: each clip is alone in its 30 s window as `transformers` would see it, unless thinned ones are asked for, and
results stand in the shards' order. Time is told apart (loading, compiling, decoding, scoring with the import of
`evaluate`, the report): the clips per second are those of decoding, reading the shards included, and nothing is left
out but Python's own start.
"""

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
from data.folds import UNDIVIDED, Fold
from data.log_mel import FRAMES_PER_SECOND
from data.records import Shards
from jax_train.checkpoints import load_run, run_model_folder
from jax_train.conditions import ASKED_TOKENS, LEFT_OUT, lacks
from jax_train.config import WhisperConfig, compilation_cache
from jax_train.corpus import facts
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.fallback import Fallback
from jax_train.model import Whisper
from jax_train.predictions import PREDICTIONS, hypotheses_for
from jax_train.pretrained import model_folder
from jax_train.recordings import Recordings, find_recordings
from jax_train.report import REPORT, write_report
from jax_train.scoring import SCORES_FILE, Scored, score, write_clips, write_scores
from jax_train.thinned import lengths
from jax_train.transcribe import AS_THEY_ARE, transcribe
from jax_train.weights import load_model


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Word and character error rates on one split, of a model, a run's newest checkpoint, or given predictions."""

    shards: Path
    """Folder written by featurize: one folder per split."""
    model: str = ""
    """Hugging Face Whisper folder, or a name on the hub; this, --run or --predictions."""
    run: Path | None = None
    """Folder of a training run; this, --model or --predictions."""
    predictions: Path | None = None
    """A .parquet or .tsv file with the columns id and hypothesis, of whatever origin; this, --model or --run."""
    split: str = "test"
    """Split to score on; only its clean copies."""
    fold: Fold = UNDIVIDED
    """Fold of the split to score on alone, for cross-validation."""
    step: str = "newest"
    """Checkpoint of --run: newest, best (of lowest WER), or its step."""
    out: Path | None = None
    """Folder for the results; by default RUN/evaluate-SPLIT, or scores/NAME-SPLIT by the model's or the file's name."""
    recordings: str = ""
    """Corpus whose recordings the report plays; by default the one the shards are of, if it is on this machine."""
    report_clips: int = 50
    """Clips in the report, those with the most errors; 0: none."""
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
    windows: Literal["whole", "thinned"] = "whole"
    """whole: each clip alone in a 30 s window, as `transformers` sees it; thinned: of the silence after the clips an
    eighth is computed, several times as fast, with about as many errors but not the same: not the padded score."""
    num_beams: int = 1
    """Transcripts of a clip followed at a time, the best of which is taken; 1: greedy."""
    timestamps: bool = False
    """Decode with Whisper's timestamps, by its rules for them; they are left out of the text."""
    fallback: Fallback = AS_THEY_ARE
    """When to decode again at a higher temperature."""

    def __post_init__(self) -> None:
        if bool(self.model) + bool(self.run) + bool(self.predictions) != 1:
            raise UserError(
                "give either --model (a Whisper folder or hub name) or --run (a training run's folder) "
                "or --predictions (a .parquet or .tsv file)"
            )
        if self.batch_size < 1 or self.limit < 0:
            raise UserError(f"--batch-size {self.batch_size} --limit {self.limit}: at least 1, and not negative")
        if self.report_clips < 0:
            raise UserError(f"--report-clips {self.report_clips}: 0 or more")

    def out_folder(self) -> Path:
        """Where the results go."""
        if self.out:
            return self.out
        if self.run:
            return self.run / f"evaluate-{self.split}"
        name = self.predictions.stem if self.predictions else Path(self.model).resolve().name
        return Path("scores") / f"{name}-{self.split}"


def evaluate(config: EvaluateConfig, devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """Scores, speed and settings, as written to scores.json.

    Raises:
        UserError: no such split, model, run, file or corpus; predictions of other clips; shards of another mel size
            than the model; nothing to score.
    """
    devices = list(devices or jax.local_devices())
    marks = [time.perf_counter()]
    shards = config.fold.for_scoring(Shards.open(config.shards, config.split))
    clean = np.flatnonzero(shards.index["copy"] == 0)
    rows = clean[: config.limit or None]
    if not len(rows):
        raise UserError(f"{shards.folder}: no clips to score; see its rejected.tsv")
    recordings = find_recordings(shards, config.recordings)
    if config.predictions:
        references = [shards[row].text for row in rows]
        hypotheses = hypotheses_for(config.predictions, shards.index["id"][rows].tolist())
        told = _settings(config, shards.manifest["language"], len(clean) - len(rows))
        origin = {"model": str(config.predictions), "settings": told}
        return _finish(config, shards, rows, score(shards, rows, references, hypotheses), origin, recordings)
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
    thin = config.windows == "thinned"
    frames = lengths(shards.index["frames"][rows], batch, 2 * model.config.max_source_positions) if thin else ()
    decoder = BatchDecoder(model, rules, batch, devices, frames, config.num_beams)
    prepared = decoder.compile_seconds
    marks.append(time.perf_counter())
    transcripts = transcribe(shards, rows, decoder, tokenizer, config.fallback)
    references, hypotheses = [t.reference for t in transcripts], [t.text for t in transcripts]
    marks.append(time.perf_counter())
    scored = score(shards, rows, references, hypotheses)
    marks.append(time.perf_counter())
    load, prepare, decode, scoring = np.diff(marks).tolist()
    late = decoder.compile_seconds - prepared  # programs that only a fallback asked for
    seconds = {"load": load, "compile": prepare + late, "decode": decode - late, "score": scoring}
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    told = {
        "clips_per_second": len(rows) / seconds["decode"],
        "speech_seconds_per_second": scored.result["speech_seconds"] / seconds["decode"],
        "seconds": seconds,
        "model": name,
        "encoder_window_seconds": [length / FRAMES_PER_SECOND for length in decoder.frames],
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "settings": _settings(config, language, len(clean) - len(rows)) | asdict(rules),
    }
    return _finish(config, shards, rows, scored, told, recordings)


def _settings(config: EvaluateConfig, language: str, left_out: int) -> dict[str, Any]:
    """The options, with the language that was written and how many clips `limit` left out."""
    return asdict(config) | {"language": language, ASKED_TOKENS: config.max_new_tokens, LEFT_OUT: left_out}


def asdict(settings: EvaluateConfig | DecodingRules) -> dict[str, Any]:
    """The fields as JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return found


def _finish(
    config: EvaluateConfig,
    shards: Shards,
    rows: np.ndarray,
    scored: Scored,
    told: dict[str, Any],
    recordings: Recordings,
) -> dict[str, Any]:
    """Write the files; the result with what is `told` of its making."""
    out = config.out_folder()
    write_clips(out, scored)
    result = {**scored.result, "split": config.split, "data": facts(shards.manifest), **told}
    started = time.perf_counter()
    write_report(out, result, scored, shards, rows, recordings, config.report_clips)
    result["seconds"] = told.get("seconds", {}) | {"report": round(time.perf_counter() - started, 3)}
    write_scores(out, result)
    return result


def _load(config: EvaluateConfig, folder: Path) -> tuple[Whisper, str]:
    """The model, and what to call it in the results."""
    if config.run:
        model, step = load_run(config.run, config.compute_dtype, config.step)
        return model, f"{config.run} step {step}"
    return load_model(folder, config.compute_dtype), config.model


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    over_clips, signs = result["intervals"]["over_clips"], result["signs"]
    lines = [
        f"{result['model']} on {result['split']}: {result['clips']} clips, {result['speech_seconds']:.0f} s speech",
        f"{'':4}{'as written (95 %)':>26}{'normalised (95 %)':>26}",
    ]
    for name in ("wer", "cer"):
        cells = [_cell(result[kind], over_clips[kind]) for kind in (name, f"{name}_normalised")]
        lines.append(f"{name.upper():4}{''.join(cells)}")
    lines.append(
        f"{signs['hallucinations']} clips with an invented phrase, {signs['repetitions']} that repeat themselves"
    )
    if "decode" in (seconds := result["seconds"]):
        speed = f"{result['clips_per_second']:.2f} clips/s, {result['speech_seconds_per_second']:.1f} × real time"
        rest = ", ".join(f"{seconds[name]:.1f} s to {name}" for name in ("load", "compile", "score", "report"))
        lines.append(f"in {_windows(result['encoder_window_seconds'], result['settings']['windows'])}")
        lines.append(f"decoded in {seconds['decode']:.1f} s: {speed} (and {rest})")
    if missing := lacks(result["settings"]):
        lines.append(f"not the split's score: {'; '.join(missing)}")
    return "\n".join([*lines, f"normalised: {result['normaliser']}"])


def _cell(rate: float, ends: Sequence[float] | None) -> str:
    """A rate with its interval, which too few clips do not have."""
    return (f"{rate:.2f} %" + (f" ({ends[0]:.2f}–{ends[1]:.2f})" if ends else "")).rjust(26)


def _windows(seconds: Sequence[float], windows: str) -> str:
    if windows == "whole":
        return f"windows of {seconds[0]:g} s"
    return f"thinned windows, {seconds[0]:g} to {seconds[-1]:g} s of each in full"


def main() -> None:
    """Scores a model or a run on a split."""
    config = tyro.cli(EvaluateConfig)
    compilation_cache()
    result = evaluate(config)
    out = config.out_folder()
    print(f"{table(result)}\n{out / PREDICTIONS}, {out / REPORT}\n{out / SCORES_FILE}")


if __name__ == "__main__":
    command(main)()
