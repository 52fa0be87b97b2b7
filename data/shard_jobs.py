"""One shard from its clips: a job that depends on nothing but its arguments, so any process on any machine may do it.

Each clip is decoded once, and each copy made from those samples. A finished job leaves two files, the shard and a small
hidden side file beside it (index rows, rejected clips, checksum); the side file is written last, so a shard without one
is done again.
"""

import json
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer
from upath import UPath

from data.audio import decode, resample
from data.augment import Recipe, augment, draw, generator
from data.clips import NO_SUCH_FILE, AudioFile, Clip, ClipError, Rejected, reading_problem
from data.errors import UserError
from data.log_mel import N_SAMPLES, SAMPLE_RATE, WINDOW_SECONDS, log_mel, quantize
from data.records import Record, ShardWriter
from data.storage import write_text, writing_to
from data.tokens import MAX_TEXT_TOKENS, parse_tokenizer, text_tokens


@dataclass(frozen=True)
class ShardJob:
    """Everything a worker needs for one shard."""

    path: UPath
    clips: tuple[Clip, ...]
    source: str
    """What all audio is in, see `Split.root`."""
    tokenizer_file: UPath
    n_mels: int
    recipe: Recipe
    copies: int
    """Augmented copies beside the clean one."""
    seed: int


@dataclass(frozen=True)
class ShardResult:
    """What a finished job says about its shard; the index rows stay in the side file."""

    file: str
    records: int
    bytes: int
    sha256: str
    seconds: float
    """Of speech, in all copies."""
    frames: int
    rejected: tuple[Rejected, ...]


def side_file(shard: UPath) -> UPath:
    """Where the result of `shard`'s job and its index rows stand until all jobs are done."""
    return shard.with_name(f".{shard.name}.json")


def save_result(job: ShardJob, shard: ShardWriter, rejected: Iterable[Rejected]) -> ShardResult:
    """Write the side file of `job`'s finished `shard`, and give what it says."""
    rows = shard.rows
    result = ShardResult(
        job.path.name,
        len(rows["id"]),
        shard.size,
        shard.sha256,
        sum(rows["seconds"]),
        sum(rows["frames"]),
        (*rejected,),
    )
    clips = {clip.id: clip for clip in job.clips}
    states = {row.id: _file_state(clips[row.id], job) for row in result.rejected}
    content = {**asdict(result), "rejected_files": states, "rows": rows}
    write_text(side_file(job.path), json.dumps(content, ensure_ascii=False))
    return result


def finished_result(job: ShardJob) -> ShardResult | None:
    """The result of an earlier run of `job`, if its shard is whole and none of the clips it rejected mended since."""
    try:
        content = json.loads(side_file(job.path).read_text(encoding="utf-8"))
        size = job.path.stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    del content["rows"]
    states = content.pop("rejected_files", {})  # earlier versions noted none
    content["rejected"] = tuple(Rejected(**row) for row in content["rejected"])
    result = ShardResult(**content)
    clips = {clip.id: clip for clip in job.clips}
    mended = any(_is_mended(clips[row.id], job, row, states.get(row.id)) for row in result.rejected)
    return result if size == result.bytes and not mended else None


def _is_mended(clip: Clip, job: ShardJob, rejected: Rejected, state: str | None) -> bool:
    if rejected.reason == NO_SUCH_FILE:
        return _is_there(clip)
    return state is not None and _file_state(clip, job) != state


def _file_state(clip: Clip, job: ShardJob) -> str:
    """What changes when `clip`'s file does, or the archive it is in: seen without reading either."""
    path = clip.audio.path if isinstance(clip.audio, AudioFile) else job.source
    try:
        if "://" in path and path != job.source:
            remote = UPath(path)
            return str(remote.fs.ukey(remote.path))
        file = Path(path).stat()
    except OSError as error:
        problem = reading_problem(path, error)
        if isinstance(problem, ClipError):
            return problem.reason
        raise problem from None
    if stat.S_ISDIR(file.st_mode):  # of a data set in many files, where its time says little
        return ""
    return f"{file.st_size} bytes of {file.st_mtime_ns}, mode {file.st_mode:o}"


