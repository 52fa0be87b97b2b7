"""Shard jobs in a pool of processes, one thread each, with progress.

Processes are spawned, not forked: a fork copies the locks of the threads that Arrow, BLAS and the tokenizer start. A
worker ends when its parent does, so a killed run leaves nobody who still writes.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data.errors import UserError
from data.progress import Progress
from data.shard_jobs import ShardJob, ShardResult, write_shard

POLL_SECONDS = 0.2
CLIPS, SECONDS, BYTES, STOP = range(4)  # the shared counters: what is done by now, and 1 to stop

_counters: Any = None  # in a worker: the run's shared counters


class StopError(Exception):
    """The parent asked this worker to stop."""


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(jobs: dict[int, ShardJob], workers: int, progress: Progress) -> Iterator[tuple[int, ShardResult]]:
    """Each of `jobs` (by number) as it is done, in any order."""
    context = multiprocessing.get_context("spawn")
    counters: Any = context.Array("d", STOP + 1)
    # More processes than jobs would only start and wait.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start_worker, initargs=(counters,))
    try:
        pending = {pool.submit(_run_job, job): number for number, job in jobs.items()}
        while pending:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            clips, seconds, size, _ = counters.get_obj()
            progress.show(clips, seconds, size)
            yield from _finished(done, pending)
    finally:
        counters.get_obj()[STOP] = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(
    done: set[Future[ShardResult]], pending: dict[Future[ShardResult], int]
) -> Iterator[tuple[int, ShardResult]]:
    for future in done:
        try:
            yield pending.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory: run the same command again to continue, "
                "with fewer --workers"
            ) from None


def _start_worker(counters: Any) -> None:
    global _counters
    _counters = counters
    _silence_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _silence_libraries() -> None:
    """Decoders print notes on damaged files straight to descriptor 2, into the progress bar; Python keeps its own."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_job(job: ShardJob) -> ShardResult:
    return write_shard(job, _progress)


def _progress(seconds: float, size: int) -> None:
    with _counters.get_lock():
        totals = _counters.get_obj()
        if totals[STOP]:
            raise StopError
        totals[CLIPS] += 1
        totals[SECONDS] += seconds
        totals[BYTES] += size
