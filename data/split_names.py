"""What `--split` may be: names joined by `+`, each with a slice if need be; and the folder its shards go into.

`train`, `train+validation`, `train[:10%]`, `train[1000:2000]`, `train[-5%:]`: the same forms as in Hugging Face
`datasets`, percents rounded to the nearest clip. This file imports little: readers of shards need it too.
"""

import re
from dataclasses import dataclass

from data.clips import CorpusError

SYNONYMS = ("dev", "valid", "validation", "val")
"""One split under the names that different corpora give it."""
FORMS = "train, train+validation, train[:10%], train[10%:20%], train[:1000], train[-5%:]"
_PART = re.compile(r"([^\[\]+:%/\\\s]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", re.ASCII)


@dataclass(frozen=True)
class SplitPart:
    """One split and the stretch of it that is meant."""

    name: str
    start: int | None = None
    """None is the beginning, a negative number counts from the end."""
    stop: int | None = None
    percent: bool = False

    def bounds(self, count: int) -> tuple[int, int]:
        """First clip and the one after the last, of a split with `count` clips."""
        scale = count / 100 if self.percent else 1
        start = 0 if self.start is None else round(self.start * scale)
        stop = count if self.stop is None else round(self.stop * scale)
        start, stop = (max(edge + count, 0) if edge < 0 else min(edge, count) for edge in (start, stop))
        return start, max(start, stop)


def parse_split(spec: str) -> list[SplitPart]:
    """The parts of `spec`; `CorpusError` if it is malformed."""
    return [_parse_part(spec, text.strip()) for text in spec.split("+")]


def _parse_part(spec: str, text: str) -> SplitPart:
    match = _PART.fullmatch(text)
    if match is None or match[1].strip(".") == "":
        raise CorpusError(f"split {spec!r} is not of a form that is known; write for example {FORMS}")
    edges = [edge for edge in match.groups()[1:] if edge is not None]
    percent = any(edge.endswith("%") for edge in edges)
    if percent and not all(edge.endswith("%") for edge in edges):
        raise CorpusError(f"split {spec!r} mixes percents and clips in one slice; write for example {FORMS}")
    start, stop = (None if edge is None else int(edge.rstrip("%")) for edge in match.groups()[1:])
    if percent and any(abs(edge) > 100 for edge in (start, stop) if edge is not None):
        raise CorpusError(f"split {spec!r} goes beyond 100 %; write for example {FORMS}")
    return SplitPart(match[1], start, stop, percent)


def find_name(asked: str, there: list[str]) -> str | None:
    """The split of `there` that answers to `asked`: itself, or the only synonym of it (`validation` for `dev`)."""
    if asked in there:
        return asked
    synonyms = [name for name in there if name in SYNONYMS] if asked in SYNONYMS else []
    return synonyms[0] if len(synonyms) == 1 else None


def folder_name(spec: str) -> str:
    """The name of the folder for the shards of `spec`: readable, and safe on any file system.

    `train[:10%]` is `train_0-10pct`, `train[:1000]` is `train_0-1000`, `train[-1000:]` is `train_last1000-end`.
    """
    return "+".join(_part_folder(part) for part in parse_split(spec))


def _part_folder(part: SplitPart) -> str:
    name = re.sub(r"[^\w.-]", "_", part.name).lstrip(".-")
    if part.start is None and part.stop is None:
        return name
    if part.percent:
        start, stop = part.bounds(100)
        return f"{name}_{start}-{stop}pct"
    start_name, stop_name = ("" if edge is None else str(edge).replace("-", "last") for edge in (part.start, part.stop))
    return f"{name}_{start_name or 0}-{stop_name or 'end'}"
