"""A finished set out of finished shards: duplicates out, then the index, the rejected clips, and last the manifest.

Everything here reads the shards' side files one after the other, so memory grows by a few numbers a clip only.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from upath import UPath

from data.clips import Rejected
from data.errors import UserError
from data.records import Shards, ShardWriter, decode
from data.set_files import (
    INDEX,
    INDEX_TYPES,
    MANIFEST,
    ShardError,
    damaged_shards,
    read_index,
    read_manifest,
    write_index,
)
from data.shard_jobs import ShardJob, ShardResult, read_rows, save_result
from data.storage import PARTIAL, write_text
from data.tfrecord import FRAMING_BYTES, unframe

REJECTED = "rejected.tsv"
TIMING = "timing.json"
TOTALS = ("records", "bytes", "seconds", "rejected", "index_sha256", "shards")  # in a manifest, beside the settings
ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
DUPLICATE = "same audio as another clip"


class NothingUsableError(UserError):
    """No clip of a split could be used; its `rejected.tsv` says why."""


def drop_duplicates(jobs: list[ShardJob], results: dict[int, ShardResult]) -> dict[int, ShardResult]:
    """`results` after clips whose features are an earlier clip's, byte for byte, are taken out of the shards."""
    first: dict[tuple[int, int], tuple[int, int, int, str]] = {}  # checksum and frames → shard, offset, length, id
    drop: dict[int, dict[str, str]] = {}
    for number, job in enumerate(jobs):
        rows = read_rows(job)
        for row in range(0, len(rows["id"]), 1 + job.copies):
            key = (rows["features_crc32c"][row], rows["frames"][row])
            here = (number, rows["offset"][row], rows["length"][row], rows["id"][row])
            earlier = first.setdefault(key, here)
            if earlier is not here and _features(jobs, earlier) == _features(jobs, here):
                drop.setdefault(number, {})[here[3]] = earlier[3]
    return results | {number: _without(jobs[number], results[number], ids) for number, ids in drop.items()}


def _features(jobs: list[ShardJob], place: tuple[int, int, int, str]) -> tuple[bytes, float]:
    number, offset, length, _ = place
    record = decode(_payload(jobs[number].path, offset, length))
    return record.log_mel_q.tobytes(), record.log_mel_max


