"""What was said, and when: what the engine gives, and the page, the downloads and the command take.

Times are seconds from the start of the recording.
"""

from dataclasses import dataclass


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
