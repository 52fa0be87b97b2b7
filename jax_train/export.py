"""The command that turns a run into a model other programs load, and proves it equal before it gets its name.

Everything is written beside its final name, in `.NAME.partial`, which an export locks: a second one to that name is
refused, and what a killed one left goes with the next. The Hugging Face folder comes first: PyTorch, in a process of
its own (`serving.verify`), loads it with no weight missing or left over, computes logits and transcribes real clips,
which are compared with ours. The two meet in files, so that the trainer never imports torch. Another format is made
from that folder and has to write the same transcripts in its own runtime. Only then is the folder renamed.
"""

import dataclasses
import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import tyro

from data.errors import UserError, command
from jax_train.checkpoints import SMALL_FILES, chosen_step, load_run, run_model_folder
from jax_train.config import compilation_cache
from jax_train.decoding_rules import DecodingRules
from jax_train.export_folder import ORIGINAL, read_object, write_folder
from jax_train.ggml import FILE as GGML
from jax_train.model_card import FILE as CARD
from jax_train.model_card import licence_of, model_card, sources
from jax_train.other_formats import check_installed, convert
from jax_train.pretrained import FILES
from jax_train.proof import NEW_TOKENS, Proof, ask, compare_transcripts, prove, real_windows, written_by
from jax_train.run_settings import read_settings
from jax_train.runlog import write_json

RECORD = "export.json"
WRITTEN = {*FILES, RECORD, CARD, GGML, "processor_config.json", "model.bin", "vocabulary.json", "vocabulary.txt"}
"""What an export may hold, by name or pattern, besides the small files of its run's model."""
REPLACED = "replaced"  # the earlier export, while the new one gets its name
SHOWN = 3  # foreign files that are named
DTYPES = {
    "huggingface": ("float32", "float16", "bfloat16"),
    "ctranslate2": ("float32", "float16", "int8"),
    "ggml": ("float16",),
}
"""The types that a format's weights may be stored in; the first one is the default."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes a run's newest checkpoint as a model other programs load, proved on real clips."""

    run: Path
    """Folder of a training run."""
    model_dir: Path
    """Folder to write; an earlier export of the same format there is replaced once the new one is proved."""
    step: str = "newest"
    """Checkpoint to take: newest, best (of lowest WER), or its step."""
    format: Literal["huggingface", "ctranslate2", "ggml"] = "huggingface"
    """huggingface: for transformers and `make serve`; ctranslate2: for faster-whisper; ggml: for whisper.cpp."""
    dtype: Literal["", "float32", "float16", "bfloat16", "int8"] = ""
    """Type the weights are stored in: huggingface float32 (the default), float16 or bfloat16; ctranslate2 float32 (the
    default), float16 or int8; ggml float16."""
    shards: Path | None = None
    """Where the run's shards are now, if they were moved: the proof takes real clips from them."""
    clips: int = 4
    """Real clips that have to be transcribed alike."""

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise UserError(f"--clips {self.clips}: an export is proved on at least 1")
        if self.dtype and self.dtype not in DTYPES[self.format]:
            raise UserError(f"--dtype {self.dtype}: {self.format} takes {', '.join(DTYPES[self.format])}")

    def weights(self) -> str:
        """Type the weights are stored in."""
        return self.dtype or DTYPES[self.format][0]


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the folder; what was compared, as in its export.json.

    Raises:
        UserError: a place that cannot be written to or holds something else, no such run, or one that lacks a file,
            no clips to prove it on, or logits or transcripts that differ: then nothing is written.
    """
    final = config.model_dir
    check_installed(config.format)
    if importlib.util.find_spec("torch") is None:
        advice = "pip install -c constraints.txt -e '.[serve]'"
        raise UserError(f"the export is proved with PyTorch, which is not installed: {advice}")
    with working_folder(final) as place:
        _check_place(final, config.format, config.run)
        licence = licence_of(final / CARD)
        _check_run(config.run, config.step)
        folder, record = _made(config, place)
        write_json(folder / RECORD, record)
        (folder / CARD).write_text(model_card(config.run, record, final.name, licence), encoding="utf-8")
        if final.exists():
            final.rename(place / REPLACED)
        folder.rename(final)
    return record


def _made(config: ExportConfig, place: Path) -> tuple[Path, dict[str, Any]]:
    """The model's folder, proved, in the folder `place`; and what was compared."""
    dtype, run = config.weights(), config.run
    model, step = load_run(run, step=config.step)
    clips_CFM = real_windows(run, config.shards, config.clips, model.config.num_mel_bins)
    language = read_settings(run)["language"]
    rules = DecodingRules.from_folder(run_model_folder(run), language, NEW_TOKENS)
    # Formats that round matrices alone are made from a float32 folder.
    stored = "float32" if config.format == "ggml" or dtype == "int8" else dtype
    proof = prove(model, stored, clips_CFM, rules)
    folder = place / "huggingface"
    write_folder(model, run, folder, stored)
    record = {"name": config.model_dir.name, "run": str(run), "step": step, "language": language}
    record |= {"format": config.format, "dtype": dtype} | prove_folder(folder, proof, place)
    if config.format != "huggingface":
        made, folder = folder, place / config.format
        record["program"] = convert(config.format, dtype, made, folder, proof, language)
    return folder, record


