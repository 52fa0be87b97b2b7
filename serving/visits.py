"""What happens between a recording and its text on the page: the steps a visitor sees, as they come.

Decision: Gradio knows nothing here. A run is a generator of `View`s, so that it can be read and tested alone. The one
engine takes a step at a time, in a thread of its own: a run that Gradio has dropped may still be inside its last step
when the next visitor's begins. A visitor's Cancel, or closed tab, sets that run's event, which the engine looks at; a
run whose visitor has begun another one meanwhile gives up and shows nothing more.
"""

import itertools
import math
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from serving import timeline
from serving.engine_thread import EngineThread
from serving.errors import StoppedError, UserError
from serving.media import NoRoomError, decoded
from serving.subtitles import write
from serving.transcript import Options, Progress, Transcript
from serving.uploads import FETCHED, room
from serving.words import explain
from serving.youtube import Video

if TYPE_CHECKING:
    from serving.transcribe import Transcriber

T = TypeVar("T")

LOOK_EVERY = 0.3  # seconds between two looks at a download


class Videos(Protocol):
    """Where videos come from: the functions of `serving.youtube`."""

    def look_up(self, link: str) -> Video: ...

    def download(
        self, video: Video, folder: Path, progress: Callable[[float], None], stopped: Callable[[], bool]
    ) -> Path: ...


@dataclass(frozen=True)
class View:
    """What the visitor sees now."""

    status: str
    """HTML: a progress bar or a line."""
    rows: str = ""
    """HTML: the timeline's rows so far; only ever added to, so that Gradio sends what is new."""
    text: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    """The downloads, at the end; they are gone when the next view is asked for."""
    running: bool = True


@dataclass
class _Run:
    """What a session has asked for last."""

    number: int
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when it has to end."""
    name: str = ""
    """The recording's."""
    options: Options = field(default_factory=Options)
    found: list[Progress] = field(default_factory=list)
    """The steps so far."""


