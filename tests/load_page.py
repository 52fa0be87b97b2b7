"""The real page with an engine that needs no time: the text of a recording is a digest of its samples, in words.

    python -m tests.load_page PORT GATE

No two recordings have the same text, so that an answer which belongs to somebody else is seen. A recording of over a
minute is not done before there is a file GATE.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import command
from serving.media import SAMPLE_RATE
from serving.running import run
from serving.transcript import Options, Progress, Segment

LOOK_EVERY = 0.05  # seconds


class DigestTranscriber:
    """What `serving.transcribe.Transcriber` is to the page."""

    name, language, languages, can_translate = "digest", "it", ("it",), False
    confidence = None

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def stream(
        self,
        audio_N: NDArray[np.float32],
        options: Options,  # noqa: ARG002
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Progress]:
        seconds = audio_N.size / SAMPLE_RATE
        while seconds > 60 and not self.gate.exists() and not stopped():
            time.sleep(LOOK_EVERY)
        text = hashlib.sha256(audio_N.tobytes()).hexdigest()
        yield Progress((Segment(0.0, seconds, text),), seconds, seconds, "it")


@command
def main() -> None:
    port, gate = sys.argv[1:]
    run(DigestTranscriber(Path(gate)), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
