"""The command `python -m data.featurize`: a corpus's split → TFRecord shards, once and for good.

Work is done in shards, each an independent job. Stop it whenever you like: run again, it continues at the shards that
are missing, and the result is the same byte for byte, whatever the number of workers and wherever they are. A finished
set is not made again; a shard that was lost or cut from one is.
"""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tyro
from upath import UPath

from data.budget import check_room, parse_share, say_bytes
from data.clips import NOT_CONFIDENT
from data.errors import UserError, command
from data.finish import REJECTED, TIMING, drop_duplicates, flaw, merge, remove_hidden, reopen, to_json, write_rejected
from data.plan import TOKENIZER, UNFINISHED, Settings, differences
from data.pool import run_in_processes
from data.prepare import FeaturizeConfig, Run, prepare, say_plan
from data.progress import Progress
from data.set_files import MANIFEST
from data.shard_jobs import ShardJob, ShardResult, finished_result
from data.storage import is_local, read_json, write_text, writing_to


def featurize(config: FeaturizeConfig) -> None:
    """Do what `config` says, with progress on the screen; `UserError` for everything the user can mend."""
    started = time.monotonic()
    share = parse_share(config.max_rejected, "max-rejected")
    run = prepare(config)
    folder = run.folder
    if not config.plan and _say_if_finished(run):
        return
    say_plan(run, config)
    check_room(run.estimated_bytes, _bytes_present(run), run.budget, folder)
    if config.plan:
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        if _say_if_finished(run):  # by another command, since this one looked
            return
        with writing_to(folder):
            earlier = _open_set(run)
        _check_rejected(run, earlier.values(), share)
        results = _run_missing(run, earlier, config, share)
        with writing_to(folder):
            results = drop_duplicates(run.jobs, results)
            _check_rejected(run, results.values(), share)
            origin = {"source": str(config.source), "dataset": run.split.dataset, "model": config.model}
            settings = {name: value for name, value in origin.items() if value} | run.settings.as_json()
            done = [results[number] for number in range(len(run.jobs))]
            manifest = merge(folder, settings, run.split.rejected, run.jobs, done)
        for reason, count in manifest["rejected"].items():
            print(f"left out: {count} × {reason} ({folder / REJECTED})")
        print(_say_totals(manifest))
        seconds = sum(result.seconds for number, result in results.items() if number not in earlier)
        if seconds:
            print(_write_timing(folder, manifest, time.monotonic() - started, seconds))


def _say_if_finished(run: Run) -> bool:
    """Whether `run`'s set is there already, which is then told."""
    if not is_finished(run.folder, run.settings):
        return False
    remove_hidden(run.folder)
    manifest = read_json(run.folder / MANIFEST)
    print(f"{run.folder} is already there, made with the same settings: {_say_totals(manifest)}")
    if left_out := sum(manifest["rejected"].values()):
        print(f"{left_out:,} left out ({run.folder / REJECTED}); once they are mended, delete that folder to use them")
    return True


def is_finished(folder: UPath, settings: Settings) -> bool:
    """Whether `folder` holds these shards already, whole; `UserError` if it holds others, finished or not."""
    for name in (MANIFEST, UNFINISHED):
        if (folder / name).is_file():
            there = read_json(folder / name)
            if "format_version" not in there:
                raise UserError(
                    f"{folder / name} does not tell what the shards beside it are made of: "
                    f"delete {folder} or name another --shards"
                )
            if found := differences(there, settings.as_json()):
                raise UserError(
                    f"{folder} holds shards made with other settings ({'; '.join(found)}): "
                    "delete it or name another --shards"
                )
    return (folder / MANIFEST).is_file() and not flaw(folder, read_json(folder / MANIFEST))


def _open_set(run: Run) -> dict[int, ShardResult]:
    """Make `run`'s folder ready for its jobs; the results of those that are done."""
    write_text(run.folder / UNFINISHED, to_json(run.settings.as_json()))
    write_text(run.folder / TOKENIZER, run.tokenizer_file.read_text(encoding="utf-8"))
    if (run.folder / MANIFEST).is_file():
        manifest = read_json(run.folder / MANIFEST)
        print(f"{flaw(run.folder, manifest)}; what is damaged is made again")
        reopen(run.folder, manifest, run.jobs)
    earlier = {number: result for number, job in enumerate(run.jobs) if (result := finished_result(job))}
    if earlier:
        print(f"continuing: {len(earlier)} of {len(run.jobs)} shards are done")
    return earlier


def _run_missing(
    run: Run, earlier: dict[int, ShardResult], config: FeaturizeConfig, share: float
) -> dict[int, ShardResult]:
    """Every job's result by number, `earlier` ones included; stops over the budget and over the share of rejected."""
    results = dict(earlier)
    missing = {number: job for number, job in enumerate(run.jobs) if number not in earlier}
    if not missing:
        return results
    done = sum(len(run.jobs[number].clips) for number in earlier)
    with Progress(len(run.split.clips), done) as progress:
        for number, result in _executor(missing, config, progress):
            results[number] = result
            written = sum(result.bytes for result in results.values())
            if written > run.budget:
                raise UserError(
                    f"{say_bytes(written)} written after {len(results)} of {len(run.jobs)} shards, the budget is "
                    f"{say_bytes(run.budget)}: run again with a larger --budget to continue"
                )
            _check_rejected(run, results.values(), share)
    return results


def _executor(
    jobs: dict[int, ShardJob], config: FeaturizeConfig, progress: Progress
) -> Iterator[tuple[int, ShardResult]]:
    if config.scheduler is None:
        return run_in_processes(jobs, config.workers, progress)
    from data.cluster import run_on_cluster  # only then: it needs Dask

    return run_on_cluster(jobs, config.scheduler, progress)


def _check_rejected(run: Run, results: Iterable[ShardResult], share: float) -> None:
    """Stop when more than `share` of the clips listed cannot be used; those that are filtered out were not listed.

    Neither were the source's rows without a clip, if only a part of it is asked for: nothing tells in which part.
    """
    listed = [clip for clip in run.split.rejected if clip.reason != NOT_CONFIDENT and not run.is_part]
    rejected = listed + [clip for result in results for clip in result.rejected]
    total = len(run.split.clips) + len(listed)
    if len(rejected) <= share * total:
        return
    with writing_to(run.folder):
        write_rejected(run.folder, rejected)
    reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(r.reason for r in rejected).most_common())
    raise UserError(
        f"{len(rejected)} of {total} clips cannot be used ({reasons}), more than --max-rejected {share:.1%}: "
        f"see {run.folder / REJECTED}, mend the source, or allow more; then run the same command again to continue"
    )


def _bytes_present(run: Run) -> int:
    """Bytes of shards that are there already."""
    return sum(job.path.stat().st_size for job in run.jobs if job.path.is_file())


@contextmanager
def _only_writer(folder: UPath) -> Iterator[None]:
    """Two runs never write one local folder at once; the lock goes with the process, however it ends."""
    if not is_local(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another featurize is writing {folder}: wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)


def _write_timing(folder: UPath, manifest: dict[str, Any], wall_seconds: float, speech_seconds: float) -> str:
    """Keep this run's speed beside the shards (not in the manifest, which is the same for every run), and say it."""
    timing = {
        "speech_seconds": round(speech_seconds, 3),
        "wall_seconds": round(wall_seconds, 3),
        "x_realtime": round(speech_seconds / wall_seconds, 1),
        "bytes_per_speech_second": round(manifest["bytes"] / manifest["seconds"], 1),
    }
    write_text(folder / TIMING, to_json(timing))
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
