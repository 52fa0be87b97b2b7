"""Speech to text with a Hugging Face Whisper folder, by transformers and PyTorch.

A recording of up to 30 s is one pass without timestamps: the same prompt the model is fine-tuned and scored with. A
longer one goes through transformers' sequential long-form generation, which moves its 30 s window to the last
timestamp the model wrote, so that a sentence cut by the window's end is heard again whole. No window is ever skipped
as silent (`no_speech_threshold` stays off): text must not be lost.

N samples, M mel bins, F mel frames (3000 in 30 s).

    python -m serving.transcribe --model FOLDER recording.mp3 lecture.mp4
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor

from serving.errors import AudioError, command
from serving.media import SAMPLE_RATE, NotFoundError, load_audio
from serving.model import ModelError, load_model, quiet_transformers
from serving.transcript import Segment, Transcript

WINDOW_SECONDS = 30.0
TOKENIZER, GENERATION, FEATURES = "tokenizer.json", "generation_config.json", "preprocessor_config.json"

# A window whose text compresses better than this is a loop ("grazie grazie …") and is decoded again, by sampling.
# The threshold and the temperatures are OpenAI's (openai/whisper, transcribe.py), on transformers' scale.
LOOP_COMPRESSION_RATIO = 1.35
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Options:
    language: str | None = None
    task: str = "transcribe"
    words: bool = False


@dataclass(frozen=True)
class Progress:
    segments: tuple[Segment, ...]
    done: float
    seconds: float
    language: str


class StoppedError(AudioError):
    """Somebody asked for the work to stop."""


class Transcriber:
    languages: tuple[str, ...] = ("it",)
    language: str | None = "it"
    can_translate = False

    def stream(self, audio_N, options=Options(), stopped=lambda: False) -> Iterator[Progress]:
        found = self.transcribe_audio(audio_N)
        yield Progress(found.segments, found.seconds, found.seconds, "it")

    """A Whisper folder, ready to transcribe: float32 on the CPU, float16 (as OpenAI published it) on a CUDA device.

    The language is the folder's own (`generation_config.language`); where it names none, Whisper detects it.
    Not for two threads at once: transformers keeps state of a generation on the model.
    """

    def __init__(self, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.name = folder.resolve().name
        self.model = load_model(folder, self.dtype, needs=(TOKENIZER, GENERATION, FEATURES)).to(self.device)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.features = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        config, generation = self.model.config, self.model.generation_config
        if self.features.feature_size != config.num_mel_bins:
            raise ModelError(
                f"{folder}: {FEATURES} makes {self.features.feature_size} mel bins, config.json asks for"
                f" {config.num_mel_bins}; export the model again"
            )
        if getattr(generation, "no_timestamps_token_id", None) is None:
            raise ModelError(f"{folder}: {GENERATION} lacks no_timestamps_token_id; export the model again")
        generation.max_length = config.max_target_positions  # the default, 20, would cut every transcript
        self.options = {"task": "transcribe"} if getattr(generation, "is_multilingual", False) else {}

    def transcribe(self, path: Path | str, on_progress: Callable[[float], None] | None = None) -> Transcript:
        """The transcript of any audio or video file.

        `on_progress` is called with the share of a long recording that is done. Raises an `AudioError` for a file
        that cannot be transcribed.
        """
        return self.transcribe_audio(load_audio(Path(path)), on_progress)

    @torch.inference_mode()
    def transcribe_audio(
        self, audio_N: NDArray[np.float32], on_progress: Callable[[float], None] | None = None
    ) -> Transcript:
        """The transcript of float32 mono samples (N,) at 16 kHz."""
        seconds = audio_N.size / SAMPLE_RATE
        if seconds > WINDOW_SECONDS:
            segments = self._long(audio_N, seconds, on_progress)
        else:
            segments = self._short(audio_N, seconds)
        text = "".join(segment.text for segment in segments).strip()
        spoken = tuple(Segment(s.start, s.end, s.text.strip()) for s in segments if s.text.strip())
        return Transcript(text, spoken, seconds)

    def _short(self, audio_N: NDArray[np.float32], seconds: float) -> list[Segment]:
        log_mel_1MF = self.features(audio_N, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        tokens_1L = self.model.generate(
            log_mel_1MF.to(self.device, self.dtype),
            num_beams=1,
            do_sample=False,
            return_timestamps=False,
            **self.options,
        )
        return [Segment(0.0, seconds, self._text(tokens_1L[0]))]

    def _long(
        self, audio_N: NDArray[np.float32], seconds: float, on_progress: Callable[[float], None] | None
    ) -> list[Segment]:
        log_mel_1MF = self.features(
            audio_N, sampling_rate=SAMPLE_RATE, return_tensors="pt", truncation=False, padding="longest"
        ).input_features

        def report(frames_B2: torch.Tensor) -> None:
            done, total = frames_B2[0].tolist()
            if on_progress is not None:
                on_progress(min(1.0, done / total))

        with torch.random.fork_rng():
            torch.manual_seed(0)  # only a looping window is sampled; the same recording gives the same text
            found = self.model.generate(
                log_mel_1MF.to(self.device, self.dtype),
                num_beams=1,
                temperature=TEMPERATURES,
                compression_ratio_threshold=LOOP_COMPRESSION_RATIO,
                return_timestamps=True,
                return_segments=True,
                monitor_progress=report,
                **self.options,
            )["segments"][0]
        return [
            Segment(_within(s["start"], seconds), _within(s["end"], seconds), self._text(s["tokens"])) for s in found
        ]

    def _text(self, tokens_L: torch.Tensor) -> str:
        """The words: in Whisper's vocabulary every special token and timestamp follows the end-of-text token."""
        eos = self.model.config.eos_token_id
        return self.tokenizer.decode([token for token in tokens_L.tolist() if token < eos])


def _within(time: torch.Tensor, seconds: float) -> float:
    """A timestamp of a recording that ends at `seconds`: a multiple of 0.02 s, which may overshoot the end."""
    return min(round(time.item(), 2), seconds)


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
