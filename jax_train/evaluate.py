"""The command that scores a model or a run on a split: predictions.parquet, scores.json and report.html.

Decision: each clip is alone in its 30 s window as `transformers` would see it, unless thinned ones are asked for, and
results stand in the shards' order. Time is told apart (loading, compiling, decoding, scoring with the import of
`evaluate`, the report): the clips per second are those of decoding, reading the shards included, and nothing is left
out but Python's own start. What was transcribed is kept in the results' folder until they are whole, so that the same
command, started again, transcribes the rest alone.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from data.errors import UserError, command
from data.folds import UNDIVIDED, Fold
from data.log_mel import FRAMES_PER_SECOND
from data.records import Shards
from data.tokens import load_tokenizer
from jax_train.checkpoints import chosen_step, load_run, run_model_folder
from jax_train.conditions import ASKED_TOKENS, LEFT_OUT
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
from jax_train.score_table import table
from jax_train.scores_folder import SCORES_FILE, Kept, check_writable, made_before, refuse_others, weights_of
from jax_train.scoring import Scored, score, write_clips, write_heard, write_scores
from jax_train.thinned import lengths
from jax_train.transcribe import AS_THEY_ARE, transcribe
from jax_train.weights import load_model

ONLY_SHOWN = ("out", "recordings", "report_clips")  # settings that change no transcript


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


class Clips(NamedTuple):
    """What is scored, and what the report plays of it."""

    shards: Shards
    rows: np.ndarray
    left_out: int
    """Clips that `limit` left out."""
    recordings: Recordings


def evaluate(config: EvaluateConfig, devices: Sequence[jax.Device] | None = None, again: bool = True) -> dict[str, Any]:
    """Scores, speed and settings, as written to scores.json; or not made `again`, but those there if made alike.

    Raises:
        UserError: no such split, model, run, file or corpus; predictions of other clips; shards of another mel size
            than the model; nothing to score; a folder for the results that cannot be written, or holds others'.
    """
    devices = list(devices or jax.local_devices())
    marks = [time.perf_counter()]
    clips, out = _clips(config), _own_folder(config)
    if config.predictions:
        return _score_file(config, config.predictions, clips)
    folder = _source(config, clips)
    language = config.language or clips.shards.manifest["language"]
    rules = DecodingRules.from_folder(folder, language, config.max_new_tokens, config.timestamps)
    step = chosen_step(config.run, config.step) if config.run else 0
    if not again and (found := made_before(out, _made(config, clips, folder, step, rules, devices))):
        return found
    tokenizer, dtype = load_tokenizer(str(folder)), config.compute_dtype
    model, step = load_run(config.run, dtype, config.step) if config.run else (load_model(folder, dtype), 0)
    made = _made(config, clips, folder, step, rules, devices)
    marks.append(time.perf_counter())
    decoder = _decoder(config, model, rules, clips, devices)
    prepared = decoder.compile_seconds
    marks.append(time.perf_counter())
    settings = {name: value for name, value in made["settings"].items() if name not in ONLY_SHOWN}
    with Kept(out, made | {"settings": settings}) as kept:
        if before := kept.attempts[0]:
            print(f"{len(before)} of {len(clips.rows)} clips were transcribed by an earlier start", flush=True)
        transcripts = transcribe(clips.shards, clips.rows, decoder, tokenizer, config.fallback, kept=kept)
    references, hypotheses = [t.reference for t in transcripts], [t.text for t in transcripts]
    marks.append(time.perf_counter())
    write_heard(out, clips.shards, clips.rows, references, hypotheses)
    scored = score(clips.shards, clips.rows, references, hypotheses)
    marks.append(time.perf_counter())
    late = decoder.compile_seconds - prepared  # programs that only a fallback asked for
    speed = _speed(marks, late, np.delete(clips.shards.index["seconds"][clips.rows], list(before)))
    windows = {"encoder_window_seconds": [length / FRAMES_PER_SECOND for length in decoder.frames]}
    result = _finish(config, clips, scored, speed | windows | made)
    kept.remove()
    return result


def _clips(config: EvaluateConfig) -> Clips:
    shards = config.fold.for_scoring(Shards.open(config.shards, config.split))
    clean = np.flatnonzero(shards.index["copy"] == 0)
    rows = clean[: config.limit or None]
    if not len(rows):
        raise UserError(f"{shards.folder}: no clips to score; see its rejected.tsv")
    return Clips(shards, rows, len(clean) - len(rows), find_recordings(shards, config.recordings))


def _own_folder(config: EvaluateConfig) -> Path:
    """Where the results go, which can be written, and if nobody named it, holds no other's."""
    out = config.out_folder()
    check_writable(out)
    if not (config.out or config.run):
        refuse_others(out, config.model or str(config.predictions))
    return out


