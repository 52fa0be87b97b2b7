"""How much memory a recording of `minutes` takes beyond one of thirty seconds, from a memory map.

What counts is memory that is the process's own (RssAnon): pages of the mapped file belong to the system, which drops
them at will. It is looked at wherever the engine asks whether to stop: between layers and tokens.

    make bench-serve_memory [ARGS="--minutes 10"]
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.corpus import SAMPLE
from benchmarks.result import result_line
from data.audio import decode, resample
from data.errors import command
from data.sources import read_split
from jax_train.pretrained import fetch_base, model_folder
from serving.transcribe import Transcriber
from serving.transcript import Options

RATE = 16_000
MB = 1e6


@dataclass(frozen=True)
class MemoryBenchmark:
    """Peak memory of a long recording."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    minutes: float = 60.0


def own_memory() -> int:
    """Bytes of this process's own memory."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024


def peak(transcriber: Transcriber, audio_N: np.ndarray) -> int:
    """The most memory there was while the recording was transcribed."""
    most = 0

    def looked_at() -> bool:
        nonlocal most
        most = max(most, own_memory())
        return False

    for step in transcriber.stream(audio_N, Options("it"), looked_at):
        print(f"\r{step.done / 60:6.1f} of {step.seconds / 60:.1f} minutes, {most / MB:.0f} MB", end="", flush=True)
    print()
    return most


@command
def main() -> None:
    config = tyro.cli(MemoryBenchmark, description=__doc__)
    clips = [resample(*decode(clip.audio.load())) for clip in read_split(str(SAMPLE), "train").clips]
    speech_N = np.concatenate(clips)
    with tempfile.TemporaryDirectory() as folder:
        path, samples = Path(folder) / "long.f32", round(config.minutes * 60 * RATE)
        with path.open("wb") as file:
            for start in range(0, samples, speech_N.size):
                speech_N[: samples - start].tofile(file)
        del speech_N, clips
        transcriber = Transcriber(model_folder(config.model) if config.model else fetch_base(Path(".cache/models")))
        audio_N = np.memmap(path, np.float32, "r")
        short = peak(transcriber, audio_N[: 30 * RATE])
        long = peak(transcriber, audio_N)
    figures = {"minutes": config.minutes, "short_mb": short / MB, "long_mb": long / MB, "more_mb": (long - short) / MB}
    print(result_line("serve_memory: long, short", "MB", long / MB, short / MB, less_is_better=True, more=figures))


if __name__ == "__main__":
    main()
