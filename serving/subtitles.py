"""A transcript as the files people take away: plain text, SRT, WebVTT, JSON.

Decision: four short writers of our own, because each format is a few lines and what matters is what a library does not
do: cues that never overlap or run backwards, text that cannot end a cue or become markup, file names that no system
chokes on. Cues are the transcript's segments, a long one in parts: two lines of 42 characters and 7 s at most, as
Netflix asks of its subtitles. What is written without spaces is broken between any two letters. WebVTT also carries the
times of the words where there are some.

    write(transcript, folder, "lecture.mp3") → {"txt": folder/lecture.txt, "srt": …, "vtt": …, "json": …}
"""

import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from serving.transcript import Segment, Transcript

JOINER = "\u2060"  # word joiner: of no width, and keeps players from seeing markup
MEANS_SOMETHING = re.compile(r"[<{]|--(?=>)|\d:\d\d(?=[,.]\d)")
LINE, LINES = 42, 2  # columns to a line of a cue, of which a character of East Asia takes two; lines to a cue
LONGEST_CUE = 7.0  # seconds
WIDE = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"  # written without spaces
# What a line is not broken within: a word with the space before it, a wide character with the marks after it.
UNIT = re.compile(rf" ?(?:[{WIDE}][、。，．！？：；」』）〕】]*|[^ {WIDE}]+)")
# What the next letter belongs to: a space, emoji's joiner, signs that stack Khmer and Burmese letters, the vowels that
# Thai and Lao write before a consonant. What belongs to the letter before, beside marks: their am, skin tones.
TIES = frozenset(" \u200d\u17d2\u1039\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4")
TIED = frozenset("\u200d\u0e33\u0eb3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
LONGEST_NAME = 120  # bytes; systems allow 255, with a suffix, and browsers add " (1)"
# What Windows keeps for devices, with any suffix.
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE)
UNNAMED = "transcript"


@dataclass(frozen=True)
class Cue:
    """A piece of text on the screen, in whole milliseconds."""

    start: int
    end: int
    segment: Segment
    """The segment, or the part of it that is shown."""
    text: str
    """Its lines."""


def cues(transcript: Transcript) -> Iterator[Cue]:
    """The segments that say something, in order: each lasts a millisecond at least, none begins before another ends."""
    last = 0
    for segment in chain.from_iterable(map(parts, transcript.segments)):
        start = max(_milliseconds(segment.start), last)
        last = max(min(_milliseconds(segment.end), start + _milliseconds(LONGEST_CUE)), start + 1)
        units = _units(segment.text)
        yield Cue(start, last, segment, "\n".join(map(str.strip, _even_lines(units, len(_lines(units, LINE))))))


def parts(segment: Segment) -> Iterator[Segment]:
    """The segment in pieces that a cue has room and time for; nothing where it says nothing.

    A piece lasts as its words do, or has a share of the time by its length.
    """
    text, seconds = one_line(segment.text), segment.end - segment.start
    units = _units(text)
    count = max(math.ceil(len(_lines(units, LINE)) / LINES), math.ceil(seconds / LONGEST_CUE))
    lines = _even_lines(units, LINES * count)
    if len(lines) <= LINES:
        yield from [replace(segment, text=text)] if text else []
        return
    words, searched, end = list(segment.words), 0, 0
    for first in range(0, len(lines), LINES):
        said, spoken = "".join(lines[first : first + LINES]), []
        start, end = end, end + len(said)
        while words and (place := text.find(words[0].text, searched)) < end:
            searched = max(searched, place + len(words[0].text))
            spoken.append(words.pop(0))
        begins, ends = (segment.start + seconds * at / len(text) for at in (start, end))
        if spoken:
            begins, ends = spoken[0].start, spoken[-1].end
        yield Segment(begins, ends, said.strip(), tuple(spoken))


def _units(text: str) -> list[str]:
    """What lines are not broken within: a word with the space before it; of a run longer than a line each letter."""
    runs = UNIT.findall(text)
    return [unit for run in runs for unit in ([run] if _columns(run.lstrip()) <= LINE else _letters(run))]


