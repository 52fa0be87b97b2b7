"""An ablation of training windows on real speech: padded, packed, packed with timestamps; the same speech seen.

Whisper base (real weights) is fine-tuned from the same start on the same clips of the sample corpus for the same number
of epochs, in float32; a step takes `batch_size` packed windows, or as many padded ones as hold about the same speech.
Scored are WER on the test clips, each alone in its window, and the timestamps that the decoder writes for test clips
laid end to end in windows of up to 30 s; the first token has to be one, from there on it is free. *Valid* windows have
only whole segments <|start|> text <|end|>, in order and within the window; *right* segments begin and end within 0.2 s
of a clip's border.

    make bench-windows [ARGS="--clips 400 --epochs 2"]
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tokenizers import Tokenizer

from benchmarks.result import result_line
from data.errors import command
from data.featurize import FeaturizeConfig, featurize
from data.records import Shards
from jax_train.checkpoints import load_run
from jax_train.config import TrainConfig, compilation_cache
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Whisper
from jax_train.pretrained import fetch_base
from jax_train.scores import scores
from jax_train.step import restore
from jax_train.train import train
from jax_train.transcribe import transcribe
from jax_train.weights import load_model
from jax_train.windows import Prompt, assemble, plan_epoch, slot_frames

ARMS: dict[str, dict[str, Any]] = {
    "padded": {"windows": "padded"},
    "packed": {"windows": "packed", "timestamps": 0.0},
    "packed, half with timestamps": {"windows": "packed", "timestamps": 0.5},
}
SECONDS_PER_TIMESTAMP = 0.02
NEAR = 0.2  # seconds
MAX_NEW_TOKENS = 224


@dataclasses.dataclass(frozen=True)
class WindowsBenchmark:
    """WER and timestamps after training on padded and on packed windows."""

    clips: int = 100
    """Training clips of the sample corpus."""
    test_clips: int = 83
    epochs: float = 2.0
    batch_size: int = 2
    """Packed windows a step."""
    clips_per_window: int = 8
    """Padded windows that stand for a packed one in a step."""
    learning_rate: float = 1e-5
    """As in the demo's order of magnitude; the same for all."""
    seed: int = 0
    corpus: Path = Path("sample/it")


@dataclasses.dataclass(frozen=True)
class Timestamps:
    """What a decoder's timestamps are worth."""

    valid_windows: float
    right_segments: float
    segments_per_clip: float


def segments(tokens: list[int], first_timestamp: int) -> list[tuple[float, float]] | None:
    """The start and end seconds of the segments of a transcript; None if it is not made of whole ones, in order."""
    found: list[tuple[float, float]] = []
    opened: float | None = None
    for token in tokens:
        if token < first_timestamp:
            if opened is None:
                return None  # text outside of a segment
            continue
        seconds = (token - first_timestamp) * SECONDS_PER_TIMESTAMP
        if opened is None:
            if found and seconds < found[-1][1]:
                return None
            opened = seconds
        elif seconds <= opened:
            return None
        else:
            found.append((opened, seconds))
            opened = None
    return None if opened is not None else found


def timestamps(model: Whisper, shards: Shards, folder: Path, rows: np.ndarray) -> Timestamps:
    """Of test clips laid end to end, decoded with timestamps."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = Prompt.of(tokenizer, "it")
    index = {name: column[rows] for name, column in shards.index.items()}
    plan = plan_epoch(index, seed=0, epoch=0, windows="packed", max_tokens=MAX_NEW_TOKENS)
    rules = DecodingRules.from_folder(folder, "it", MAX_NEW_TOKENS)
    rules = dataclasses.replace(
        rules,
        prompt=rules.prompt[:-1],
        suppress=(*rules.suppress, prompt.no_timestamps),
        begin_suppress=tuple(range(prompt.first_timestamp)),
    )
    decode = BatchDecoder(model, rules, 1)
    valid = right = found = clips = 0
    for members in plan.rows:
        records = [shards[int(rows[row])] for row in members]
        window = assemble(records, False, prompt, records[0].log_mel_q.shape[1], 448)
        log_mel = np.asarray(restore(window.log_mel_q_FM[None], window.log_mel_max_F[None]))
        tokens = np.asarray(decode(log_mel).tokens_BN)[0].tolist()
        ends = np.cumsum([int(slot_frames(np.asarray(len(record.log_mel_q)))) for record in records]) / 100
        clips += len(records)
        parts = segments([token for token in tokens if token != rules.end], prompt.first_timestamp)
        if parts is None or any(end > ends[-1] + NEAR for _, end in parts):
            continue
        valid += 1
        found += len(parts)
        borders = [0.0, *ends]
        right += sum(all(min(abs(edge - border) for border in borders) <= NEAR for edge in part) for part in parts)
    return Timestamps(valid / len(plan.rows), right / max(1, found), found / clips)


def scored(model: Whisper, shards: Shards, folder: Path, rows: np.ndarray) -> dict[str, Any]:
    """WER of clips alone in their windows, and timestamps of clips together."""
    rules = DecodingRules.from_folder(folder, "it")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    transcripts = transcribe(shards, rows, BatchDecoder(model, rules, 4), tokenizer)
    found = scores([t.reference for t in transcripts], [t.text for t in transcripts])
    stamps = dataclasses.asdict(timestamps(model, shards, folder, rows))
    return {"wer_normalised": found["wer_normalised"], "wer": found["wer"], **stamps}


@command
def main() -> None:
    config = tyro.cli(WindowsBenchmark, description=__doc__)
    compilation_cache()
    base = fetch_base(Path(".cache/models"))
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        shards = Path(place) / "shards"
        for split, limit in (("train", config.clips), ("test", config.test_clips)):
            featurize(
                FeaturizeConfig(
                    source=str(config.corpus),
                    shards=str(shards),
                    model=str(base),
                    split=split,
                    recipe="none",
                    limit=limit,
                    workers=1,
                )
            )
        test = Shards.open(shards, "test")
        rows = np.arange(len(test))
        table["before"] = scored(load_model(base), test, base, rows)
        for number, (arm, settings) in enumerate(ARMS.items()):
            size = config.batch_size * (config.clips_per_window if settings["windows"] == "padded" else 1)
            run = Path(place) / f"run{number}"
            started = time.perf_counter()
            result = train(
                TrainConfig(
                    shards=shards,
                    run=run,
                    model=str(base),
                    epochs=config.epochs,
                    batch_size=size,
                    learning_rate=config.learning_rate,
                    seed=config.seed,
                    **settings,
                )
            )
            seconds = time.perf_counter() - started
            table[arm] = {"steps": result["step"], "seconds": seconds, **scored(load_run(run)[0], test, base, rows)}
    for arm, row in table.items():
        print(f"{arm:30}" + "  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    packed, padded = (table[arm]["seconds"] for arm in ("packed", "padded"))
    more = {"config": dataclasses.asdict(config), "arms": table}
    print(result_line("windows: packed, padded", "s of training", packed, padded, less_is_better=True, more=more))


if __name__ == "__main__":
    main()
