"""One recording on its way through the engine: windows of sound become segments of text.

Two things guard the text. Where a window's transcript ends while there is speech left, the rest is heard again, and
where it hardly begins, both halves of the window are. One that comes out as a loop ("grazie grazie …") is written
again, by sampling.

N samples, M mel bins, F mel frames (3000 in 30 s), B batch, C chunks (32 ms).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.media import SAMPLE_RATE
from serving.segments import finished, sentences, split, words
from serving.signals import Decoded, Signals, compression, signals
from serving.transcript import Options, Segment
from serving.vad import CHUNK
from serving.vocabulary import Vocabulary
from serving.windows import SPEECH, Window, halves

# A window whose text compresses better than this is a loop and is written again, by sampling. The threshold and the
# temperatures are OpenAI's (openai/whisper, transcribe.py); transformers' 1.35 on tokens takes litanies for loops.
LOOP_COMPRESSION_RATIO = 2.4
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LONG_PASSAGE = 7.0  # seconds of speech, all that a subtitle may last: a text of more is cut into its sentences
UNHEARD = 1.0  # seconds of speech after the last timestamp of a window that are worth hearing again


class Engine(Protocol):
    """Whisper itself, by whichever library. `Any` is what `hear` gives and the others take."""

    mel_bins: int
    batch_size: int

    def hear(self, log_mel_BMF: Any, samples: list[int], stopped: Callable[[], bool]) -> Any: ...
    def language(self, heard: Any) -> str: ...
    def write(
        self,
        heard: Any,
        rows: list[int],
        prompt: list[int],
        temperature: float,
        stopped: Callable[[], bool],
        signals: bool = False,
    ) -> list[Decoded]: ...
    def times(self, heard: Any, row: int, prompt: list[int], tokens: list[int]) -> list[float]: ...


@dataclass
class Speech:
    """A recording, and whoever hears it."""

    engine: Engine
    vocabulary: Vocabulary
    features: Any
    """transformers' feature extractor."""
    look: bool
    """Whether to look at how sure the decoder is."""
    audio_N: NDArray[np.float32]
    probability_C: NDArray[np.float32]
    options: Options
    stopped: Callable[[], bool]
    timestamps: bool = True
    spoken: tuple[float, float] = (0.0, math.inf)
    """Seconds from where to where somebody speaks, of a recording of one window."""
    log_mel_BMF: Any = None
    """Of the windows that were heard last."""
    decoded: list[Decoded] = field(default_factory=list)
    """Of the windows that were written last."""

    def hear(self, batch: list[Window]) -> Any:
        sounds = [window.of(self.audio_N) for window in batch]
        log_mel_BMF = self.features(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        self.log_mel_BMF = log_mel_BMF
        return self.engine.hear(log_mel_BMF, [window.samples for window in batch], self.stopped)

    def segments(self, batch: list[Window], heard: Any, language: str) -> list[list[Segment]]:
        """What is said in each window; what its transcript leaves out is heard again, that of all windows together."""
        written = self.write(heard, len(batch), language)
        found: list[list[Segment]] = []
        doubted: dict[int, list[Segment]] = {}
        again: list[tuple[int, Window]] = []
        for row, (window, tokens) in enumerate(zip(batch, written, strict=True)):
            kept, parts = self._unheard(window, tokens)
            found.append(list(self._segments(window, heard, row, kept, language)))
            if len(parts) > 1:
                doubted[row], found[row] = found[row], []
            again += [(row, part) for part in parts]
        for first in range(0, len(again), self.engine.batch_size):
            some = again[first : first + self.engine.batch_size]
            rests = [rest for _, rest in some]
            for (row, _), more in zip(some, self.segments(rests, self.hear(rests), language), strict=True):
                found[row] += more
        for row, before in doubted.items():
            found[row] = max(found[row], before, key=lambda said: sum(len(segment.text) for segment in said))
        return found

    def write(self, heard: Any, count: int, language: str) -> list[list[int]]:
        """The windows' tokens; of a loop the try that repeats itself least."""
        rows = list(range(count))
        prompt = self.vocabulary.prompt(language, self.options.task, self.timestamps)
        best: dict[int, tuple[float, Decoded]] = {}
        for temperature in TEMPERATURES:
            tries = self.engine.write(heard, rows, prompt, temperature, self.stopped, self.look)
            for row, decoded in zip(rows, tries, strict=True):
                ratio = compression(self.vocabulary.text(decoded.tokens))
                if row not in best or ratio < best[row][0]:
                    best[row] = (ratio, decoded)
            rows = [row for row in rows if best[row][0] > LOOP_COMPRESSION_RATIO]
            if not rows:
                break
        self.decoded = [best[row][1] for row in range(count)]
        return [decoded.tokens for decoded in self.decoded]

    def signals(self, found: list[Segment]) -> Signals:
        """What is known of the text of a recording of one window."""
        text = self.options.between("").join(segment.text for segment in found)
        return signals(self.decoded[0], text, self.audio_N.size, self.log_mel_BMF[0])

    def _segments(self, window: Window, heard: Any, row: int, tokens: list[int], language: str) -> Iterator[Segment]:
        """What the tokens say and when: by their timestamps, else from where somebody speaks to where nobody does.

        Of a long text without timestamps each sentence is a segment, by the attention: the time of a few tokens more.
        """
        vocabulary, times = self.vocabulary, []
        spaced = bool(self.options.between(language))
        parts = split(tokens, vocabulary, window.samples / SAMPLE_RATE)
        if not self.timestamps:
            first, last = self.spoken
            wholes = [whole for *_, whole in parts]
            if last - first > LONG_PASSAGE:
                wholes = [said for whole in wholes for said in sentences(whole, vocabulary, spaced)]
            parts = [(first, last, said) for said in wholes]
        if parts and (self.options.words or (not self.timestamps and len(parts) > 1)):
            prompt = vocabulary.prompt(language, self.options.task, timestamps=False)
            times = self.engine.times(heard, row, prompt, [token for *_, said in parts for token in said])
        done = 0
        for start, end, said in parts:
            text, own_times = vocabulary.text(said).strip(), times[done : done + len(said) + 1]
            done += len(said)
            if len(parts) > 1 and not self.timestamps:
                start, end = (min(max(time, start), end) for time in (own_times[0], own_times[-1]))
            if text:
                spoken = words(said, own_times, vocabulary, spaced) if self.options.words else ()
                yield window.segment(Segment(start, end, text, spoken))

    def _unheard(self, window: Window, tokens: list[int]) -> tuple[list[int], list[Window]]:
        """The tokens of the segments to keep, and what of the window is to be heard again.

        That is what follows the last finished segment, if there is speech in it. From the window's own start the same
        would be heard again: there both of its halves are, in place of the whole, if it has too few words.
        """
        if not self.timestamps:
            return tokens, []

        def speech(start: float, end: float) -> float:
            return self._speech(window.after(start)) - self._speech(window.after(end))

        sure = finished(tokens, self.vocabulary, window.samples / SAMPLE_RATE, speech)
        rest = window.after(sure.until)
        if rest is None or self._speech(rest) <= UNHEARD:
            return tokens, []
        if sure.until >= UNHEARD:
            return tokens[: sure.tokens], [rest]
        return tokens, halves(window, self.audio_N, self.probability_C) if sure.sparse else []

    def _speech(self, window: Window | None) -> float:
        """Seconds of speech."""
        pieces = window.pieces if window else ()
        loud = [(self.probability_C[start // CHUNK : end // CHUNK] >= SPEECH).sum() for start, end in pieces]
        return int(sum(loud)) * CHUNK / SAMPLE_RATE