def _letters(run: str) -> list[str]:
    """The letters, each with its marks and with what is stacked on it or drawn around it."""
    found = [""]
    for sign in run:
        if found[-1][-1:] in TIES or sign in TIED or unicodedata.category(sign)[0] == "M":
            found[-1] += sign
        else:
            found.append(sign)
    return found[1:] if not found[0] else found


def _even_lines(units: list[str], count: int) -> list[str]:
    """At most so many lines, all as short as that allows; more where the text needs more."""
    for most in range(sum(map(_columns, units)) // max(1, count), LINE):
        if len(lines := _lines(units, most)) <= count:
            return lines
    return _lines(units, LINE)


def _lines(units: list[str], most: int) -> list[str]:
    """The text as lines of so many columns at most; together they are the text. A longer unit is a line of its own."""
    lines, left = list[str](), 0
    for unit in units:
        columns = _columns(unit)
        if columns <= left:
            lines[-1], left = lines[-1] + unit, left - columns
        else:
            lines.append(unit)
            left = most - _columns(unit.lstrip())
    return lines


def _columns(text: str) -> int:
    wide = 0 if text.isascii() else sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide


def one_line(text: str) -> str:
    """`text` without line breaks, which would end a cue, and without control characters."""
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs")).split())


def txt(transcript: Transcript) -> str:
    return transcript.text.strip() + "\n"


def srt(transcript: Transcript) -> str:
    """SubRip: numbered cues. It has no escaping: a sign that is not seen breaks up markup, arrows and times."""
    blocks = []
    for number, cue in enumerate(cues(transcript), 1):
        text = MEANS_SOMETHING.sub(lambda sign: sign[0] + JOINER, cue.text)
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT, which browsers play."""
    blocks = ["WEBVTT\n"]
    for cue in cues(transcript):
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_timed(cue)}\n")
    return "\n".join(blocks)


def _timed(cue: Cue) -> str:
    """The text, escaped, each word but the first after the time it is said at, as far as those times increase."""
    pieces, done, last = [], 0, cue.start
    for word in cue.segment.words:
        text, time = one_line(word.text), _milliseconds(word.start)
        place = cue.text.find(text, done)
        if text and place > 0 and last < time < cue.end:
            pieces += [cue.text[done:place], f"<{_clock(time, '.')}>"]
            done, last = place, time
    pieces.append(cue.text[done:])
    return "".join(piece if index % 2 else html.escape(piece, quote=False) for index, piece in enumerate(pieces))


def as_json(transcript: Transcript) -> str:
    """Everything: seconds to the millisecond, `words` in each segment where there are some."""
    document = asdict(transcript)
    document["seconds"] = round(transcript.seconds, 3)
    for segment in document["segments"]:
        for timed in (segment, *segment["words"]):
            timed["start"], timed["end"] = round(timed["start"], 3), round(timed["end"], 3)
        if not segment["words"]:
            del segment["words"]
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {"txt": txt, "srt": srt, "vtt": vtt, "json": as_json}


def write(transcript: Transcript, folder: Path, name: str) -> dict[str, Path]:
    """Writes every format into `folder`, named after the recording `name`; gives the files by format."""
    stem = safe_stem(name)
    files = {suffix: folder / f"{stem}.{suffix}" for suffix in FORMATS}
    for suffix, path in files.items():
        # Half a surrogate pair cannot be written as UTF-8.
        path.write_text(FORMATS[suffix](transcript), encoding="utf-8", errors="replace", newline="\n")
    return files


def safe_stem(name: str) -> str:
    """A file name without suffix, made of a recording's: one that every system takes, and that shows what it is.

    Directories, control characters, marks that turn the reading direction, and signs that Windows does not take
    are gone.
    """
    stem = re.sub(r"\.(?=[0-9]?[A-Za-z])[A-Za-z0-9]{1,5}$", "", re.split(r"[/\\]", name)[-1])
    stem = "".join(c for c in unicodedata.normalize("NFC", stem) if c.isspace() or unicodedata.category(c)[0] != "C")
    stem = " ".join(re.sub(r'[<>:"|?*]', "_", stem).split())
    stem = stem.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .").lstrip("-~")
    if RESERVED.match(stem):
        stem = f"_{stem}"
    return stem or UNNAMED


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _clock(milliseconds: int, mark: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{rest:03}"
