"""The folder of an evaluation: whether it can be written, whose scores it holds, and what is transcribed so far.

Decision: transcripts are kept as they are made, a line per batch, so that the same command goes on where it was
stopped. A batch is there whole or not at all: those after it are then of the same clips as if nothing had happened,
and so are their transcripts. The first line says what they are of; anything else, and the file begins anew.
"""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from data.errors import UserError
from jax_train.checkpoint_files import SEAL
from jax_train.events import Appended
from jax_train.predictions import PREDICTIONS

SCORES_FILE = "scores.json"
KEPT = "transcripts.jsonl.partial"
ORIGINS = ("model", "predictions", "run")  # settings, one of which says of what the scores are
WEIGHT_FILES = ("*.safetensors", "config.json", "tokenizer.json")


class Heard(NamedTuple):
    """What an attempt at a clip gave."""

    text: str
    log_prob: float
    no_speech: float
    believed: bool
    """Whether no further temperature is to be tried."""


def check_writable(out: Path) -> None:
    """Raises `UserError` where nothing can be written into `out`, which need not be there yet and is not made."""
    for folder in (out.absolute(), *out.absolute().parents):
        try:
            folder.lstat()
            with tempfile.TemporaryFile(dir=folder):
                return
        except FileNotFoundError:
            continue
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise UserError(f"--out {out}: {folder}: {what}; name a folder that can be written") from error


def scores_in(out: Path) -> dict[str, Any]:
    """The folder's scores.json; nothing if there is none, or none that can be read."""
    path = out / SCORES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def refuse_others(out: Path, origin: str) -> None:
    """Raises `UserError` if `out` holds the scores, or transcripts so far, of another model or file than `origin`."""
    begun = _lines(out / KEPT)[:1]
    for found in (scores_in(out), *begun):
        settings = found.get("settings", {})
        other = next((settings[name] for name in ORIGINS if settings.get(name)), origin)
        if Path(other).resolve() != Path(origin).resolve():
            raise UserError(f"{out} holds the scores of {other}, not of {origin}: give --out FOLDER, or delete it")


def made_before(out: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """The folder's scores if they were made as `made` says, to the last option; else nothing."""
    found = scores_in(out)
    wanted = json.loads(json.dumps(made))
    same = (out / PREDICTIONS).is_file() and all(found.get(name) == value for name, value in wanted.items())
    return found if same else {}


def weights_of(folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """What tells a model from another at the same path: its files' sizes and times, and the checkpoint's checksums."""
    paths = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    found: dict[str, Any] = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    if checkpoint and (seal := checkpoint / SEAL).is_file():
        found[checkpoint.name] = hashlib.sha256(seal.read_bytes()).hexdigest()
    return found


class Kept:
    """The transcripts so far of what `made` says, in the folder `out`; a context manager, so that the file is closed.

    `attempts` has what there was at the start: of each attempt, the clips by their places.
    """

    def __init__(self, out: Path, made: Mapping[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / KEPT
        self.attempts: dict[int, dict[int, Heard]] = defaultdict(dict)
        head, *batches = _lines(self._path) or [{}]
        if head != json.loads(json.dumps(made)):
            self._path.unlink(missing_ok=True)
            batches = []
        for batch in batches:
            self.attempts[batch["attempt"]] |= {place: Heard(*heard) for place, *heard in batch["clips"]}
        _cut(self._path)
        self._file = Appended(self._path)
        if not self._path.stat().st_size:
            self._write(made)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, attempt: int, batch: Mapping[int, Heard]) -> None:
        """Keep what an attempt at the clips of a batch gave. Raises `OSError`."""
        self._write({"attempt": attempt, "clips": [[place, *heard] for place, heard in batch.items()]})

    def remove(self) -> None:
        """Away with the file: the results stand."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, up to one that was cut short by a kill."""
    return [line for line, _ in _sized(path)]


def _cut(path: Path) -> None:
    """Take from the end what is no whole line."""
    if path.is_file():
        size = sum(size for _, size in _sized(path))
        with path.open("r+b") as file:
            file.truncate(size)


def _sized(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines with their bytes."""
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        try:
            found = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return
        yield found, len(line)
