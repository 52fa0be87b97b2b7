"""The page's endpoints for programs: `/transcribe` gives a file's text, `/segments` its passages with their times.

They share the page's engine and its queue. The address `/gradio_api/info` and the page's "Use via API" describe them,
from the signatures and docstrings here; README.md has a client.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from serving.errors import StoppedError, UserError
from serving.transcript import Options, Transcript
from serving.visits import Visits
from serving.words import explain, in_language_of

ENGINE: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": 1}
"""What runs one at a time."""


def words_of(request: gr.Request) -> dict[str, str]:
    """What the page says, in the language of whoever asks."""
    return in_language_of(request.headers.get("accept-language", ""))


def add_endpoints(visits: Visits, file: gr.File) -> None:
    """Adds the endpoints to the page being built; `file` is a component that no one sees."""

    def transcript(path: str | None, options: Options, request: gr.Request) -> Transcript:
        words = words_of(request)
        if path is None:
            raise _notice(words["nothing"])
        try:
            return visits.transcript(Path(path), options, request.session_hash)
        except UserError as error:
            raise _notice(explain(error, words)) from error
        except StoppedError as error:
            raise _notice(words["StoppedError"]) from error

    def transcribe(recording: str | None, language: str, translate: bool, request: gr.Request) -> str:
        """The text of a recording: any audio or video file.

        Parameters:
            recording: an audio or video file
            language: the code of the language spoken, such as "it"; empty: the model's own, or detected
            translate: whether to translate into English, where the model can
        Returns:
            the text
        """
        return transcript(recording, _options(language, translate), request).text

    def segments(
        recording: str | None, language: str, translate: bool, words: bool, request: gr.Request
    ) -> dict[str, Any]:
        """The passages of a recording with their times.

        Parameters:
            recording: an audio or video file
            language: the code of the language spoken, such as "it"; empty: the model's own, or detected
            translate: whether to translate into English, where the model can
            words: whether to give every word its time
        Returns:
            text, language, seconds and segments: start and end in seconds, text, and words if they were asked for
        """
        return asdict(transcript(recording, _options(language, translate, words), request))

    language = gr.Textbox("", visible=False)
    translate, words = gr.Checkbox(False, visible=False), gr.Checkbox(False, visible=False)
    button = gr.Button(visible=False)  # never pressed: an endpoint needs something to hang on
    text, found = gr.Textbox(visible=False), gr.JSON(visible=False)
    button.click(transcribe, [file, language, translate], text, api_name="transcribe", **ENGINE)
    button.click(segments, [file, language, translate, words], found, api_name="segments", **ENGINE)


def _options(language: str, translate: bool, words: bool = False) -> Options:
    return Options(language or None, "translate" if translate else "transcribe", words)


def _notice(message: str) -> gr.Error:
    """What a visitor is shown; the server's log says nothing, not even the file's name."""
    return gr.Error(message, print_exception=False)
