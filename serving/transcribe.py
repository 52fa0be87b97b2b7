"""Speech to text with a Hugging Face Whisper folder.

A recording of up to 30 s is one window, written without timestamps: the prompt the model is fine-tuned and scored with.
Of a longer one the speech is found (`vad`) and put into windows that meet at pauses (`windows`); these are written
several at once, with timestamps. Three things guard the text: where a transcript ends while there is speech left in its
window, the rest is heard again; a window that comes out as a loop ("grazie grazie …") is written again, by sampling;
and what holds no speech at all has no text, where Whisper would invent some.

N samples, M mel bins, F mel frames (3000 in 30 s).

    python -m serving.transcribe --model FOLDER recording.mp3 lecture.mp4
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tyro
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from serving.confidence import read_confidence
from serving.errors import StoppedError, command, never
from serving.media import SAMPLE_RATE, NotFoundError, load_audio
from serving.model import quiet_transformers
from serving.model_folder import FEATURES, GENERATION, TOKENIZER, ModelError, check_folder
from serving.pytorch import PyTorchWhisper
from serving.segments import finished, split, words
from serving.signals import Decoded, Signals, compression, signals
from serving.transcript import Segment, Transcript
from serving.vad import CHUNK, VoiceActivity
from serving.vocabulary import UNSPACED, read_vocabulary
from serving.windows import SPEECH, WINDOW, Window, windows

__all__ = ["Options", "Progress", "StoppedError", "Transcriber"]

# A window whose text compresses better than this is a loop and is written again, by sampling. The threshold and the
# temperatures are OpenAI's (openai/whisper, transcribe.py); transformers' 1.35 on tokens takes litanies for loops.
LOOP_COMPRESSION_RATIO = 2.4
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
UNHEARD = 1.0  # seconds of speech after the last timestamp of a window that are worth hearing again


@dataclass(frozen=True)
class Options:
    """What is asked of a recording."""

    language: str | None = None
    """ISO 639-1 code of what is spoken; None: the model's own, else detected."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """`translate`: into English."""
    words: bool = False
    """Also the time of each word."""

    def between(self, language: str) -> str:
        """What stands between the segments of a text in that language, or of its translation."""
        return "" if self.task == "transcribe" and language in UNSPACED else " "


@dataclass(frozen=True)
class Progress:
    """A step on the way through a recording: the segments found since the last one."""

    segments: tuple[Segment, ...]
    done: float
    """Seconds of the recording that are finished."""
    seconds: float
    """Its length."""
    language: str
    """ISO 639-1 code; empty before it is detected."""
    signals: Signals | None = None
    """What the decoder knows of the whole text, at the end of a recording of one window whose transcriber looks."""


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


class Transcriber:
    """A Whisper folder, ready to transcribe; for one call at a time."""

    def __init__(self, folder: Path, signals: bool = False) -> None:
        check_folder(folder, needs=(TOKENIZER, GENERATION, FEATURES))
        self.name = folder.resolve().name
        self.vocabulary = read_vocabulary(folder)
        self.engine: Engine = PyTorchWhisper(folder, self.vocabulary)
        self.features = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.voice_activity = VoiceActivity()
        if self.features.feature_size != self.engine.mel_bins:
            raise ModelError(
                f"{folder}: {FEATURES} makes {self.features.feature_size} mel bins, config.json asks for"
                f" {self.engine.mel_bins}; export the model again"
            )
        self.confidence = read_confidence(folder)
        """What says whether a transcript can be trusted; None where the folder has no such thing."""
        self.signals = signals or self.confidence is not None
        """Whether to look at how sure the decoder is, at the cost of a step of it and a softmax at every token."""
        self.language = self.vocabulary.language
        """The model's own language; None where it has none."""
        self.languages = tuple(self.vocabulary.languages) or (self.language or "en",)
        self.can_translate = "translate" in self.vocabulary.tasks and bool(self.vocabulary.languages)

    def transcribe(self, path: Path | str, options: Options = Options()) -> Transcript:
        """The transcript of any audio or video file. Raises an `AudioError` for one that cannot be transcribed."""
        return self.transcribe_audio(load_audio(Path(path)), options)

    def transcribe_audio(self, audio_N: NDArray[np.float32], options: Options = Options()) -> Transcript:
        """The transcript of float32 mono samples (N,) at 16 kHz."""
        return self.transcribe_with_signals(audio_N, options)[0]

    def transcribe_with_signals(
        self, audio_N: NDArray[np.float32], options: Options = Options()
    ) -> tuple[Transcript, Signals | None]:
        """The transcript, and what is known of it where the transcriber looks: see `Progress.signals`."""
        segments: list[Segment] = []
        for progress in self.stream(audio_N, options):
            segments.extend(progress.segments)
        text = options.between(progress.language).join(segment.text for segment in segments)
        return Transcript(text, tuple(segments), progress.seconds, progress.language), progress.signals

    def stream(
        self,
        audio_N: NDArray[np.float32],
        options: Options = Options(),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Progress]:
        """The segments of float32 mono samples (N,) at 16 kHz as they are found; the first step has none yet.

        The samples may be a memory map: they are read a minute at a time. Raises `LanguageError` for options the model
        does not have, `StoppedError` soon after `stopped()` is true.
        """
        seconds, language = audio_N.size / SAMPLE_RATE, options.language or self.language or ""
        if language:
            self.vocabulary.prompt(language, options.task, timestamps=True)  # raises before any work
        yield Progress((), 0.0, seconds, language)
        probability_C = self.voice_activity(audio_N, stopped)
        speech = _Speech(self, audio_N, probability_C, options, stopped)
        ahead = list(windows(audio_N, probability_C))
        if not ahead:
            yield Progress((), seconds, seconds, language)
        elif audio_N.size <= WINDOW:
            ahead, speech.timestamps = [Window(((0, audio_N.size),))], False
        batch_size = 1  # the first text soon, later windows by the batch
        while ahead:
            batch, ahead = ahead[:batch_size], ahead[batch_size:]
            heard = speech.hear(batch)
            language = language or self.engine.language(heard)
            found = [segment for said in speech.segments(batch, heard, language) for segment in said]
            known = speech.signals(found) if self.signals and not speech.timestamps else None
            yield Progress(tuple(found), batch[-1].end / SAMPLE_RATE if ahead else seconds, seconds, language, known)
            batch_size = min(2 * batch_size, self.engine.batch_size)