def read_rows(job: ShardJob) -> dict[str, list[Any]]:
    """The index rows of `job`'s finished shard, by column."""
    rows: dict[str, list[Any]] = json.loads(side_file(job.path).read_text(encoding="utf-8"))["rows"]
    return rows


def write_shard(job: ShardJob, progress: Callable[[float, int], None]) -> ShardResult:
    """Write `job`'s shard and side file; `progress` is told the seconds of speech and the bytes after each clip.

    A clip that cannot be used becomes a row of the result's `rejected`. Raises `UserError` when the shard cannot be
    written (disk full, no permission), and when the source has vanished.
    """
    tokenizer = parse_tokenizer(job.tokenizer_file.read_text(encoding="utf-8"))
    rejected: list[Rejected] = []
    with one_thread(), writing_to(job.path), ShardWriter(job.path) as shard:
        for clip in job.clips:
            seconds, size = 0.0, shard.size
            try:
                for record, augmentations in each_record(clip, job, tokenizer):
                    shard.write(record, augmentations)
                    seconds += record.seconds
            except ClipError as error:
                if error.reason == NO_SUCH_FILE:
                    _check_source(job)
                rejected.append(Rejected(clip.id, error.reason, error.detail))
            progress(seconds, shard.size - size)
    with writing_to(job.path):
        return save_result(job, shard, rejected)


def one_thread() -> Any:
    """A context in which BLAS uses one thread: more fight for the cores of other jobs, and change the last bit."""
    return threadpool_limits(limits=1, user_api="blas")


def _check_source(job: ShardJob) -> None:
    """One missing clip is a gap; a missing corpus is an error, not a shard of gaps."""
    root = UPath(job.source)
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        raise UserError(
            f"{job.source} has vanished or is empty: bring it back and run the same command again to continue"
        )


def _is_there(clip: Clip) -> bool:
    try:
        audio = clip.audio.load()
    except ClipError:
        return False
    return isinstance(audio, bytes) or audio.is_file()


def each_record(clip: Clip, job: ShardJob, tokenizer: Tokenizer) -> Iterator[tuple[Record, str]]:
    """`clip`'s records, copy 0 first, each with what was drawn for it (JSON), and one in memory at a time.

    `ClipError` comes before the first, if the clip is unusable.
    """
    if not any(character.isprintable() for character in clip.sentence):
        raise ClipError("empty sentence")
    tokens = tuple(text_tokens(tokenizer, clip.sentence))
    if len(tokens) > MAX_TEXT_TOKENS:
        raise ClipError(f"more than {MAX_TEXT_TOKENS} tokens", f"{len(tokens)}; split it")
    native_N, rate = decode(clip.audio.load(), clip.start, clip.length, clip.id)
    for copy in range(1 + job.copies):
        audio_N, augmentations = make_copy(native_N, rate, copy, clip.id, job)
        log_mel_q_FM, log_mel_max = quantize(log_mel(audio_N, job.n_mels))
        seconds = len(audio_N) / SAMPLE_RATE
        record = Record(clip.id, copy, log_mel_q_FM, log_mel_max, clip.sentence, tokens, clip.speaker, seconds)
        yield record, augmentations


def make_copy(
    native_N: Float32[np.ndarray, "N"], rate: int, copy: int, clip_id: str, job: ShardJob
) -> tuple[Float32[np.ndarray, "K"], str]:
    """Copy number `copy` of a clip at 16 kHz, and what was drawn for it as JSON (nothing for copy 0)."""
    if copy == 0:
        return resample(native_N, rate)[:N_SAMPLES], ""  # soxr may round 30 s up by one sample
    rng = generator(job.seed, copy, clip_id)
    drawn = draw(job.recipe, rng, slowest=len(native_N) / rate / WINDOW_SECONDS)
    audio_N = resample(native_N, rate, drawn.get("speed", 1.0))
    try:
        return augment(audio_N, job.recipe, drawn, rng)[:N_SAMPLES], json.dumps(drawn)
    except UserError as error:
        raise UserError(f"{clip_id}, copy {copy}: {error}") from None
