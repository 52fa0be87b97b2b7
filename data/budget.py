"""What a featurize run takes: speech, bytes and time, told before any work; and whether there is room for it."""

import math
import re
import shutil
import time
from contextlib import suppress
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO

import soundfile
from tokenizers import Tokenizer
from upath import UPath

from data.audio import UNKNOWN_FRAMES
from data.clips import Clip, ClipError, Split
from data.containers import is_container
from data.errors import UserError
from data.lengths import check_duration
from data.log_mel import FRAMES_PER_SECOND, WINDOW_SECONDS
from data.records import encode
from data.shard_jobs import ShardJob, each_record, one_thread
from data.storage import is_local

RECORD_OVERHEAD = 400  # bytes beside the features: names, framing, sentence, client_id
PROBED_CLIPS = 64  # their mean duration is within 4 % for Common Voice, whose clips deviate by a third of the mean
TIMED_SECONDS = 0.5
TIMED_COPIES = 8  # of one clip
UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {f"{unit}i": 2**power for unit, power in (("k", 10), ("K", 10), ("M", 20), ("G", 30), ("T", 40))}


def estimate_seconds(split: Split) -> float:
    """Seconds of speech in `split` that can be used: as its source tells, or else from some clips' headers."""
    known = [usable(clip.seconds) for clip in split.clips if clip.seconds is not None]
    if not any(known):  # nothing is told, or not in seconds
        step = -(-len(split.clips) // PROBED_CLIPS) if split.random_access else 1
        probed = split.clips[::step][:PROBED_CLIPS]
        known = [usable(seconds) for clip in probed if (seconds := duration(clip)) is not None]
    return sum(known) / max(len(known), 1) * len(split.clips)


def usable(seconds: float) -> float:
    """`seconds`, or none of them for a clip that is left out because it lasts so long, or as short."""
    try:
        check_duration(seconds)
    except ClipError:
        return 0.0
    return seconds


def duration(clip: Clip) -> float | None:
    """Seconds of `clip` by its header; None if it cannot be opened, which the run itself will report."""
    if clip.length is not None:
        return clip.length
    try:
        audio = clip.audio.load()
        with BytesIO(audio) if isinstance(audio, bytes) else audio.open("rb") as file:
            seconds = file_seconds(file)
    except (soundfile.SoundFileError, ClipError, OSError):
        return None
    return None if seconds is None else seconds - clip.start


def file_seconds(file: BinaryIO) -> float | None:
    """How long the audio in `file` is, without decoding any; None if it does not tell."""
    container = is_container(file.read(16))
    file.seek(0)
    if container:
        return _container_seconds(file)
    info = soundfile.info(file)
    return float(info.duration) if info.frames < UNKNOWN_FRAMES else None


def _container_seconds(file: BinaryIO) -> float | None:
    """As the header tells, or else, since a browser's recordings do not, by packets as far as a clip may reach."""
    import av

    try:
        with av.open(file) as container:
            if container.duration and container.format.name != "aac":  # of AAC it is a guess by the first frames
                return float(container.duration / av.time_base)
            return _last_end(container) if container.streams.audio else None
    except (av.FFmpegError, ValueError):
        return None


def _last_end(container: Any) -> float | None:
    end = 0.0
    for packet in container.demux(audio=0):
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        if end > WINDOW_SECONDS:
            break
    return end or None


def bytes_per_copy(seconds: float, clips: int, n_mels: int) -> int:
    """Bytes that `clips` clips of `seconds` in all take, once."""
    return int(seconds * FRAMES_PER_SECOND * n_mels + clips * RECORD_OVERHEAD)


def seconds_per_clip(job: ShardJob, tokenizer: Tokenizer) -> float:
    """Processor seconds one of `job`'s clips takes with all its copies, timed on some copies of its first ones."""
    began, times = time.perf_counter(), []
    with one_thread():
        for clip in job.clips:
            times.append(_timed(clip, job, tokenizer))
            if len(times) == 1:  # which pays for what is made once
                began = time.perf_counter()
            if time.perf_counter() - began > TIMED_SECONDS:
                break
    later = times[1:] or times
    return sum(later) / len(later)


def _timed(clip: Clip, job: ShardJob, tokenizer: Tokenizer) -> float:
    """Seconds that `clip` takes, if the later copies take as long as the first ones."""
    laps = [time.perf_counter()]
    with suppress(ClipError):
        for record, _ in islice(each_record(clip, job, tokenizer), 1 + TIMED_COPIES):
            encode(record)
            laps.append(time.perf_counter())
    clean = laps[:2]
    each = (laps[-1] - clean[-1]) / max(len(laps) - len(clean), 1)
    return clean[-1] - clean[0] + job.copies * each


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
