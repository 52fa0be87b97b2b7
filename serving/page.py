"""The page's layout, and what each press of a button does.

Decisions: each of the four ways in has its own tab, file picker (a phone then opens its recorder, its music or its
gallery) and button; what is chosen is transcribed at once. Nobody's file goes through Gradio's own audio and video
outputs, which would hand it to an `ffmpeg` on the server: the browser plays it. One transcription at a time, because a
second one on the same cores only slows both, and a short queue, so that the last in line is told to come back.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder

from serving import timeline, youtube
from serving.endpoints import add_endpoints, words_of
from serving.engine_thread import EngineThread
from serving.monitor import beside_monitor
from serving.subtitles import FORMATS
from serving.uploaded import UploadedOnly
from serving.visits import Videos, Visits
from serving.wiring import QUIET, wire
from serving.words import GRADIO, QUEUED

if TYPE_CHECKING:
    from serving.transcribe import Transcriber

HERE = Path(__file__).resolve().parent
EXAMPLE, EXAMPLE_LANGUAGE = HERE / "example.mp3", "it"
QUEUE_SIZE = 16  # people waiting; at two seconds a clip the last one waits half a minute

SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
SCRIPT = SCRIPT.replace("{/*GRADIO*/}", json.dumps(GRADIO)).replace("{/*QUEUED*/}", json.dumps(QUEUED))
# Languages by their names in the visitor's own: Whisper knows a hundred, and so does every browser. A code of the
# model's own, or a browser's language, may be none.
LANGUAGE_NAMES = """() => {
  const name = (code) => {
    try {
      return new Intl.DisplayNames([navigator.language], {type: "language"}).of(code);
    } catch {
      return code;
    }
  };
  return [Object.fromEntries(CODES.map((code) => [code, name(code)]))];
}"""


def build_page(
    transcriber: "Transcriber",
    videos: Videos = youtube,
    monitor: Path | None = None,
    compute: EngineThread | None = None,
) -> gr.Blocks:
    """The page for a loaded model, with the endpoints `/transcribe` and `/segments` for programs.

    With a folder that `daily.snapshot` writes, the monitor is a tab beside it. It computes in `compute`, or in a thread
    of its own.
    """
    visits = Visits(transcriber, videos, Path(get_upload_folder()), compute or EngineThread())

    def leave(request: gr.Request) -> None:
        visits.leave(request.session_hash)

    with UploadedOnly(title=f"Sussurro · {transcriber.name}", analytics_enabled=False) as page:
        with beside_monitor(page, monitor):
            wire(Layout(page, visits), visits)
        add_endpoints(visits, gr.File(visible=False))
        page.unload(leave)
    page.queue(max_size=QUEUE_SIZE, api_open=False)  # otherwise a program can pass the queue by
    return page


class Layout:
    """The components, top to bottom, and what they are told to say."""

    def __init__(self, page: gr.Blocks, visits: Visits) -> None:
        self.visits, name = visits, visits.transcriber.name
        self.labels: list[tuple[Block, Callable[[dict[str, str]], Any]]] = []
        self._says(gr.Markdown(elem_id="title"), lambda words: f"# Sussurro\n{words['intro']}")
        with gr.Row(elem_id="halves"):
            with gr.Column(scale=5, min_width=320):
                self._ways()
                self._options()
            with gr.Column(scale=6, min_width=320):
                self._result()
        self._says(gr.Markdown(elem_id="credits"), lambda words: f"{words['credits']} {words['model']}: `{name}`.")
        self._speak(page)

    def _says(self, component: Any, says: Callable[[dict[str, str]], Any]) -> Any:
        """The component, which is told what to say in the visitor's language when the page loads."""
        self.labels.append((component, says))
        return component

    def _button(self, key: str, **settings: Any) -> gr.Button:
        button = gr.Button("", **settings)
        self._says(button, lambda words: gr.update(value=words[key]))
        return button

    @staticmethod
    def _html(name: str, **settings: Any) -> gr.HTML:
        return gr.HTML(elem_id=name, apply_default_css=False, **settings)

    def _way(self, key: str) -> gr.Tab:
        tab: gr.Tab = self._says(gr.Tab(render_children=True), lambda words: gr.update(label=words[key]))
        return tab

    def _ways(self) -> None:
        with gr.Tabs(elem_id="ways"):
            with self._way("record"):
                self.voice = gr.Audio(sources=["microphone"], type="filepath", buttons=[], elem_id="voice")
                self._says(self.voice, lambda words: gr.update(label=words["recording"]))
                self.voice_button = self._button("transcribe", variant="primary", size="lg")
            with self._way("audio"):
                self.audio = gr.File(height=180, elem_id="audio")
                self._says(self.audio, lambda words: gr.update(label=words["audio_file"]))
                self.audio_button = self._button("transcribe", variant="primary", size="lg")
            with self._way("video"):
                self.video = gr.File(height=180, elem_id="video")
                self._says(self.video, lambda words: gr.update(label=words["video_file"]))
                self.video_button = self._button("transcribe", variant="primary", size="lg")
            with self._way("youtube"):
                self.link = gr.Textbox(max_lines=1, placeholder="https://youtu.be/…", type="text", elem_id="link")
                self._says(self.link, lambda words: gr.update(label=words["link"]))
                self.look_up = self._button("look_up")
                self.card, self.found = self._html("card"), gr.State(None)
                self.fetched = gr.State(None)  # the path of its sound; None while there is none
                self.link_button = self._button("transcribe", variant="primary", size="lg", visible=False)

    def _options(self) -> None:
        model = self.visits.transcriber
        detected = [] if model.language else [""]  # no language means the model's own, where it has one
        with gr.Group(elem_id="options"):
            self.language = gr.Dropdown(
                [*detected, *model.languages],
                value=model.language or "",
                visible=len(model.languages) > 1,
                interactive=True,
            )
            self.translate = gr.Checkbox(False, visible=model.can_translate)
            self._says(self.translate, lambda words: gr.update(label=words["translate"]))
            self.words = gr.Checkbox(False)
            self._says(self.words, lambda words: gr.update(label=words["words"], info=words["words_info"]))
        with gr.Row(elem_id="example", visible=EXAMPLE_LANGUAGE in model.languages):
            self.example_path = gr.State(str(EXAMPLE))
            self.example = self._button("example", size="sm", variant="secondary")
            self._says(gr.Markdown(), lambda words: words["example_credit"])

    def _result(self) -> None:
        self.run_number = gr.Number(visible=False, precision=0)  # kept by the browser: who waits in line has his own
        self.status = self._html("status", js_on_load=SCRIPT)
        self._says(self.status, lambda words: timeline.note(words["placeholder"], "empty"))
        self.cancel = self._button("cancel", variant="stop", size="sm", visible=False, elem_id="cancel")
        self.player = self._html("player")
        with gr.Row(visible=False, elem_id="downloads") as self.downloads:
            self.files = {
                kind: gr.DownloadButton(kind.upper(), size="sm", min_width=60, elem_id=f"download-{kind}")
                for kind in FORMATS
            }
        with gr.Tabs(visible=False, elem_id="said") as self.said:
            with self._way("timeline"):
                self.rows = self._html("timeline", html_template='<ol class="timeline">${value}</ol>')
            with self._way("text"):
                self.text = gr.Textbox(lines=6, max_lines=24, buttons=["copy"], show_label=False, elem_id="text")
                self._says(self.text, lambda words: gr.update(label=words["text"], placeholder=words["placeholder"]))

    def _speak(self, page: gr.Blocks) -> None:
        """Everything is said in the visitor's language once the page is there."""
        names = gr.JSON(visible=False)
        codes, own = list(self.visits.transcriber.languages), self.visits.transcriber.language
        self._says(self.language, lambda words: gr.update(label=words["language"]))

        def labels(named: dict[str, str], request: gr.Request) -> list[Any]:
            words = words_of(request)
            said = [says(words) for _, says in self.labels]
            choices = sorted((str(named.get(code, code)), code) for code in codes)
            said[-1]["choices"] = choices if own else [(words["detect"], ""), *choices]
            return said

        page.load(
            labels,
            names,
            [component for component, _ in self.labels],
            js=LANGUAGE_NAMES.replace("CODES", json.dumps(codes)),
            **QUIET,
        )
