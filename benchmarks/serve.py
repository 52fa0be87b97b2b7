"""Serving on a CPU: ours beside transformers' pipeline and faster-whisper's int8, side by side.

Real sentences and weights: clips of about 5 s one by one, and clips joined to just under 30 s and to 10 minutes, with
half a second between them. Every arm is told the language and decodes greedily; loading and a first clip are left out.
Each runs in a process of its own, in turns, on two threads, so that its peak memory is its own and a slow minute hits
all; the median of the turns counts. The peers are as their documentation says for each length: the pipeline whole for
10 minutes (its sequential algorithm) and by chunks of 30 s in batches; faster-whisper with its voice activity
detection, one window at a time and as `BatchedInferencePipeline`; the better of the two counts for its ratio.

    make bench-serve [ARGS="--minutes 2 --turns 1"]
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.corpus import SAMPLE
from benchmarks.result import result_line
from data.audio import decode, resample
from data.errors import UserError, command
from data.sources import read_split
from jax_train.pretrained import fetch_base, model_folder
from jax_train.scores import scores

RATE = 16_000
LANGUAGE = "it"
OURS = "ours"
PIPELINES = ("pipeline", "pipeline chunked")
FASTER = ("faster-whisper", "faster-whisper batched")
ARMS = (OURS, *PIPELINES, *FASTER)


@dataclass(frozen=True)
class ServeBenchmark:
    """Seconds, WER and peak memory of ours, transformers' pipeline and faster-whisper."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    clips: int = 10
    """How many clips of about 5 s."""
    minutes: float = 10.0
    """Length of the long recording; 0 leaves it out."""
    threads: int = 2
    turns: int = 3
    arms: tuple[str, ...] = ARMS
    """Who takes part: ours, and some of the peers."""
    arm: str = ""
    """Set by the benchmark itself."""
    converted: str = ""
    """Set by the benchmark itself: the model as faster-whisper reads it."""

    def __post_init__(self) -> None:
        if min(self.clips, self.threads, self.turns) < 1 or self.minutes < 0:
            raise UserError("--clips, --threads, --turns: at least 1 each; --minutes: 0 or more")
        if OURS not in self.arms or not set(self.arms) <= set(ARMS):
            raise UserError(f"--arms: {OURS}, and of the others those wanted: {', '.join(ARMS[1:])}")