@dataclass
class _Speech:
    """One recording on its way through the engine."""

    transcriber: Transcriber
    audio_N: NDArray[np.float32]
    probability_C: NDArray[np.float32]
    options: Options
    stopped: Callable[[], bool]
    timestamps: bool = True
    log_mel_BMF: Any = None
    """Of the windows that were heard last."""
    decoded: list[Decoded] = field(default_factory=list)
    """Of the windows that were written last."""

    def hear(self, batch: list[Window]) -> Any:
        sounds = [window.of(self.audio_N) for window in batch]
        log_mel_BMF = self.transcriber.features(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        self.log_mel_BMF = log_mel_BMF
        return self.transcriber.engine.hear(log_mel_BMF, [window.samples for window in batch], self.stopped)

    def segments(self, batch: list[Window], heard: Any, language: str) -> list[list[Segment]]:
        """What is said in each window; the rests of those whose transcript ends early are heard again, together."""
        written = self.write(heard, len(batch), language)
        found: list[list[Segment]] = []
        rests: dict[int, Window] = {}
        for row, (window, tokens) in enumerate(zip(batch, written, strict=True)):
            tokens, rest = self._unheard(window, tokens)
            found.append(list(self._segments(window, heard, row, tokens, language)))
            if rest is not None:
                rests[row] = rest
        if rests:
            again = list(rests.values())
            for row, more in zip(rests, self.segments(again, self.hear(again), language), strict=True):
                found[row] += more
        return found

    def write(self, heard: Any, count: int, language: str) -> list[list[int]]:
        """The windows' tokens; of a loop the try that repeats itself least."""
        transcriber, rows = self.transcriber, list(range(count))
        prompt = transcriber.vocabulary.prompt(language, self.options.task, self.timestamps)
        best: dict[int, tuple[float, Decoded]] = {}
        for temperature in TEMPERATURES:
            tries = transcriber.engine.write(heard, rows, prompt, temperature, self.stopped, transcriber.signals)
            for row, decoded in zip(rows, tries, strict=True):
                ratio = compression(transcriber.vocabulary.text(decoded.tokens))
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
        vocabulary, times = self.transcriber.vocabulary, []
        spaced = bool(self.options.between(language))
        parts = split(tokens, vocabulary, window.samples / SAMPLE_RATE)
        if self.options.words and parts:
            prompt = vocabulary.prompt(language, self.options.task, timestamps=False)
            times = self.transcriber.engine.times(heard, row, prompt, [token for *_, said in parts for token in said])
        first = 0
        for start, end, said in parts:
            text, own_times = vocabulary.text(said).strip(), times[first : first + len(said) + 1]
            first += len(said)
            if text:
                spoken = words(said, own_times, vocabulary, spaced) if own_times else ()
                yield window.segment(Segment(start, end, text, spoken))

    def _unheard(self, window: Window, tokens: list[int]) -> tuple[list[int], Window | None]:
        """The tokens of the segments to keep, and what of the window is to be heard again, if there is speech in it."""
        if not self.timestamps:
            return tokens, None

        def speech(start: float, end: float) -> float:
            return self._speech(window.after(start)) - self._speech(window.after(end))

        count, until = finished(tokens, self.transcriber.vocabulary, speech)
        rest = window.after(until)
        # From the same place the same would be heard again.
        if rest is None or until < UNHEARD or self._speech(rest) <= UNHEARD:
            return tokens, None
        return tokens[:count], rest

    def _speech(self, window: Window | None) -> float:
        """Seconds of speech."""
        pieces = window.pieces if window else ()
        loud = [(self.probability_C[start // CHUNK : end // CHUNK] >= SPEECH).sum() for start, end in pieces]
        return int(sum(loud)) * CHUNK / SAMPLE_RATE


@dataclass(frozen=True)
class Config:
    """Prints what is said in recordings."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Audio or video files."""
    model: Path
    """A Hugging Face Whisper folder, such as `make export` writes."""


@command
def main() -> None:
    config = tyro.cli(Config)
    for path in config.files:  # before the model is loaded
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file; give the path of a recording")
    quiet_transformers()
    transcriber = Transcriber(config.model)
    for path in config.files:
        text = transcriber.transcribe(path).text
        print(text if len(config.files) == 1 else f"{path}: {text}", flush=True)


if __name__ == "__main__":
    main()
