"""The one thread that computes.

Decision: Gradio calls from any of forty threads. For each that computes OpenMP keeps a team of threads of its own, and
malloc an arena: memory grew with every visitor (by 215 MB within two minutes under load). So all steps of all visitors
are computed here, which also sees to it that one at a time is. The thread does not hold up the end of the process.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """Calls functions one after the other, all in the same thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    def __call__(self, function: Callable[[], T]) -> T:
        """What `function` gives or raises, in the context of whoever asks (ZeroGPU looks there for the visitor)."""
        answer: Future[T] = Future()
        context = copy_context()
        self._jobs.put((lambda: context.run(function), answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            self._next()  # a call of its own, so that nothing of a visitor's is held until the next one comes

    def _next(self) -> None:
        function, answer = self._jobs.get()
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)
