"""One shard from its clips: a job that depends on nothing but its arguments, so any process on any machine may do it.

Each clip is decoded once, and each copy made from those samples. A finished job leaves two files, the shard and a small
hidden side file beside it (index rows, rejected clips, checksum); the side file is written last, so a shard without one
is done again.
"""

import errno
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from tokenizers import Tokenizer

from data.audio import decode, resample
from data.augment import Recipe, augment, draw, generator
from data.clips import Clip, ClipError, Rejected
from data.errors import UserError
from data.log_mel import N_SAMPLES, SAMPLE_RATE, WINDOW_SECONDS, log_mel, quantize
from data.records import Record, ShardWriter
from data.tokens import MAX_TEXT_TOKENS, text_tokens


@dataclass(frozen=True)
class ShardJob:
    """Everything a worker needs for one shard."""

    path: Path
    clips: tuple[Clip, ...]
    tokenizer_file: Path
    n_mels: int
    recipe: Recipe
    copies: int
    """Augmented copies beside the clean one."""
    seed: int


@dataclass(frozen=True)
class ShardResult:
    """What a finished job says about its shard."""

    file: str
    bytes: int
    sha256: str
    rows: dict[str, list[Any]]
    """Index columns, see `ShardWriter.rows`."""
    rejected: list[Rejected]

    @property
    def records(self) -> int:
        return len(self.rows["id"])


def side_file(shard: Path) -> Path:
    """Where the result of `shard`'s job stands until all jobs are done."""
    return shard.with_name(f".{shard.name}.json")


def finished_result(job: ShardJob) -> ShardResult | None:
    """The result of an earlier run of `job`, if its shard is whole."""
    try:
        content = json.loads(side_file(job.path).read_text(encoding="utf-8"))
        size = job.path.stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    content["rejected"] = [Rejected(**row) for row in content["rejected"]]
    result = ShardResult(**content)
    return result if size == result.bytes else None


def write_shard(job: ShardJob, progress: Callable[[float], None]) -> ShardResult:
    """Write `job`'s shard and side file; `progress` is told the seconds of speech written after each clip.

    A clip that cannot be used becomes a row of the result's `rejected`. Raises `UserError` when the disk is full.
    """
    tokenizer = _load_tokenizer(job.tokenizer_file)
    rejected: list[Rejected] = []
    try:
        with ShardWriter(job.path) as shard:
            for clip in job.clips:
                seconds = 0.0
                try:
                    for record, augmentations in clip_records(clip, job, tokenizer):
                        shard.write(record, augmentations)
                        seconds += record.seconds
                except ClipError as error:
                    rejected.append(Rejected(clip.id, error.reason, error.detail))
                progress(seconds)
        result = ShardResult(job.path.name, shard.size, shard.sha256, shard.rows, rejected)
        content = {**vars(result), "rejected": [asdict(row) for row in rejected]}
        partial = job.path.with_name(f".{job.path.name}.json.partial")
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        partial.replace(side_file(job.path))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{job.path}: the disk is full; make room and run the same command again to continue") from None
    return result


def clip_records(clip: Clip, job: ShardJob, tokenizer: Tokenizer) -> list[tuple[Record, str]]:
    """`clip`'s records, copy 0 first, each with what was drawn for it (JSON); `ClipError` if the clip is unusable."""
    if not clip.sentence:
        raise ClipError("empty sentence")
    tokens = tuple(text_tokens(tokenizer, clip.sentence))
    if len(tokens) > MAX_TEXT_TOKENS:
        raise ClipError(f"more than {MAX_TEXT_TOKENS} tokens", f"{len(tokens)}; split it")
    native_N, rate = decode(clip.audio.load(), clip.start, clip.length, clip.id)
    records = []
    for copy in range(1 + job.copies):
        audio_N, augmentations = make_copy(native_N, rate, copy, clip.id, job)
        log_mel_q_FM, log_mel_max = quantize(log_mel(audio_N, job.n_mels))
        seconds = len(audio_N) / SAMPLE_RATE
        record = Record(clip.id, copy, log_mel_q_FM, log_mel_max, clip.sentence, tokens, clip.speaker, seconds)
        records.append((record, augmentations))
    return records


def make_copy(
    native_N: Float32[np.ndarray, "N"], rate: int, copy: int, clip_id: str, job: ShardJob
) -> tuple[Float32[np.ndarray, "K"], str]:
    """Copy number `copy` of a clip at 16 kHz, and what was drawn for it as JSON (nothing for copy 0)."""
    if copy == 0:
        return resample(native_N, rate)[:N_SAMPLES], ""  # soxr may round 30 s up by one sample
    rng = generator(job.seed, copy, clip_id)
    drawn = draw(job.recipe, rng, slowest=len(native_N) / rate / WINDOW_SECONDS)
    audio_N = resample(native_N, rate, drawn.get("speed", 1.0))
    return augment(audio_N, job.recipe, drawn, rng)[:N_SAMPLES], json.dumps(drawn)


@cache
def _load_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
