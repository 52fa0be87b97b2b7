"""The command `python -m data.featurize`: a corpus's split → TFRecord shards, once and for good.

Work is done in shards, each an independent job. Stop it whenever you like: run again, it continues at the shards that
are missing, and the result is the same byte for byte, whatever the number of workers. A finished set is not made again.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from data.augment import find_recipe
from data.clips import Rejected, Split
from data.errors import UserError, command
from data.model_files import model_file, read_n_mels
from data.plan import (
    Settings,
    check_room,
    differences,
    estimate_bytes,
    estimate_seconds,
    make_settings,
    parse_bytes,
    plan_shards,
    say_bytes,
)
from data.pool import available_cores, run_jobs
from data.records import MANIFEST, Shards, write_index
from data.shard_jobs import ShardJob, ShardResult, finished_result
from data.sources import read_split

REJECTED = "rejected.tsv"
TIMING = "timing.json"
UNFINISHED = ".settings.json"  # the settings of a set that is not finished yet


@dataclass(frozen=True)
class FeaturizeConfig:
    """Turn one split of a corpus into shards for training."""

    source: Path
    """Common Voice language folder: clips/ beside train.tsv, dev.tsv, test.tsv."""
    shards: Path
    """Where the shards go, into a folder named as the split."""
    model: str
    """Hugging Face Whisper folder or hub name: decides the tokenizer and the mel bins."""
    split: str = "train"
    """Which TSV."""
    recipe: str = "standard"
    """Augmentation of the copies: standard or none."""
    copies: int = 1
    """Augmented copies beside the clean one."""
    budget: str = "200GB"
    """Most bytes the shards may take."""
    workers: int = available_cores()
    """Processes, one thread each; the result does not depend on it."""
    seed: int = 0
    """Of the augmentation."""
    language: str | None = None
    """Whisper's code, for example it; by default what the TSV's locale column says."""
    limit: int | None = None
    """Take only the first clips of the TSV."""


def featurize(config: FeaturizeConfig) -> None:
    """Do what `config` says, with progress on the screen; `UserError` for everything the user can mend."""
    started = time.monotonic()
    budget = parse_bytes(config.budget)
    for name, value in (("workers", config.workers), ("limit", config.limit)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it takes 1 or more")
    recipe = find_recipe(config.recipe)
    split = read_split(str(config.source), config.split)
    split = replace(split, clips=split.clips[: config.limit])
    n_mels, tokenizer_file = read_n_mels(config.model), model_file(config.model, "tokenizer.json")
    settings = make_settings(
        split, config.split, config.language, tokenizer_file, n_mels, recipe, config.copies, config.seed
    )
    folder = config.shards / config.split
    if is_finished(folder, settings):
        _remove_hidden(folder)
        print(f"{folder} is already there, made with the same settings: {_say_totals(Shards(folder).manifest)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        _write_json(folder / UNFINISHED, settings.as_json())
        jobs = plan_shards(folder, split.clips, settings, tokenizer_file)
        earlier = {number: result for number, job in enumerate(jobs) if (result := finished_result(job))}
        estimated = _estimate(split, settings, config.workers, len(jobs), len(earlier))
        check_room(estimated, sum(result.bytes for result in earlier.values()), budget, folder)
        results = _run_missing(jobs, earlier, config.workers, budget)
        manifest = {"source": str(config.source), "model": config.model, **settings.as_json()}
        _merge(folder, manifest, split.rejected, [results[number] for number in range(len(jobs))])
        seconds = sum(sum(result.rows["seconds"]) for number, result in results.items() if number not in earlier)
        print(_say_totals(Shards(folder).manifest))
        print(_write_timing(folder, time.monotonic() - started, seconds))


def is_finished(folder: Path, settings: Settings) -> bool:
    """Whether `folder` holds these shards already; `UserError` if it holds others, finished or not."""
    for name, finished in ((MANIFEST, True), (UNFINISHED, False)):
        if (folder / name).is_file():
            there = Shards(folder).manifest if finished else json.loads((folder / name).read_text(encoding="utf-8"))
            if found := differences(there, settings.as_json()):
                raise UserError(
                    f"{folder} holds shards made with other settings ({'; '.join(found)}): "
                    "delete it or name another --shards"
                )
            return finished
    return False


def _estimate(split: Split, settings: Settings, workers: int, shards: int, finished: int) -> int:
    """About how many bytes the shards will take; says what is going to be done."""
    seconds = estimate_seconds(split)
    estimated = estimate_bytes(seconds, settings)
    print(
        f"{len(split.clips):,} clips, about {seconds / 3600:.2f} h, augmented copies of each: {settings.copies}; "
        f"about {say_bytes(estimated)} in {shards} shards, {workers} workers"
    )
    if finished:
        print(f"continuing: {finished} of {shards} shards are done")
    return estimated


def _run_missing(
    jobs: list[ShardJob], earlier: dict[int, ShardResult], workers: int, budget: int
) -> dict[int, ShardResult]:
    """Every job's result by number, `earlier` ones included; stops when more is written than the budget allows."""
    results = dict(earlier)
    missing = {number: job for number, job in enumerate(jobs) if number not in earlier}
    if not missing:
        return results
    for number, result in run_jobs(missing, workers, sum(len(jobs[number].clips) for number in earlier)):
        results[number] = result
        written = sum(result.bytes for result in results.values())
        if written > budget:
            raise UserError(
                f"{say_bytes(written)} written after {len(results)} of {len(jobs)} shards, the budget is "
                f"{say_bytes(budget)}: run again with a larger --budget to continue"
            )
    return results


