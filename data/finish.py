"""A finished set out of finished shards: duplicates out, then the index, the rejected clips, and last the manifest.

Everything here reads the shards' side files one after the other, so memory grows by a few numbers a clip only.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from upath import UPath

from data.clips import Rejected
from data.errors import UserError
from data.records import INDEX_TYPES, MANIFEST, ShardError, ShardWriter, damaged_shards, decode, read_index, write_index
from data.shard_jobs import ShardJob, ShardResult, read_rows, save_result
from data.storage import PARTIAL, write_text
from data.tfrecord import FRAMING_BYTES, unframe

REJECTED = "rejected.tsv"
TIMING = "timing.json"
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


def reopen(folder: UPath, manifest: dict[str, Any], jobs: list[ShardJob]) -> None:
    """Make a finished set whose shards are not all whole an unfinished one, so that only the damaged are made again."""
    damaged = damaged_shards(folder, manifest)
    try:
        index = read_index(folder)
        with (folder / REJECTED).open("r", encoding="utf-8") as file:
            rejected = {
                row["id"]: Rejected(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            }
    except (ShardError, FileNotFoundError):
        damaged = dict.fromkeys(range(len(jobs)), "")  # nothing tells what is in the shards: make all of them again
    for number, job in enumerate(jobs):
        if number not in damaged:
            here = index["shard"] == number
            shard = ShardWriter(job.path)
            shard.rows = {name: index[name][here].tolist() for name in INDEX_TYPES if name != "shard"}
            shard.size, shard.sha256 = manifest["shards"][number]["bytes"], manifest["shards"][number]["sha256"]
            used = set(shard.rows["id"])
            left_out = [clip.id for clip in job.clips if clip.id not in used]
            save_result(job, shard, [replace(rejected[_escaped(clip_id)], id=clip_id) for clip_id in left_out])
    (folder / MANIFEST).unlink()


def remove_hidden(folder: UPath) -> None:
    """Remove what only an unfinished set needs; a run may have been killed between its manifest and this."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith((".json", PARTIAL)):
            path.unlink()


def to_json(content: dict[str, Any]) -> str:
    """`content` as the text of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
