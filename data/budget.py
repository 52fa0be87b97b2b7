"""What a featurize run takes: speech, bytes and time, told before any work; and whether there is room for it."""

import math
import re
import shutil
import time
from contextlib import suppress
from io import BytesIO

import soundfile
from tokenizers import Tokenizer
from upath import UPath

from data.clips import Clip, ClipError, Split
from data.errors import UserError
from data.log_mel import FRAMES_PER_SECOND
from data.records import encode
from data.shard_jobs import ShardJob, clip_records, one_thread
from data.storage import is_local

RECORD_OVERHEAD = 400  # bytes beside the features: names, framing, sentence, client_id
PROBED_CLIPS = 64  # their mean duration is within 4 % for Common Voice, whose clips deviate by a third of the mean
TIMED_SECONDS = 0.5
UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {f"{unit}i": 2**power for unit, power in (("k", 10), ("K", 10), ("M", 20), ("G", 30), ("T", 40))}


def estimate_seconds(split: Split) -> float:
    """Seconds of speech in `split`: as its source tells, or else from some clips' headers."""
    known = [clip.seconds for clip in split.clips if clip.seconds is not None]
    if not known:
        step = -(-len(split.clips) // PROBED_CLIPS) if split.random_access else 1
        probed = split.clips[::step][:PROBED_CLIPS]
        known = [seconds for clip in probed if (seconds := duration(clip)) is not None]
    return sum(known) / max(len(known), 1) * len(split.clips)


def duration(clip: Clip) -> float | None:
    """Seconds of `clip` by its header; None if it cannot be opened, which the run itself will report."""
    if clip.length is not None:
        return clip.length
    try:
        audio = clip.audio.load()
        return float(soundfile.info(BytesIO(audio) if isinstance(audio, bytes) else audio).duration) - clip.start
    except (soundfile.SoundFileError, ClipError):
        return None


def bytes_per_copy(seconds: float, clips: int, n_mels: int) -> int:
    """Bytes that `clips` clips of `seconds` in all take, once."""
    return int(seconds * FRAMES_PER_SECOND * n_mels + clips * RECORD_OVERHEAD)


def seconds_per_clip(job: ShardJob, tokenizer: Tokenizer) -> float:
    """Processor seconds one of `job`'s clips takes with all its copies, timed on its first ones."""
    spent, timed = 0.0, 0
    with one_thread():
        for number, clip in enumerate(job.clips):
            started = time.perf_counter()
            with suppress(ClipError):
                for record, _ in clip_records(clip, job, tokenizer):
                    encode(record)
            if number:  # the first one pays for what is made once
                spent, timed = spent + time.perf_counter() - started, timed + 1
            if spent > TIMED_SECONDS:
                break
    return spent / max(timed, 1)


def free_bytes(folder: UPath) -> float:
    """Room on the disk that `folder` is or will be on; an object store has no end."""
    if not is_local(folder):
        return math.inf
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def copies_that_fit(per_copy: int, budget: int, free: float) -> int:
    """Augmented copies beside the clean one for which there is room; less than 0 if not even for that one."""
    return int(min(budget, free) // max(per_copy, 1)) - 1


def check_room(estimated: int, present: int, budget: int, folder: UPath) -> None:
    """Stop unless `estimated` bytes, of which `present` are there already, fit the budget and the disk of `folder`."""
    if estimated > budget:
        raise UserError(
            f"the shards would take about {say_bytes(estimated)}, the budget is {say_bytes(budget)}: "
            "raise --budget, or lower --copies or --limit"
        )
    free = free_bytes(folder)
    if estimated - present > free:
        raise UserError(
            f"the shards need about {say_bytes(estimated - present)} more, "
            f"the disk of {folder} has {say_bytes(int(free))} free: make room, or lower --copies or --limit"
        )


def parse_bytes(text: str) -> int:
    """Bytes from `200GB`, `1.5 TB`, `300MiB` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[kKMGT]i?)?)B?\s*", text, re.ASCII)
    if match is None:
        raise UserError(f"budget {text!r} is not a size; write for example 200GB, 500MB or 1TiB")
    return int(float(match[1]) * UNITS[match[2]])


def say_bytes(count: int) -> str:
    """`count` for people: 7.2 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def say_seconds(seconds: float) -> str:
    """`seconds` for people: 4 min."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def parse_share(text: str, name: str) -> float:
    """A share from `5%` or `0.05`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text, re.ASCII)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise UserError(f"{name} {text!r} is not a share; write for example 5% or 0.05")
    return share
