"""The page with a model: warmed up, served, and what it says when it is ready."""

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from serving import youtube
from serving.engine_thread import EngineThread
from serving.media import SAMPLE_RATE, load_audio
from serving.page import EXAMPLE, build_page
from serving.server import serve_to_the_end
from serving.visits import Videos
from serving.words import in_language_of

if TYPE_CHECKING:
    from serving.transcribe import Transcriber

WARM_UP = 5 * SAMPLE_RATE  # samples of the example: speech, as silence has no text and never reaches Whisper


def warm_up(transcriber: "Transcriber") -> EngineThread:
    """The thread for `run` to compute in, after a few seconds of speech have gone through the model there.

    The first pass allocates and is slow, in each thread: nobody's recording should be it.
    """
    compute, speech_N = EngineThread(), load_audio(EXAMPLE)[:WARM_UP]
    compute(lambda: transcriber.transcribe_audio(speech_N))
    return compute


def run(
    transcriber: "Transcriber",
    host: str,
    port: int,
    share: bool = False,
    videos: Videos = youtube,
    monitor: Path | None = None,
    compute: EngineThread | None = None,
) -> None:
    """Serves the page until the process is told to end; says where, and the most memory it has taken so far."""

    def says() -> str:
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
        return f"{transcriber.name}, {gigabytes:.1f} GB of memory"

    serve_to_the_end(
        lambda: build_page(transcriber, videos, monitor, compute),
        says,
        host,
        port,
        share,
        files=[EXAMPLE] if monitor is None else [EXAMPLE, monitor],
        full=lambda header: in_language_of(header)["NoRoomError"],
    )