def _payload(path: UPath, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return unframe(file.read(length + FRAMING_BYTES), 0, length)


def _without(job: ShardJob, result: ShardResult, ids: dict[str, str]) -> ShardResult:
    """`job`'s shard written anew without the clips `ids` (→ the clip that each repeats)."""
    rows = read_rows(job)
    with ShardWriter(job.path) as shard:
        for position, clip_id in enumerate(rows["id"]):
            if clip_id not in ids:
                row = {name: column[position] for name, column in rows.items()}
                shard.copy(_payload(job.path, row["offset"], row["length"]), row)
    rejected = {clip.id: clip for clip in result.rejected}
    rejected |= {clip_id: Rejected(clip_id, DUPLICATE, earlier) for clip_id, earlier in ids.items()}
    return save_result(job, shard, [rejected[clip.id] for clip in job.clips if clip.id in rejected])


def merge(
    folder: UPath, settings: dict[str, Any], rejected: list[Rejected], jobs: list[ShardJob], results: list[ShardResult]
) -> dict[str, Any]:
    """Write the index, `rejected.tsv` and last the manifest, which is returned; then remove the side files."""
    rejected = rejected + [clip for result in results for clip in result.rejected]
    write_rejected(folder, rejected)
    records = sum(result.records for result in results)
    if not records:
        raise NothingUsableError(f"no clip could be used; {folder / REJECTED} says why")
    clean = [0.0]
    index_sha256 = write_index(folder, _index_parts(jobs, clean))
    manifest = {
        **settings,
        "records": records,
        "bytes": sum(result.bytes for result in results),
        "seconds": round(sum(result.seconds for result in results), 3),
        "clean_seconds": round(clean[0], 3),
        "frames": sum(result.frames for result in results),
        "rejected": dict(sorted(Counter(clip.reason for clip in rejected).items())),
        "index_sha256": index_sha256,
        "shards": [{"file": r.file, "records": r.records, "bytes": r.bytes, "sha256": r.sha256} for r in results],
    }
    write_text(folder / MANIFEST, to_json(manifest))
    remove_hidden(folder)
    return manifest


def _index_parts(jobs: list[ShardJob], clean: list[float]) -> Iterable[dict[str, list[Any]]]:
    """The index's rows shard by shard; the seconds of the clips themselves, without their copies, go into `clean`."""
    for number, job in enumerate(jobs):
        rows = read_rows(job)
        clean[0] += sum(seconds for seconds, copy in zip(rows["seconds"], rows["copy"], strict=True) if copy == 0)
        yield {**rows, "shard": [number] * len(rows["id"])}


def write_rejected(folder: UPath, rejected: Iterable[Rejected]) -> None:
    """`rejected.tsv`: id (with what would break the line as \\t, \\n, \\r, and \\ twice), reason, detail."""
    lines = ["id\treason\tdetail"]
    lines += [f"{_escaped(r.id)}\t{r.reason}\t{' '.join(r.detail.split())}" for r in rejected]
    write_text(folder / REJECTED, "\n".join(lines) + "\n")


def _escaped(clip_id: str) -> str:
    for character, written in ESCAPES.items():
        clip_id = clip_id.replace(character, written)
    return clip_id


def flaw(folder: UPath, manifest: dict[str, Any]) -> str:
    """What of a finished set, which has this `manifest`, is not as featurize leaves it; "" if nothing is."""
    if lacking := [name for name in TOTALS if name not in manifest]:
        return f"{folder / MANIFEST} lacks {', '.join(lacking)}"
    try:
        Shards(folder)
    except ShardError as damage:
        return str(damage)
    return "" if _is_of(manifest, folder / INDEX) else f"{folder / INDEX} is not as it was written"


def _is_of(manifest: dict[str, Any], index: UPath) -> bool:
    """Whether `index` is the one that `manifest` was written for."""
    return hashlib.sha256(index.read_bytes()).hexdigest() == manifest.get("index_sha256")


def reopen(folder: UPath, manifest: dict[str, Any], jobs: list[ShardJob]) -> None:
    """Make a finished set whose shards are not all whole an unfinished one, so that only the damaged are made again.

    All of them are, if manifest and index do not tell what is in them; and so is a shard that left a clip out of which
    `rejected.tsv` has no row any more.
    """
    try:
        index = read_index(folder)
        entries = read_manifest(folder)["shards"] if _is_of(manifest, folder / INDEX) else []
    except ShardError:
        entries = []
    if len(entries) == len(jobs):
        damaged, rejected = damaged_shards(folder, manifest), _read_rejected(folder)
        for number, (job, entry) in enumerate(zip(jobs, entries, strict=True)):
            if number not in damaged:
                _save_again(job, entry, index, index["shard"] == number, rejected)
    (folder / MANIFEST).unlink()


def _save_again(
    job: ShardJob, entry: dict[str, Any], index: dict[str, np.ndarray], here: np.ndarray, rejected: dict[str, Rejected]
) -> None:
    """Write the side file of `job`'s whole shard out of its rows of the index, those that are `here`."""
    shard = ShardWriter(job.path)
    shard.rows = {name: index[name][here].tolist() for name in INDEX_TYPES if name != "shard"}
    shard.size, shard.sha256 = entry["bytes"], entry["sha256"]
    used = set(shard.rows["id"])
    left_out = [clip.id for clip in job.clips if clip.id not in used]
    if all(_escaped(clip_id) in rejected for clip_id in left_out):
        save_result(job, shard, [replace(rejected[_escaped(clip_id)], id=clip_id) for clip_id in left_out])


def _read_rejected(folder: UPath) -> dict[str, Rejected]:
    """The rows of `rejected.tsv` by their ids as they are written there; those that somebody edited may be missing."""
    try:
        lines = (folder / REJECTED).read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, ValueError):
        return {}
    cells = [line.split("\t") for line in lines[1:]]
    return {row[0]: Rejected(*row) for row in cells if len(row) == 3}


def remove_hidden(folder: UPath) -> None:
    """Remove what only an unfinished set needs; a run may have been killed between its manifest and this."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith((".json", PARTIAL)):
            path.unlink(missing_ok=True)  # by another run that found the set finished


def to_json(content: dict[str, Any]) -> str:
    """`content` as the text of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