def recordings(config: ServeBenchmark) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Samples and sentences of each kind of recording."""
    clips, more = (
        [(resample(*decode(clip.audio.load())), clip.sentence) for clip in read_split(str(SAMPLE), split).clips]
        for split in ("test", "train")
    )
    short = sorted(clips, key=lambda clip: abs(clip[0].size - 5 * RATE))[: config.clips]
    found = {"5 s": short, "30 s": [_joined(clips, 30.0)]}
    if config.minutes:
        found[f"{config.minutes:g} minutes"] = [_joined(clips + more, 60 * config.minutes)]
    return found


def _joined(clips: list[tuple[np.ndarray, str]], seconds: float) -> tuple[np.ndarray, str]:
    """As many clips as fit into `seconds`, over again where they do not suffice."""
    parts, sentences, samples = [], [], 0
    for number in range(10**6):
        audio_N, sentence = clips[number % len(clips)]
        samples += audio_N.size + RATE // 2
        if samples > seconds * RATE:
            break
        parts += [audio_N, np.zeros(RATE // 2, np.float32)]
        sentences.append(sentence)
    return np.concatenate(parts), " ".join(sentences)


def transcriber(config: ServeBenchmark) -> Callable[[np.ndarray], str]:
    """The arm, loaded: samples → text."""
    import torch

    torch.set_num_threads(config.threads)
    folder = model_folder(config.model)
    if config.arm == OURS:
        from serving.transcribe import Transcriber
        from serving.transcript import Options

        own = Transcriber(folder)
        return lambda audio_N: own.transcribe_audio(audio_N, Options(LANGUAGE)).text
    if config.arm in PIPELINES:
        return _pipeline(folder, chunked=config.arm == PIPELINES[1])
    return _faster(config, batched=config.arm == FASTER[1])


def _pipeline(folder: Path, chunked: bool) -> Callable[[np.ndarray], str]:
    from transformers import pipeline

    chunks = {"chunk_length_s": 30, "batch_size": 8} if chunked else {}
    pipe = pipeline("automatic-speech-recognition", model=str(folder), device="cpu", **chunks)
    words = {"language": LANGUAGE, "task": "transcribe", "num_beams": 1}

    def text(audio_N: np.ndarray) -> str:
        long = audio_N.size > 30 * RATE
        audio = {"raw": audio_N, "sampling_rate": RATE}
        return pipe(audio, generate_kwargs=words, **({"return_timestamps": True} if long else {}))["text"]

    return text


def _faster(config: ServeBenchmark, batched: bool) -> Callable[[np.ndarray], str]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(config.converted, device="cpu", compute_type="int8", cpu_threads=config.threads)
    whole = BatchedInferencePipeline(model)

    def text(audio_N: np.ndarray) -> str:
        long = audio_N.size > 30 * RATE
        if batched and long:
            segments, _ = whole.transcribe(audio_N, language=LANGUAGE, beam_size=1, batch_size=8)
        else:
            segments, _ = model.transcribe(
                audio_N, language=LANGUAGE, beam_size=1, vad_filter=long, without_timestamps=not long
            )
        return "".join(segment.text for segment in segments)

    return text


def measure(config: ServeBenchmark) -> dict[str, Any]:
    """One arm in this process: of each kind of recording texts and seconds; peak memory of all."""
    write = transcriber(config)
    kinds = recordings(config)
    write(kinds["5 s"][0][0])
    found: dict[str, Any] = {}
    for kind, clips in kinds.items():
        started = time.perf_counter()
        texts = [write(audio_N).strip() for audio_N, _ in clips]
        seconds = (time.perf_counter() - started) / len(clips)
        found[kind] = {"seconds": seconds, "texts": texts, "references": [sentence for _, sentence in clips]}
    return {"kinds": found, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_turns(config: ServeBenchmark, model: str, converted: str) -> dict[str, list[dict[str, Any]]]:
    """What the arms measured, each in processes of its own, turn by turn."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in config.arms}
    for turn in range(config.turns):
        for arm in config.arms:
            print(f"turn {turn + 1} of {config.turns}: {arm}", file=sys.stderr, flush=True)
            options = ["--model", model, "--converted", converted, "--arm", arm]
            words = [sys.executable, "-W", "ignore", "-m", "benchmarks.serve", *sys.argv[1:], *options]
            output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[arm].append(json.loads(output.splitlines()[-1]))
    return found


def figures(turns: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """An arm's median seconds, WER and peak memory, by kind of recording."""
    return {
        kind: {
            "seconds": statistics.median(turn["kinds"][kind]["seconds"] for turn in turns),
            "wer_normalised": scores(first["references"], first["texts"])["wer_normalised"],
            "peak_memory_gb": max(turn["memory"] for turn in turns) / 1e9,
        }
        for kind, first in turns[0]["kinds"].items()
    }


@command
def main() -> None:
    config = tyro.cli(ServeBenchmark, description=__doc__)
    if config.arm:
        print(json.dumps(measure(config)))
        return
    model = str(model_folder(config.model) if config.model else fetch_base(Path(".cache/models")))
    with tempfile.TemporaryDirectory() as folder:
        from serving.model import quiet_transformers
        from serving.to_ctranslate2 import convert

        quiet_transformers()
        convert(Path(model), Path(folder) / "int8", "int8")
        table = {arm: figures(turns) for arm, turns in in_turns(config, model, str(Path(folder) / "int8")).items()}
    print(f"{Path(model).name}, {config.threads} threads")
    for kind in table[OURS]:
        print(f"  {kind}")
        for arm, row in table.items():
            print(f"    {arm:24}" + "".join(f"  {name} {value:.3f}" for name, value in row[kind].items()))
        for name, peers in (("pipeline", PIPELINES[:1]), ("pipeline, better", PIPELINES), ("faster-whisper", FASTER)):
            seconds = [table[peer][kind]["seconds"] for peer in peers if peer in table]
            if seconds:
                print(f"    {name} / ours: {min(seconds) / table[OURS][kind]['seconds']:.2f}")
    kind = next(iter(table[OURS]))
    ours, peer = (table[arm][kind]["seconds"] if arm in table else None for arm in (OURS, PIPELINES[0]))
    more = {"threads": config.threads, "arms": table}
    print(result_line(f"serve: {kind}", "s", ours or 0.0, peer, less_is_better=True, more=more))


if __name__ == "__main__":
    main()