def _merge(folder: Path, settings: dict[str, Any], rejected: list[Rejected], results: list[ShardResult]) -> None:
    """Make a finished set of finished shards: the index, the rejected clips, and last the manifest."""
    rejected = rejected + [clip for result in results for clip in result.rejected]
    lines = ["id\treason\tdetail"]
    lines += ["\t".join(" ".join(text.split()) for text in (r.id, r.reason, r.detail)) for r in rejected]
    (folder / REJECTED).write_text("\n".join(lines) + "\n", encoding="utf-8")
    reasons = dict(sorted(Counter(clip.reason for clip in rejected).items()))
    for reason, count in reasons.items():
        print(f"left out: {count} × {reason} ({folder / REJECTED})")
    columns: dict[str, list[Any]] = {name: [x for r in results for x in r.rows[name]] for name in results[0].rows}
    columns["shard"] = [number for number, result in enumerate(results) for _ in range(result.records)]
    if not columns["id"]:
        raise UserError(f"no clip could be used; {folder / REJECTED} says why")
    write_index(folder, columns)
    manifest = {
        **settings,
        "records": len(columns["id"]),
        "bytes": sum(result.bytes for result in results),
        "seconds": round(sum(columns["seconds"]), 3),
        "frames": sum(columns["frames"]),
        "rejected": reasons,
        "shards": [{"file": r.file, "records": r.records, "bytes": r.bytes, "sha256": r.sha256} for r in results],
    }
    partial = folder / f"{MANIFEST}.partial"
    _write_json(partial, manifest)
    partial.replace(folder / MANIFEST)
    _remove_hidden(folder)


def _remove_hidden(folder: Path) -> None:
    """Remove what only an unfinished set needs; a run may have been killed between its manifest and this."""
    for path in folder.glob(".*.json*"):
        path.unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Two runs never write one folder at once; the lock goes with the process, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another featurize is writing {folder}: wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)


def _write_timing(folder: Path, wall_seconds: float, speech_seconds: float) -> str:
    """Keep this run's speed beside the shards (not in the manifest, which is the same for every run), and say it."""
    manifest = Shards(folder).manifest
    timing = {
        "speech_seconds": round(speech_seconds, 3),
        "wall_seconds": round(wall_seconds, 3),
        "x_realtime": round(speech_seconds / wall_seconds, 1),
        "bytes_per_speech_second": round(manifest["bytes"] / manifest["seconds"], 1),
    }
    _write_json(folder / TIMING, timing)
    speed, size = timing["x_realtime"], timing["bytes_per_speech_second"]
    return f"{speed:,} seconds of speech per second, {size:,} bytes per second of speech"


def _say_totals(manifest: dict[str, Any]) -> str:
    clips = manifest["records"] // (1 + manifest["copies"])
    hours = f"{manifest['seconds'] / 3600:.2f} h"
    return f"{clips:,} clips, {manifest['records']:,} records, {hours}, {say_bytes(manifest['bytes'])}"


def main() -> None:
    """The command line."""
    featurize(tyro.cli(FeaturizeConfig, prog="python -m data.featurize"))


if __name__ == "__main__":
    command(main)()
