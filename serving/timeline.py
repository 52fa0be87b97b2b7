"""What the page shows as HTML: the timeline, the player, the progress bar, a video's card.

Decision: made here, as strings, and every piece of text from outside (what was said, a file's name, a video's title)
goes through `html.escape`. They reach the page as the value of `gr.HTML` with its template `${value}`, which hands a
value over as it is. A Handlebars template would not do: Gradio builds JavaScript from what Handlebars gives, so a
transcript holding `${…}` would run.

The rows are a list of buttons: Enter and Space work without a script, and page.js plays the passage.
"""

import base64
from html import escape
from pathlib import Path
from urllib.parse import quote

from serving.transcript import Segment
from serving.youtube import Video

IMAGES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def clock(seconds: float) -> str:
    """1:05, or 1:02:03 from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """0.8 s, 27 s, or 1:05 from a minute on."""
    return f"{seconds:.2g} s" if seconds < 59.5 else clock(seconds)


def row(segment: Segment, language: str) -> str:
    """One passage: its time and its text, words with a time of their own to be clicked; `language` is the text's."""
    return (
        f'<li><button type="button" class="passage" data-start="{segment.start:.2f}" data-end="{segment.end:.2f}">'
        f'<span class="time">{clock(segment.start)}</span>'
        f'<span class="said" lang="{escape(language)}">{_said(segment)}</span></button></li>'
    )


def _said(segment: Segment) -> str:
    """The text, whatever stands between its words: a space, or nothing."""
    pieces, done = [], 0
    for word in segment.words:
        place = segment.text.find(word.text, done)
        if word.text and place >= 0:
            pieces.append(escape(segment.text[done:place]))
            pieces.append(f'<span class="word" data-start="{word.start:.2f}">{escape(word.text)}</span>')
            done = place + len(word.text)
    return "".join([*pieces, escape(segment.text[done:])])


def player(path: Path, kind: str, words: dict[str, str]) -> str:
    """The recording as the browser plays it, an `audio` or a `video`; page.js puts the subtitles on a video."""
    source = f"gradio_api/file={quote(str(path))}"
    return (
        f'<{kind} controls playsinline preload="metadata" src="{escape(source)}"'
        f' aria-label="{escape(words["player"])}"></{kind}>'
        f'<p class="unplayable" hidden>{escape(words["unplayable"])}</p>'
    )


def bar(says: str, share: float | None = None, left: str = "") -> str:
    """A progress bar; without a share it only moves."""
    value = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    style = "" if share is None else f' style="width: {100 * share:.1f}%"'
    figures = "" if share is None else f"{100 * share:.0f} %" + (f" · {left}" if left else "")
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(says)}" aria-valuemin="0" aria-valuemax="100"{value}>'
        f'<div class="{"" if value else "unknown"}"{style}></div></div>'
        f'<p class="figures"><span>{escape(says)} …</span><span>{escape(figures)}</span></p>'
    )


def note(says: str, kind: str) -> str:
    """A line to the visitor: `done`, `stopped` or `error`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="note {kind}" role="{role}">{escape(says)}</p>'


def card(video: Video) -> str:
    """A video's picture, title and length, before it is transcribed; the picture comes along, fetched from nowhere."""
    picture = ""
    if video.thumbnail is not None:
        kind = next((kind for start, kind in IMAGES.items() if video.thumbnail.startswith(start)), None)
        if kind is not None:
            picture = f'<img alt="" src="data:{kind};base64,{base64.b64encode(video.thumbnail).decode()}">'
    return (
        f'<div class="card">{picture}<div><strong>{escape(video.title)}</strong>'
        f"<span>{clock(video.seconds)}</span></div></div>"
    )
