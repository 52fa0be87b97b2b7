"""What the package `spaces` does to a generator on ZeroGPU, without a GPU: a fork of the process runs it, what goes in
and comes out is pickled. It writes down what it decorates and lends, a line of JSON each, into the file SPACES_LOG."""

import inspect
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ONLY_BEFORE = "torch" not in sys.modules  # it has to be imported first


def GPU(task: Callable[..., Iterator[Any]], duration: Callable[..., int]) -> Callable[..., Iterator[Any]]:  # noqa: N802
    """`task`, each call of which runs in a fork."""
    _note(decorated=inspect.isgeneratorfunction(task), before_torch=ONLY_BEFORE)

    def lent(*given: Any) -> Iterator[Any]:
        _note(seconds=duration(*given))
        fork = multiprocessing.get_context("fork")
        arguments, results = fork.SimpleQueue(), fork.SimpleQueue()
        process = fork.Process(target=_work, args=(task, arguments, results), daemon=True)
        process.start()
        try:
            arguments.put(given)
            while (found := results.get()) is not None:
                if isinstance(found, str):
                    raise RuntimeError(found)
                yield found
        finally:
            process.kill()
            process.join()
            _note(ended=True)

    return lent


def _work(task: Callable[..., Iterator[Any]], arguments: Any, results: Any) -> None:
    try:
        for found in task(*arguments.get()):
            results.put(found)
        results.put(None)
    except BaseException:
        results.put(traceback.format_exc())


def _note(**what: object) -> None:
    with Path(os.environ["SPACES_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps(what) + "\n")