class Visits:
    """The engine, and who is being served: one run for a session at a time."""

    def __init__(
        self, transcriber: "Transcriber", videos: Videos, folder: Path, compute: EngineThread | None = None
    ) -> None:
        self.transcriber, self.videos = transcriber, videos
        self.folder = folder  # where Gradio's uploads lie: only what is there is served, and it goes with the page
        self._compute = compute or EngineThread()
        self._numbers = itertools.count(1)
        self._runs: dict[str, _Run] = {}
        self._folders: dict[str, Path] = {}

    def begin(self, session: str) -> int:
        """The number of the session's new run; one that the session still has stops."""
        return self._begin(session).number

    def stop(self, session: str) -> None:
        """Ends the session's run, if it has one."""
        if run := self._runs.get(session):
            run.stop.set()

    def stopped(self, session: str) -> bool:
        """Whether the session ended its own run."""
        return (run := self._runs.get(session)) is not None and run.stop.is_set()

    def is_last(self, session: str, number: int) -> bool:
        """Whether the session has begun no other run since."""
        return (run := self._runs.get(session)) is not None and run.number == number

    def kept(self, session: str) -> dict[str, Path]:
        """The downloads of what the session's run has found so far, if that is anything; they go when uploads go."""
        run = self._runs.get(session)
        if run is None or not any(step.segments for step in run.found):
            return {}
        self.folder.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="kept-", dir=self.folder))
        return write(_joined(list(run.found), run.options), folder, run.name)

    def leave(self, session: str) -> None:
        """Forgets a session, and what was fetched from YouTube for it."""
        self.stop(session)
        self._runs.pop(session, None)
        if folder := self._folders.pop(session, None):
            shutil.rmtree(folder, ignore_errors=True)

    def transcript(self, path: Path, options: Options, session: str | None) -> Transcript:
        """The whole transcript at once, for programs. Raises a `UserError`, or `StoppedError` if the session ended."""
        key = session or uuid.uuid4().hex
        run = self._begin(key)
        try:
            return _joined(list(self._steps(path, options, run.stop)), options)
        finally:
            if self._runs.get(key) is run:  # a program has no tab whose closing would be told
                del self._runs[key]

    def run(
        self, path: Path, name: str, options: Options, session: str, words: dict[str, str], number: int | None = None
    ) -> Iterator[View]:
        """The views of a transcription, to the downloads or to the reason why there are none; raises nothing.

        There are none, or no more, once the session has begun another run than that of `number`.
        """
        if run := self._run(session, number):
            run.name, run.options, run.found = name, options, []
            yield from self._while_last(session, run, self._views(path, run, words))

    def _views(self, path: Path, run: _Run, words: dict[str, str]) -> Generator[View]:
        began, found, options = time.monotonic(), run.found, run.options
        rows = text = ""
        yield View(timeline.bar(words["reading"]))
        try:
            for step in self._steps(path, options, run.stop):
                found.append(step)
                rows += "".join(timeline.row(segment, options.written(step.language)) for segment in step.segments)
                text = _text(found, options)
                yield View(_progress(step, time.monotonic() - began, words), rows, text)
        except StoppedError:
            yield from self._last(timeline.note(words["stopped"], "stopped"), rows, run)
        except UserError as error:
            yield View(timeline.note(explain(error, words), "error"), rows, text, running=False)
        else:
            taken = timeline.duration(time.monotonic() - began)
            says = words["finished"].format(seconds=timeline.duration(found[-1].seconds), taken=taken)
            status = timeline.note(says, "done") if rows else timeline.note(words["silence"], "stopped")
            yield from self._last(status + self._estimate(found[-1], options, words), rows, run)

    def fetch(
        self, video: Video, session: str, words: dict[str, str], number: int | None = None
    ) -> Iterator[View | Path]:
        """The views of a download, then its path or a last view that says why there is none; for `number` see `run`."""
        if run := self._run(session, number):
            yield from self._while_last(session, run, self._download(video, session, run.stop, words))

    def _download(
        self, video: Video, session: str, stop: threading.Event, words: dict[str, str]
    ) -> Generator[View | Path]:
        if folder := self._folders.pop(session, None):
            shutil.rmtree(folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        folder = self._folders[session] = Path(tempfile.mkdtemp(prefix=FETCHED, dir=self.folder))
        shares = [0.0]
        with ThreadPoolExecutor(1) as pool:
            fetched = pool.submit(self._fetched, video, folder, shares.append, stop.is_set)
            try:
                while not fetched.done():
                    yield View(timeline.bar(words["downloading"], shares[-1]))
                    time.sleep(LOOK_EVERY)
            finally:
                if not fetched.done():  # the visitor left
                    stop.set()
        try:
            yield fetched.result()
        except StoppedError:
            yield View(timeline.note(words["StoppedError"], "stopped"), running=False)
        except UserError as error:
            yield View(timeline.note(explain(error, words), "error"), running=False)

    def _fetched(
        self, video: Video, folder: Path, progress: Callable[[float], None], stopped: Callable[[], bool]
    ) -> Path:
        """The path of a video's sound, if there is room among the uploads for any."""
        if room(self.folder) <= 0:
            raise NoRoomError(f"{video.id}: there is no room for its sound; try again later")
        return self.videos.download(video, folder, progress, stopped)

    def _begin(self, session: str) -> _Run:
        self.stop(session)
        self._runs[session] = _Run(next(self._numbers))
        return self._runs[session]

    def _run(self, session: str, number: int | None) -> _Run | None:
        """The session's run of that number, None where it began another; without a number its last, or a new one."""
        run = self._runs.get(session)
        if number is None:
            return run or self._begin(session)
        return run if run is not None and run.number == number else None

    def _while_last(self, session: str, run: _Run, steps: Generator[T]) -> Iterator[T]:
        """The steps, until the session begins another run."""
        with closing(steps):
            for step in steps:
                if self._runs.get(session, run) is not run:
                    return
                yield step

    def _steps(self, path: Path, options: Options, stop: threading.Event) -> Iterator[Progress]:
        if stop.is_set():
            raise StoppedError(f"{path.name}: was cancelled")
        with decoded(path, stopped=stop.is_set) as audio_N:
            steps = self.transcriber.stream(audio_N, options, stop.is_set)
            while True:
                step = self._compute(lambda: next(steps, None))
                if step is None:
                    return
                yield step

    def _estimate(self, last: Progress, options: Options, words: dict[str, str]) -> str:
        """A line on whether the text can be trusted, where that was learned of such speech; else nothing."""
        confidence = self.transcriber.confidence
        if confidence is None or last.signals is None or not last.signals.hypothesis_words:
            return ""
        if options.task != "transcribe" or last.language != confidence.language:
            return ""
        estimate = confidence.estimate(last.signals)
        shares = {"share": f"{100 * estimate.probability:.0f} %", "bound": f"{100 * confidence.bound:g} %"}
        kind = "trusted" if estimate.trusted else "doubted"
        that = words["some_wrong" if confidence.bound else "none_wrong"].format(**shares)
        return timeline.note(f"{words[kind]}: {that}", f"estimate {kind}")

    def _last(self, status: str, rows: str, run: _Run) -> Iterator[View]:
        """The final view, with downloads if there is anything to download; they exist until the generator ends."""
        if not rows:
            yield View(status, running=False)
            return
        transcript = _joined(run.found, run.options)
        with tempfile.TemporaryDirectory(prefix="downloads-") as folder:  # Gradio serves copies of its own
            files = write(transcript, Path(folder), run.name)
            yield View(status, rows, transcript.text, files, running=False)


def _text(found: list[Progress], options: Options) -> str:
    """What was said so far."""
    return options.between(found[-1].language).join(segment.text for step in found for segment in step.segments)


def _joined(found: list[Progress], options: Options) -> Transcript:
    """The transcript of the steps so far."""
    segments = tuple(segment for step in found for segment in step.segments)
    return Transcript(_text(found, options), segments, found[-1].seconds, found[-1].language)


def _progress(step: Progress, taken: float, words: dict[str, str]) -> str:
    """The bar, with the time left as the speed so far tells it."""
    share = min(1.0, step.done / step.seconds) if step.seconds else 1.0
    left = ""
    if 0 < share < 1:
        left = words["left"].format(time=timeline.duration(math.ceil(taken * (1 - share) / share)))
    return timeline.bar(words["working"], share, left)
