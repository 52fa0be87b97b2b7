"""A `Transcriber` that works on the GPUs which Hugging Face's ZeroGPU lends.

Decision: what is lent is one call of a function that `spaces.GPU` decorates. It runs in a fork of the page's process,
which holds a GPU until it returns: the samples and the options are pickled on their way in, the steps on their way out.
Whether the visitor still waits cannot be asked from there; it is asked here between two steps, and giving up ends the
loan. Before the fork nothing is computed and PyTorch has one thread: threads are not in a fork, which would wait for
theirs for ever.

`spaces` keeps PyTorch from CUDA until a GPU is lent, and so has to be imported before it.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import spaces
import torch
from numpy.typing import NDArray

from serving.errors import StoppedError, never
from serving.media import SAMPLE_RATE
from serving.transcribe import Transcriber
from serving.transcript import Options, Progress

SHORTEST_LOAN, LONGEST_LOAN = 15, 120  # seconds
TIMES_REAL_TIME = 20  # slower than any GPU there with any Whisper, so that no recording is cut off


def loan_seconds(audio_N: NDArray[np.float32], _options: Options) -> int:
    """For how long a GPU is asked for: the shorter, the sooner it is lent. What is not used is not charged."""
    return round(min(LONGEST_LOAN, SHORTEST_LOAN + audio_N.size / SAMPLE_RATE / TIMES_REAL_TIME))


class ZeroGPUTranscriber(Transcriber):
    """As `Transcriber`, in a fork that has a GPU."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        super().__init__(folder)

        def work(audio_N: NDArray[np.float32], options: Options) -> Iterator[Progress]:
            yield from Transcriber.stream(self, audio_N, options)

        self._lent = spaces.GPU(work, duration=loan_seconds)

    def stream(
        self,
        audio_N: NDArray[np.float32],
        options: Options = Options(),  # noqa: B008
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Progress]:
        """As `Transcriber.stream`, but `stopped` is asked between two steps alone."""
        with closing(self._lent(np.asarray(audio_N), options)) as steps:
            for progress in steps:
                yield progress
                if stopped():
                    raise StoppedError("nobody waits for this recording any longer")
