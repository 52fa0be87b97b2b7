"""The real page with an engine that needs no time: the text of a recording is a digest of its samples, in words.

    python -m tests.load_page PORT

No two recordings have the same text, so that an answer which belongs to somebody else is seen. A recording of over a
minute takes `SLOW` seconds.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from serving.app import run
from serving.errors import command
from serving.media import SAMPLE_RATE
from serving.transcribe import Options, Progress
from serving.transcript import Segment

SLOW, STEPS = 6.0, 60


class DigestTranscriber:
    """What `serving.transcribe.Transcriber` is to the page."""

    name, language, languages, can_translate = "digest", "it", ("it",), False

    def stream(
        self,
        audio_N: NDArray[np.float32],
        options: Options,  # noqa: ARG002
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Progress]:
        seconds = audio_N.size / SAMPLE_RATE
        for _ in range(STEPS if seconds > 60 else 0):
            if stopped():
                return
            time.sleep(SLOW / STEPS)
        text = hashlib.sha256(audio_N.tobytes()).hexdigest()
        yield Progress((Segment(0.0, seconds, text),), seconds, seconds, "it")


@command
def main() -> None:
    run(DigestTranscriber(), "127.0.0.1", int(sys.argv[1]))


if __name__ == "__main__":
    main()
