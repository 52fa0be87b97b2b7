"""What the model hears of a long recording: its speech, in windows of at most 30 s that meet at pauses.

Decisions. Long silences, noise and music are left out: on them Whisper invents. Stretches of speech are joined, each
with `PADDING` of what surrounds it, so that a window is full and no word begins abruptly; a join is a pause of twice
that. Where a stretch must be cut it is cut within the longest dip of speech probability, at its quietest 32 ms; that is
a pause where the speaker makes one in fifteen seconds, else the least of all places. Windows neither overlap nor leave
out speech, so that nothing said is heard twice or not at all.

N samples, C chunks (32 ms).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.media import SAMPLE_RATE
from serving.transcript import Segment, Word
from serving.vad import CHUNK

WINDOW = 30 * SAMPLE_RATE  # samples
SPEECH, SILENCE = 0.35, 0.15  # probabilities at which speech begins and ends: rather hear too much than too little
PADDING = SAMPLE_RATE // 2 // CHUNK  # chunks
AROUND_JOIN = 3 * SAMPLE_RATE // 4  # samples: the padding, and how rough Whisper's times are
DIP = 9  # chunks, 0.3 s, over which the probability is averaged where a stretch must be cut


@dataclass(frozen=True)
class Window:
    """Pieces of a recording, in samples, that are heard as one."""

    pieces: tuple[tuple[int, int], ...]

    @property
    def samples(self) -> int:
        return sum(end - start for start, end in self.pieces)

    @property
    def end(self) -> int:
        """Where in the recording it ends, in samples."""
        return self.pieces[-1][1]

    def of(self, audio_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of the window's sound."""
        return np.concatenate([audio_N[start:end] for start, end in self.pieces])

    def segment(self, heard: Segment) -> Segment:
        """A segment of the window, at its times in the recording, and its words, which do not leave those times."""
        first, last = self._times(heard.start, heard.end)
        spoken = []
        for word in heard.words:
            start, end = (min(max(time, first), last) for time in self._times(word.start, word.end))
            spoken.append(Word(start, end, word.text))
        return Segment(first, last, heard.text, tuple(spoken))

    def _times(self, start: float, end: float) -> tuple[float, float]:
        """What begins just before a join and goes on after it was said after it, and the other way round: Whisper lets
        a segment begin where the last one ended, and the silence between is not in the window."""
        (first, begins), (last, ends) = self._place(start, at_join=1), self._place(end, at_join=0)
        if first < last and self.pieces[first][1] - begins < AROUND_JOIN:
            first, begins = first + 1, self.pieces[first + 1][0]
        if first < last and ends - self.pieces[last][0] < AROUND_JOIN:
            last, ends = last - 1, self.pieces[last - 1][1]
        return begins / SAMPLE_RATE, max(begins, ends) / SAMPLE_RATE

    def _place(self, seconds: float, at_join: int) -> tuple[int, int]:
        """The piece, and the sample of the recording; at a join that of the piece after it, or before it."""
        left, last = max(0, round(seconds * SAMPLE_RATE)), len(self.pieces) - 1
        for index, (start, end) in enumerate(self.pieces):
            if index == last or left + at_join <= end - start:
                return index, min(start + left, end)
            left -= end - start
        raise ValueError("a window without pieces")

    def after(self, seconds: float) -> "Window | None":
        """What follows `seconds` into the window; None where nothing does."""
        left, pieces = round(seconds * SAMPLE_RATE), []
        for start, end in self.pieces:
            if left < end - start:
                pieces.append((start + max(0, left), end))
            left -= end - start
        return Window(tuple(pieces)) if pieces else None

    def before(self, seconds: float) -> "Window":
        """What comes before `seconds` into the window."""
        left, pieces = round(seconds * SAMPLE_RATE), []
        for start, end in self.pieces:
            if left > 0:
                pieces.append((start, min(end, start + left)))
            left -= end - start
        return Window(tuple(pieces))


def halves(window: Window, audio_N: NDArray[np.float32], probability_C: NDArray[np.float32]) -> list[Window]:
    """The window in two, cut at the deepest pause of its middle half: the join in it, if there is one, else a dip."""
    quarter, passed = window.samples // 4, 0
    for start, end in window.pieces:
        if quarter <= passed <= 3 * quarter:
            break
        if passed + end - start > 3 * quarter:  # the one that the middle half lies in
            first, limit = start + quarter - passed, start + 3 * quarter - passed
            passed += CHUNK * _quietest(audio_N, probability_C, -(-first // CHUNK), limit // CHUNK) - start
            break
        passed += end - start
    parts = window.before(passed / SAMPLE_RATE), window.after(passed / SAMPLE_RATE)
    return [part for part in parts if part is not None]


def stretches(probability_C: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Where there is speech, in chunks, with `PADDING` around it; stretches that then touch are one."""
    found: list[tuple[int, int]] = []
    start = None
    loud_C, silent_C = probability_C >= SPEECH, probability_C < SILENCE
    for chunk in np.flatnonzero(loud_C | silent_C).tolist():
        if start is None and loud_C[chunk]:
            start = chunk
        elif start is not None and silent_C[chunk]:
            found.append((start, chunk))
            start = None
    if start is not None:
        found.append((start, probability_C.size))
    joined: list[tuple[int, int]] = []
    for start, end in ((max(0, a - PADDING), min(probability_C.size, b + PADDING)) for a, b in found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def windows(audio_N: NDArray[np.float32], probability_C: NDArray[np.float32]) -> Iterator[Window]:
    """The windows of a recording, in order."""
    room = WINDOW // CHUNK
    pieces: list[tuple[int, int]] = []
    for start, end in stretches(probability_C):
        while (filled := sum(b - a for a, b in pieces)) + end - start > room:
            if end - start > room or filled < room // 2:
                limit = start + room - filled
                cut = _quietest(audio_N, probability_C, (start + limit) // 2, limit)
                pieces.append((start, cut))
                start = cut
            yield _window(pieces, audio_N.size)
            pieces = []
        pieces.append((start, end))
    if pieces:
        yield _window(pieces, audio_N.size)


def _quietest(audio_N: NDArray[np.float32], probability_C: NDArray[np.float32], first: int, limit: int) -> int:
    """The chunk from `first`, before `limit`, before which to cut: within the deepest dip, the quietest."""
    around = np.ones(DIP) / DIP
    mean_C = np.convolve(np.pad(probability_C[first:limit], DIP // 2, mode="edge"), around, mode="valid")
    dip = first + int(np.flatnonzero(mean_C <= mean_C.min() + 0.01)[-1])
    chunks = range(max(first, dip - DIP // 2), min(limit, dip + DIP // 2 + 1))
    return min(chunks, key=lambda chunk: float(np.square(audio_N[chunk * CHUNK : (chunk + 1) * CHUNK]).sum()))


def _window(pieces: list[tuple[int, int]], samples: int) -> Window:
    return Window(tuple((start * CHUNK, min(end * CHUNK, samples)) for start, end in pieces))