def _source(config: EvaluateConfig, clips: Clips) -> Path:
    """The folder of the model's small files, known to take these clips."""
    folder = run_model_folder(config.run) if config.run else model_folder(config.model)
    n_mels = clips.shards[clips.rows[0]].log_mel_q.shape[1]
    wanted = WhisperConfig.from_folder(folder).num_mel_bins
    if n_mels != wanted:
        shards = clips.shards.folder
        raise UserError(f"{shards} has {n_mels} mel bins, {folder} takes {wanted}: featurize again with it")
    return folder


def _made(
    config: EvaluateConfig, clips: Clips, folder: Path, step: int, rules: DecodingRules, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """All that the transcripts depend on, as in scores.json."""
    language = config.language or clips.shards.manifest["language"]
    return {
        "model": f"{config.run} step {step}" if config.run else config.model,
        "weights": weights_of(folder, config.run / "checkpoints" / str(step) if config.run else None),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "data": facts(clips.shards.manifest),
        "settings": _settings(config, language, clips.left_out) | asdict(rules),
    }


def _decoder(
    config: EvaluateConfig, model: Whisper, rules: DecodingRules, clips: Clips, devices: Sequence[jax.Device]
) -> BatchDecoder:
    batch, most = config.batch_size * len(devices), 2 * model.config.max_source_positions
    thin = config.windows == "thinned"
    frames = lengths(clips.shards.index["frames"][clips.rows], batch, most) if thin else ()
    return BatchDecoder(model, rules, batch, devices, frames, config.num_beams)


def _score_file(config: EvaluateConfig, path: Path, clips: Clips) -> dict[str, Any]:
    """The result of transcripts made elsewhere."""
    shards, rows, left_out, _ = clips
    hypotheses = hypotheses_for(path, shards.index["id"][rows].tolist())
    scored = score(shards, rows, [shards[row].text for row in rows], hypotheses)
    told = {"settings": _settings(config, shards.manifest["language"], left_out), "data": facts(shards.manifest)}
    return _finish(config, clips, scored, {"model": str(path), **told})


def _speed(marks: Sequence[float], late: float, seconds_C: np.ndarray) -> dict[str, Any]:
    """The times between the `marks`, `late` of which is no decoding but compiling; speed is that of the clips given."""
    load, prepare, decode, scoring = np.diff(marks).tolist()
    seconds = {"load": load, "compile": prepare + late, "decode": decode - late, "score": scoring}
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    decoding = max(seconds["decode"], 1e-3)
    speech = round(float(seconds_C.sum(dtype=np.float64)), 3)
    return {
        "clips_per_second": len(seconds_C) / decoding,
        "speech_seconds_per_second": speech / decoding,
        "seconds": seconds,
    }


def _settings(config: EvaluateConfig, language: str, left_out: int) -> dict[str, Any]:
    """The options, with the language that was written and how many clips `limit` left out."""
    return asdict(config) | {"language": language, ASKED_TOKENS: config.max_new_tokens, LEFT_OUT: left_out}


def asdict(settings: EvaluateConfig | DecodingRules) -> dict[str, Any]:
    """The fields as JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return found


def _finish(config: EvaluateConfig, clips: Clips, scored: Scored, told: dict[str, Any]) -> dict[str, Any]:
    """Write the files; the result with what is `told` of its making."""
    out = config.out_folder()
    write_clips(out, scored.clips)
    result = {**scored.result, "split": config.split, **told}
    started = time.perf_counter()
    write_report(out, result, scored, clips.shards, clips.rows, clips.recordings, config.report_clips)
    result["seconds"] = told.get("seconds", {}) | {"report": round(time.perf_counter() - started, 3)}
    write_scores(out, result)
    return result


def main() -> None:
    """Scores a model or a run on a split."""
    config = tyro.cli(EvaluateConfig)
    compilation_cache()
    result = evaluate(config)
    out = config.out_folder()
    print(f"{table(result)}\n{out / PREDICTIONS}, {out / REPORT}\n{out / SCORES_FILE}")


if __name__ == "__main__":
    command(main)()
