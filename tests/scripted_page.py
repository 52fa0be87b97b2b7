"""The real page with a scripted engine and a scripted YouTube, for tests of what the page does with them.

    python -m tests.scripted_page PORT LOG [MONITOR]

The engine says one sentence per two seconds of recording, at once; a recording over `SLOW_FROM` seconds takes
`PATIENCE` seconds a sentence. What it did is written to LOG, a line each.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import serving.page
from serving.errors import StoppedError, command
from serving.links import BotCheckError, NotYouTubeError
from serving.media import SAMPLE_RATE
from serving.running import run
from serving.transcript import Options, Progress, Segment, Transcript, Word
from serving.youtube import Video

SENTENCES = (
    "Buongiorno a tutti.",
    '<img src=x onerror="window.pwned=1"> & co.',
    "</script><script>window.pwned=2</script>",
    "`${window.pwned=3}` {{this}}",
    "Record",
)
TITLE = 'Il video <img src=x onerror="window.pwned=4">'
LINK = "https://youtu.be/abcdefghijk"
WITHHELD = "https://youtu.be/withheld000"  # found, but its sound is not given out
QUEUE_SIZE = 1  # one waits, the next is told to come back
EACH = 2.0  # seconds of recording to a sentence
SLOW_FROM, PATIENCE = 60.0, 0.2
PIXEL = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63b09e79060002f101797f7b7bda"
    "0000000049454e44ae426082"
)


class ScriptedTranscriber:
    """What `serving.transcribe.Transcriber` is to the page."""

    name, language, languages, can_translate = "scripted", None, ("en", "it"), True
    confidence = None

    def __init__(self, log: Path) -> None:
        self.log = log

    def stream(
        self, audio_N: NDArray[np.float32], options: Options, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Progress]:
        self._write(f"began {options}")
        try:
            yield from self._say(audio_N.size / SAMPLE_RATE, options, stopped)
            self._write("finished")
        except (StoppedError, GeneratorExit):  # Gradio closes the run of a visitor who has left between two steps
            self._write("stopped")
            raise

    def _say(self, seconds: float, options: Options, stopped: Callable[[], bool]) -> Iterator[Progress]:
        for at, start in enumerate(np.arange(0.0, seconds, EACH).tolist()):
            if seconds > SLOW_FROM:
                time.sleep(PATIENCE)
            if stopped():
                raise StoppedError("the recording: was cancelled")
            end = min(start + EACH, seconds)
            text = "Translated." if options.task == "translate" else SENTENCES[at % len(SENTENCES)]
            times = np.linspace(start, end, len(text.split()) + 1).tolist()
            words = tuple(map(Word, times[:-1], times[1:], text.split())) if options.words else ()
            yield Progress((Segment(start, end, text, words),), end, seconds, options.language or "it")

    def transcribe_audio(self, audio_N: NDArray[np.float32]) -> Transcript:
        return Transcript("", (), audio_N.size / SAMPLE_RATE)

    def _write(self, what: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(what + "\n")


class ScriptedVideos:
    """What `serving.youtube` is to the page: a video whose sound is four seconds of a tone, and one without sound."""

    @staticmethod
    def look_up(link: str) -> Video:
        if link not in (LINK, WITHHELD):
            raise NotYouTubeError(f"{link}: is not a link to a YouTube video")
        return Video(id=link[-11:], title=TITLE, seconds=3723.0, thumbnail=PIXEL, url=link)

    @staticmethod
    def download(video: Video, folder: Path, progress: Callable[[float], None], stopped: Callable[[], bool]) -> Path:
        for share in (0.25, 0.5, 1.0):
            if stopped():
                raise StoppedError("the video: was cancelled")
            progress(share)
            time.sleep(PATIENCE)
        if video.url == WITHHELD:
            raise BotCheckError(f"{video.id}: YouTube asks for a proof that this is a person")
        tone_N = 0.1 * np.sin(2 * np.pi * 220 * np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(folder / f"{video.id}.wav", tone_N, SAMPLE_RATE)
        return folder / f"{video.id}.wav"


@command
def main() -> None:
    port, log, *monitor = sys.argv[1:]
    serving.page.QUEUE_SIZE = QUEUE_SIZE
    run(
        ScriptedTranscriber(Path(log)),
        "127.0.0.1",
        int(port),
        videos=ScriptedVideos,
        monitor=Path(*monitor) if monitor else None,
    )


if __name__ == "__main__":
    main()
