"""What is asked of a recording, and what was said in it and when: all that the page needs to know of an engine.

Times are seconds from the start of the recording.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from serving.signals import Signals

UNSPACED = {"zh", "ja", "th", "lo", "my", "yue"}  # written without spaces between words


@dataclass(frozen=True)
class Options:
    """What is asked of a recording."""

    language: str | None = None
    """ISO 639-1 code of what is spoken; None: the model's own, else detected."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """`translate`: into English."""
    words: bool = False
    """Also the time of each word."""

    def written(self, spoken: str) -> str:
        """The language of the text where that one is spoken."""
        return "en" if self.task == "translate" else spoken

    def between(self, spoken: str) -> str:
        """What stands between the segments of the text where that language is spoken."""
        return "" if self.written(spoken) in UNSPACED else " "


@dataclass(frozen=True)
class Word:
    """A word as written, its punctuation included."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, a sentence or a few; `words` only where they were asked for."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """The whole text, its segments in order, and the recording's length."""

    text: str
    segments: tuple[Segment, ...]
    seconds: float
    language: str = ""
    """ISO 639-1 code of what is spoken, such as `it`; empty where nobody named or detected one."""


@dataclass(frozen=True)
class Progress:
    """A step on the way through a recording: the segments found since the last one."""

    segments: tuple[Segment, ...]
    done: float
    """Seconds of the recording that are finished."""
    seconds: float
    """Its length."""
    language: str
    """ISO 639-1 code of what is spoken; empty before it is detected."""
    signals: "Signals | None" = None
    """What the decoder knows of the whole text, at the end of a recording of one window whose transcriber looks."""
