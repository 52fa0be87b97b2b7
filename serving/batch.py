"""Transcripts and signals of many short recordings, as JSON lines that `data.featurize` takes for a manifest.

Decision: a line for every clip, in order, whatever it is: one that cannot be heard has no text, and says why. So a list
of ten thousand does not stop at the one that is damaged, and rows can be put beside what they belong to. The file
appears when all are heard.

    python -m serving.batch --model FOLDER --clips metadata.csv --out transcripts.jsonl
"""

import csv
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import tyro
from tqdm import tqdm

from serving.errors import AudioError, UserError, command
from serving.media import load_audio
from serving.model import quiet_transformers
from serving.transcribe import Transcriber
from serving.transcript import Options

COLUMN = "file_name"


class ListError(UserError):
    """The list of clips cannot be used."""


@dataclass(frozen=True)
class Config:
    """Writes what is said in many short recordings, and what is known of each text."""

    model: Path
    """A Hugging Face Whisper folder; where it holds confidence.json, each text of its language has an estimate."""
    clips: Path
    """CSV with a column file_name: paths relative to it, or absolute."""
    out: Path
    """JSON lines: file_name, text, language, the signals, confidence, trusted; or problem, where there is no text."""
    language: str | None = None
    """Whisper's code of what is spoken, such as it; by default the model's own, else detected in each clip."""


def read_list(path: Path) -> list[str]:
    """The column `file_name` of a CSV. Raises `ListError`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            if COLUMN not in names:
                raise ListError(f"{path}: has no column {COLUMN}; there are: {', '.join(names) or 'none'}")
            rows = []
            for row in reader:
                if not row[COLUMN]:
                    raise ListError(f"{path}: line {reader.line_num} names no clip in {COLUMN}")
                rows.append(row[COLUMN])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ListError(f"{path}: cannot be read ({error}); give a CSV with a column {COLUMN}") from error
    if not rows:
        raise ListError(f"{path}: line 2 names no clip in {COLUMN}")
    return rows


def hear(transcriber: Transcriber, path: Path, options: Options) -> dict[str, Any]:
    """What is written of one recording: text, signals, estimate; or why nothing is."""
    try:
        transcript, signals = transcriber.transcribe_with_signals(load_audio(path), options)
    except AudioError as error:
        return {"text": "", "problem": str(error)}
    found: dict[str, Any] = {"text": transcript.text, "language": transcript.language, "seconds": transcript.seconds}
    found |= asdict(signals) if signals else {}
    if transcriber.confidence is not None and transcript.language in ("", transcriber.confidence.language):
        estimate = transcriber.confidence.estimate(signals)
        found |= {"confidence": estimate.probability, "trusted": estimate.trusted}
    return found


def begin(out: Path) -> TextIO:
    """An open file beside `out` that will be renamed so. Raises `ListError` where it cannot be."""
    try:
        if out.is_dir():
            raise ListError(f"{out}: is a folder; give --out the name of a file")
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.with_name(f".{out.name}.{os.getpid()}.partial").open("w", encoding="utf-8")
    except OSError as error:
        raise ListError(f"{out}: cannot be written ({error.strerror}); give another --out") from error


@command
def main() -> None:
    config = tyro.cli(Config)
    names = read_list(config.clips)
    file = begin(config.out)  # before the model is loaded
    partial, options, problems = Path(file.name), Options(config.language), 0
    try:
        with file:
            quiet_transformers()
            transcriber = Transcriber(config.model, signals=True)
            for name in tqdm(names, unit="clip", dynamic_ncols=True):
                row = {COLUMN: name} | hear(transcriber, config.clips.parent / name, options)
                problems += "problem" in row
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        partial.replace(config.out)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{config.out}: {len(names) - problems:,} transcripts" + (f", {problems:,} problems" if problems else ""))


if __name__ == "__main__":
    main()
