"""Shard jobs on a Dask cluster: the same jobs, another executor.

A worker needs this project, and sees the source and the shards' folder under the same paths. When a worker is lost its
jobs go to another; both may end up writing a shard, which is the same bytes and appears by rename. Start workers with
one thread each (`dask worker ADDRESS --nworkers auto --nthreads 1`): a job keeps one core busy.
"""

from collections.abc import Iterator

from data.errors import UserError
from data.progress import Progress
from data.shard_jobs import ShardJob, ShardResult, write_shard

CONNECT_SECONDS = 10
TRIES = 3  # of a job whose worker dies under it


def run_on_cluster(jobs: dict[int, ShardJob], scheduler: str, progress: Progress) -> Iterator[tuple[int, ShardResult]]:
    """Each of `jobs` (by number) as the cluster at address `scheduler` finishes it."""
    # Imported here: it takes a second, which every worker process of a local run would pay.
    from distributed import Client, KilledWorker, as_completed

    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {scheduler!r} ({error}); start one with `dask scheduler` and name the "
            "address it prints, such as tcp://host:8786"
        ) from error
    with client:
        futures = {
            client.submit(_run, job, key=f"{job.path}", pure=False, retries=TRIES): number
            for number, job in jobs.items()
        }
        clips, seconds, size = 0, 0.0, 0
        for future in as_completed(list(futures)):
            number = futures[future]
            try:
                result = future.result()
            except KilledWorker as error:
                raise UserError(f"{jobs[number].path}: {error}; run the same command again to continue") from None
            clips, seconds, size = clips + len(jobs[number].clips), seconds + result.seconds, size + result.bytes
            progress.show(clips, seconds, size)
            yield number, result


def _run(job: ShardJob) -> ShardResult:
    return write_shard(job, lambda *_: None)
