"""Speech to text with a Hugging Face Whisper folder.

A recording of up to 30 s is one window, written without timestamps: the prompt the model is fine-tuned and scored with.
Of a longer one the speech is found (`vad`) and put into windows that meet at pauses (`windows`); these are written
several at once, with timestamps, and guarded against what would be lost (`hearing`). What holds no speech at all has no
text, where Whisper would invent some.

N samples, M mel bins, F mel frames (3000 in 30 s).

    python -m serving.transcribe --model FOLDER recording.mp3 lecture.mp4
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from serving.confidence import read_confidence
from serving.errors import command, never
from serving.hearing import Engine, Speech
from serving.media import SAMPLE_RATE, NotFoundError, load_audio, opened
from serving.model import quiet_transformers
from serving.model_folder import FEATURES, GENERATION, TOKENIZER, ModelError, check_folder, read_object
from serving.pytorch import PyTorchWhisper
from serving.signals import Signals
from serving.transcript import Options, Progress, Segment, Transcript
from serving.vad import VoiceActivity
from serving.vocabulary import read_vocabulary
from serving.windows import WINDOW, Window, windows

PLAIN = Options()
HOP = 160  # samples: 10 ms


class Transcriber:
    """A Whisper folder, ready to transcribe; for one call at a time."""

    def __init__(self, folder: Path, signals: bool = False) -> None:
        check_folder(folder, needs=(TOKENIZER, GENERATION, FEATURES))
        self.name = folder.resolve().name
        self.vocabulary = read_vocabulary(folder)
        self.features = read_features(folder)
        self.engine: Engine = PyTorchWhisper(folder, self.vocabulary)
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

    def transcribe(self, path: Path | str, options: Options = PLAIN) -> Transcript:
        """The transcript of any audio or video file. Raises an `AudioError` for one that cannot be transcribed."""
        return self.transcribe_audio(load_audio(Path(path)), options)

    def transcribe_audio(self, audio_N: NDArray[np.float32], options: Options = PLAIN) -> Transcript:
        """The transcript of float32 mono samples (N,) at 16 kHz."""
        return self.transcribe_with_signals(audio_N, options)[0]

    def transcribe_with_signals(
        self, audio_N: NDArray[np.float32], options: Options = PLAIN
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
        options: Options = PLAIN,
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
        speech = Speech(
            self.engine, self.vocabulary, self.features, self.signals, audio_N, probability_C, options, stopped
        )
        ahead = list(windows(audio_N, probability_C))
        if not ahead:
            yield Progress((), seconds, seconds, language)
        elif audio_N.size <= WINDOW:
            speech.spoken = ahead[0].pieces[0][0] / SAMPLE_RATE, ahead[-1].end / SAMPLE_RATE
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


def read_features(folder: Path) -> WhisperFeatureExtractor:
    """What makes a folder's log-mel. Raises `ModelError`, also for another than that of Whisper's windows of 30 s."""
    path = folder / FEATURES
    content = read_object(path)
    for name, wanted in (("sampling_rate", SAMPLE_RATE), ("hop_length", HOP), ("chunk_length", WINDOW // SAMPLE_RATE)):
        if content.get(name, wanted) != wanted:
            raise ModelError(f"{path}: {name} is {content[name]!r}, Whisper's is {wanted}; export the model again")
    try:
        return WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"{path}: does not load ({said}); export the model again") from error


@dataclass(frozen=True)
class Config:
    """Prints what is said in recordings."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Audio or video files; a name that begins with - comes after --, as in `-- -1.wav`."""
    model: Path
    """A Hugging Face Whisper folder, such as `make export` writes."""


@command
def main() -> None:
    config = tyro.cli(Config)
    if not config.files:
        raise NotFoundError("no recording is given; name one or more audio or video files (make transcribe FILE=…)")
    for path in config.files:  # before the model is loaded
        opened(path).close()
    quiet_transformers()
    transcriber = Transcriber(config.model)
    for path in config.files:
        text = transcriber.transcribe(path).text
        print(text if len(config.files) == 1 else f"{path}: {text}", flush=True)


if __name__ == "__main__":
    main()
