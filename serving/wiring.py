"""What each press on the page does: which event, in which queue, with what it shows.

A transcription is two events. The first answers at once, beside the queue: it clears the last result, shows the
recording to play, and the Cancel button. The second waits its turn, and then shows text as it comes. Cancel both tells
the engine to stop and has Gradio drop the visitor's events, so that one who still waits gives up the place.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from serving import timeline
from serving.endpoints import ENGINE, words_of
from serving.errors import AudioError
from serving.transcribe import Options
from serving.visits import View, Visits
from serving.words import explain
from serving.youtube import Video

if TYPE_CHECKING:
    from serving.page import Layout

TO_YOUTUBE = 2  # questions, and downloads, at a time: they wait for a network, not for a core
QUIET: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}

Update = dict[Block, Any]


def wire(page: "Layout", visits: Visits) -> None:
    """Ties the components of the page that is being built to the visits."""
    presses = _Presses(page, visits)
    runs = [
        presses.transcribe([page.voice.stop_recording, page.voice_button.click], page.voice, "audio"),
        presses.transcribe([page.audio.upload, page.audio_button.click], page.audio, "audio"),
        presses.transcribe([page.video.upload, page.video_button.click], page.video, "video"),
        presses.transcribe([page.example.click], page.example_path, "audio"),
        *presses.youtube(),
    ]
    page.cancel.click(presses.stop, None, [page.status, page.cancel], cancels=runs, **QUIET)
    for source in (page.voice, page.audio, page.video):
        source.clear(presses.clear, None, presses.shown, **QUIET)


class _Presses:
    def __init__(self, page: "Layout", visits: Visits) -> None:
        self.page, self.visits = page, visits
        self.options: list[Any] = [page.language, page.translate, page.words]
        self.shown: list[Any] = [
            page.status, page.cancel, page.player, page.rows, page.text, page.said, page.downloads, *page.files.values()
        ]  # fmt: skip

    def transcribe(self, triggers: list[Any], source: Any, kind: str) -> Dependency:
        """The event that transcribes what `source` holds; the first of `triggers` to come starts it."""

        def begin(path: str | None, request: gr.Request) -> Update:
            return self.begin(Path(path) if path else None, kind, request)

        begun = gr.on(triggers, begin, source, self.shown, trigger_mode="once", **QUIET)
        return self.run_after(begun.then, source)

    def run_after(self, then: Callable[..., Dependency], source: Any) -> Dependency:
        def run(path: str | None, language: str, translate: bool, words: bool, request: gr.Request) -> Iterator[Update]:
            options = Options(language or None, "translate" if translate else "transcribe", words)
            says = words_of(request)
            if path is None:
                yield self.show(View(timeline.note(says["nothing"], "error"), running=False))
                return
            for view in self.visits.run(Path(path), Path(path).name, options, request.session_hash, says):
                yield self.show(view)

        ran = then(
            run, [source, *self.options], self.shown, show_progress="minimal", show_progress_on=self.page.status,
            api_visibility="private", trigger_mode="multiple", **ENGINE,
        )  # fmt: skip
        ran.failure(self.refuse, None, [self.page.status, self.page.cancel], **QUIET)
        return ran

    def begin(self, path: Path | None, kind: str, request: gr.Request) -> Update:
        words = words_of(request)
        self.visits.begin(request.session_hash)
        view = View(timeline.bar(words["waiting"]), running=path is not None)
        return self.show(view) | {self.page.player: timeline.player(path, kind, words) if path else ""}

    def show(self, view: View) -> Update:
        """What changes on the page; what is not named stays."""
        page = self.page
        update: Update = {
            page.status: view.status,
            page.cancel: gr.update(visible=view.running),
            page.rows: view.rows,
            page.text: view.text,
            page.said: gr.update(visible=bool(view.rows)),
            page.downloads: gr.update(visible=bool(view.files)),
        }
        return update | {page.files[kind]: str(path) for kind, path in view.files.items()}

    def stop(self, request: gr.Request) -> tuple[str, Any]:
        self.visits.stop(request.session_hash)
        return timeline.note(words_of(request)["stopped"], "stopped"), gr.update(visible=False)

    def refuse(self, request: gr.Request) -> tuple[str, Any]:
        """Gradio's own answer, such as a full queue, is a message that fades; this one stays.

        To Gradio a place in the queue that its visitor gave up failed, too; that may be told after `stop` has answered.
        """
        if self.visits.stopped(request.session_hash):
            return self.stop(request)
        return timeline.note(words_of(request)["busy"], "error"), gr.update(visible=False)

    def clear(self, request: gr.Request) -> Update:
        self.visits.stop(request.session_hash)
        view = View(timeline.note(words_of(request)["placeholder"], "empty"), running=False)
        return self.show(view) | {self.page.player: ""}

    def youtube(self) -> list[Dependency]:
        """A link gives a card; the card's button fetches the sound, and then it is transcribed as any other."""
        page, visits = self.page, self.visits

        def look_up(link: str, request: gr.Request) -> tuple[str, Video | None, Any]:
            words = words_of(request)
            try:
                if not link.strip():
                    return timeline.note(words["no_link"], "error"), None, gr.update(visible=False)
                video = visits.videos.look_up(link.strip())
            except AudioError as error:
                return timeline.note(explain(error, words), "error"), None, gr.update(visible=False)
            return timeline.card(video), video, gr.update(visible=True)

        def begin(request: gr.Request) -> Update:
            return self.begin(None, "audio", request) | {page.cancel: gr.update(visible=True)}

        def fetch(video: Video, request: gr.Request) -> Iterator[Update]:
            words = words_of(request)
            for step in visits.fetch(video, request.session_hash, words):
                if isinstance(step, Path):
                    waiting = View(timeline.bar(words["waiting"]))
                    playing = timeline.player(step, "audio", words)
                    yield self.show(waiting) | {page.fetched: str(step), page.player: playing}
                else:
                    yield self.show(step)

        gr.on(
            [page.link.submit, page.look_up.click], look_up, page.link, [page.card, page.found, page.link_button],
            api_visibility="private", concurrency_limit=TO_YOUTUBE, trigger_mode="once", show_progress_on=page.card,
        )  # fmt: skip
        begun = page.link_button.click(begin, None, self.shown, trigger_mode="once", **QUIET)
        fetched = begun.then(
            fetch, page.found, [*self.shown, page.fetched], api_visibility="private",
            concurrency_limit=TO_YOUTUBE, show_progress="minimal", show_progress_on=page.status,
        )  # fmt: skip
        return [fetched, self.run_after(fetched.then, page.fetched)]