def prove_folder(folder: Path, proof: Proof, scratch: Path) -> dict[str, Any]:
    """What PyTorch says of a Hugging Face folder. Raises `UserError` with its reason where it says no."""
    reference = scratch / "reference.safetensors"
    proof.save(reference)
    parity = ask("serving.verify", "--model", folder, "--reference", reference)
    theirs = parity.pop("transcripts")
    found = compare_transcripts(proof, theirs, written_by(folder))
    ours = [written_by(folder)(tokens) for tokens in proof.transcripts()]
    return {"parity": parity, "rounding": proof.rounding, "transcripts": found | {"texts": ours}}


@contextmanager
def working_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside `final`, this process's alone where its file system knows locks, and gone afterwards.

    Raises:
        UserError: nothing can be written there, or another export to `final` is running.
    """
    place = final.parent / f".{final.name}.partial"
    lock = place / ".lock"
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{final}: cannot be written there ({error.strerror}); give another MODEL_DIR") from error
    try:
        _take(file, lock, final)
        if (place / REPLACED).exists() and not final.exists():  # killed between the two renames
            (place / REPLACED).rename(final)
        for left in place.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            elif left != lock:
                left.unlink()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)  # what is left, the next export removes
    finally:
        os.close(file)


def _take(file: int, lock: Path, final: Path) -> None:
    """Lock the open `file`. Raises `UserError` where another export holds it, or has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = os.path.samestat(os.fstat(file), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        taken = False
    except OSError:  # a file system that knows no locks
        taken = True
    if not taken:
        raise UserError(f"{final}: another export to it is running; wait for its end, or give another MODEL_DIR")


def _check_place(final: Path, form: str, run: Path) -> None:
    """Raises `UserError` unless the place is free or holds an earlier export of the same format, and nothing else."""
    if not final.exists():
        if final.is_symlink():
            raise UserError(f"{final}: a link to what is not there; remove it, or give another MODEL_DIR")
        return
    if not (final / RECORD).is_file():
        raise UserError(f"{final}: exists and is no export of ours; give another MODEL_DIR, or move it away")
    before = read_object(final / RECORD, "give another MODEL_DIR, or move it away").get("format", "huggingface")
    if before != form:
        raise UserError(f"{final}: holds a {before} export; give another MODEL_DIR for {form}")
    known = WRITTEN | {path.name for pattern in SMALL_FILES for path in run_model_folder(run).glob(pattern)}
    others = sorted(
        path.name for path in final.iterdir() if path.is_dir() or not any(fnmatch(path.name, name) for name in known)
    )
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise UserError(
            f"{final}: holds {', '.join(others[:SHOWN])}{more}, which no export writes and a new one would delete;"
            " move that away, or give another MODEL_DIR"
        )


def _check_run(run: Path, step: str) -> None:
    """Raises `UserError` for what an export reads of the run besides its weights, before those are looked at."""
    folder, number = run_model_folder(run), chosen_step(run, step)
    for name in ("config.json", "generation_config.json"):
        read_object(folder / name, ORIGINAL)
    written_by(folder)
    sources(run, number)


@command
def main() -> None:
    config = tyro.cli(ExportConfig)
    compilation_cache()
    record = export(config)
    print(f"{summary(record)}\n{config.model_dir}")


def summary(record: dict[str, Any]) -> str:
    """What was proved, for people."""
    parity, rounding, clips = record["parity"], record["rounding"], record["transcripts"]["clips"]
    lines = [
        f"step {record['step']} equals PyTorch: logits differ by at most {parity['max_abs_logit_difference']:.1e} "
        f"(largest {parity['max_abs_logit']:.1f}), {clips} of {clips} real clips are transcribed alike"
    ]
    if rounding:
        lines.append(
            f"rounded to {record['dtype']}: logits changed by at most {rounding['max_abs_logit_difference']:.1e},"
            f" {rounding['changed_transcripts']} of {clips} transcripts"
        )
    if other := record.get("program"):
        lines.append(
            f"{other['program']} ({record['dtype']}): {clips - other['different']} of {clips} clips are transcribed"
            f" alike, {other['token_error_rate']:.1%} of the tokens differ"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
