"""What each press on the page does: which event, in which queue, with what it shows.

A transcription is two events. The first answers at once, beside the queue: it clears the last result, shows the
recording to play, and the Cancel button. The second waits its turn, and then shows text as it comes. It carries the
number that the first one gave: where its visitor has begun another run by then, it gives up. Cancel, and Clear, both
tell the engine to stop and have Gradio drop the visitor's events, so that one who still waits gives up the place.
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
from serving.transcript import Options
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
    page.cancel.click(presses.stop, None, presses.shown, cancels=runs, **QUIET)
    for source in (page.voice, page.audio, page.video):
        source.clear(presses.clear, None, presses.shown, cancels=runs, **QUIET)


class _Presses:
    def __init__(self, page: "Layout", visits: Visits) -> None:
        self.page, self.visits = page, visits
        self.options: list[Any] = [page.language, page.translate, page.words]
        self.shown: list[Any] = [
            page.status, page.cancel, page.player, page.rows, page.text, page.said, page.downloads, *page.files.values()
        ]  # fmt: skip
        self.begun: list[Any] = [*self.shown, page.run_number]

    def transcribe(self, triggers: list[Any], source: Any, kind: str) -> Dependency:
        """The event that transcribes what `source` holds; the first of `triggers` to come starts it."""

        def begin(path: str | None, request: gr.Request) -> Update:
            return self.begin(Path(path) if path else None, kind, request)

        begun = gr.on(triggers, begin, source, self.begun, trigger_mode="once", **QUIET)
        return self.run_after(begun.then, source)

    def run_after(self, then: Callable[..., Dependency], source: Any) -> Dependency:
        page = self.page

        def run(
            path: str | None, number: int, language: str, translate: bool, words: bool, request: gr.Request
        ) -> Iterator[Update]:
            options = Options(language or None, "translate" if translate else "transcribe", words)
            says = words_of(request)
            if path is not None:
                views = self.visits.run(Path(path), Path(path).name, options, request.session_hash, says, number)
                yield from map(self.show, views)
            elif source is not page.fetched:  # whose download has said why there is nothing
                yield self.show(View(timeline.note(says["nothing"], "error"), running=False))
            if path is None or not self.visits.is_last(request.session_hash, number):
                yield gr.skip()  # Gradio shows the last one again at the end, or empties the page where there was none

        ran = then(
            run, [source, page.run_number, *self.options], self.shown, api_visibility="private",
            show_progress="minimal", show_progress_on=page.status, trigger_mode="multiple", **ENGINE,
        )  # fmt: skip
        ran.failure(self.refuse, None, self.shown, **QUIET)
        return ran

    def begin(self, path: Path | None, kind: str, request: gr.Request) -> Update:
        words = words_of(request)
        view = View(timeline.bar(words["waiting"]), running=path is not None)
        return self.show(view) | {
            self.page.run_number: self.visits.begin(request.session_hash),
            self.page.player: timeline.player(path, kind, words) if path else "",
        }

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

    def stop(self, request: gr.Request) -> Update:
        """What had come stays, and can be taken away."""
        self.visits.stop(request.session_hash)
        files = self.visits.kept(request.session_hash)
        return self.note("stopped", "stopped", request) | {
            self.page.downloads: gr.update(visible=bool(files)),
            **{self.page.files[kind]: str(path) for kind, path in files.items()},
        }

    def refuse(self, request: gr.Request) -> Update:
        """Gradio's own answer, such as a full queue, is a message that fades; this one stays.

        To Gradio a place in the queue that its visitor gave up failed, too; of that `stop` or `clear` has spoken.
        """
        if self.visits.stopped(request.session_hash):
            return gr.skip()
        return self.note("busy", "error", request)

    def note(self, key: str, kind: str, request: gr.Request) -> Update:
        """A line in place of the progress bar; all else stays."""
        return {
            self.page.status: timeline.note(words_of(request)[key], kind),
            self.page.cancel: gr.update(visible=False),
        }

    def clear(self, request: gr.Request) -> Update:
        self.visits.begin(request.session_hash)  # so that nothing more of the last one is shown
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
            begun = self.begin(None, "audio", request)
            return begun | {page.cancel: gr.update(visible=True), page.fetched: None}

        def fetch(video: Video, number: int, request: gr.Request) -> Iterator[Update]:
            words = words_of(request)
            for step in visits.fetch(video, request.session_hash, words, number):
                if isinstance(step, Path):
                    waiting = View(timeline.bar(words["waiting"]))
                    playing = timeline.player(step, "audio", words)
                    yield self.show(waiting) | {page.fetched: str(step), page.player: playing}
                else:
                    yield self.show(step)
            if not visits.is_last(request.session_hash, number):
                yield gr.skip()

        def refuse_look_up(request: gr.Request) -> str:
            return timeline.note(words_of(request)["busy"], "error")

        looked = gr.on(
            [page.link.submit, page.look_up.click], look_up, page.link, [page.card, page.found, page.link_button],
            api_visibility="private", concurrency_limit=TO_YOUTUBE, trigger_mode="once", show_progress_on=page.card,
        )  # fmt: skip
        looked.failure(refuse_look_up, None, page.card, **QUIET)
        begun = page.link_button.click(begin, None, [*self.begun, page.fetched], trigger_mode="once", **QUIET)
        fetched = begun.then(
            fetch, [page.found, page.run_number], [*self.shown, page.fetched], api_visibility="private",
            concurrency_limit=TO_YOUTUBE, show_progress="minimal", show_progress_on=page.status,
        )  # fmt: skip
        fetched.failure(self.refuse, None, self.shown, **QUIET)
        return [fetched, self.run_after(fetched.success, page.fetched)]
