"""Transcribing: ours in whole 30 s windows and in thinned ones, and `generate` of `transformers`, side by side.

The same real clips and weights, from the same shards. Ours is what the evaluate command runs, reading the shards
included. The peer is the usual loop: windows of 30 s ready in memory as float32, in the corpus's order, PyTorch with
SDPA attention, at each of `peer_batches`; its best counts too. Compiling and a first batch are left out of both. Each
arm runs in processes of its own, in turns, so that peak memory is its own and a slow minute hits all; the median of
the turns counts.

A ratio of 30 s windows is of equal transcripts: more than `most_different` that differ from the peer's end the
benchmark. Thinned windows are another score, with its own WER beside it.

    make bench-decode [ARGS="--clips 16 --turns 1"]
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.corpus import SAMPLE
from benchmarks.result import result_line
from data.errors import UserError, command
from data.featurize import FeaturizeConfig, featurize
from data.records import Shards
from jax_train.pretrained import fetch_base, model_folder
from jax_train.scores import scores

GB = 1e9
LANGUAGE = "it"


@dataclass(frozen=True)
class DecodeBenchmark:
    """Clips per second, WER and memory of ours and of `generate`."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    split: Literal["test", "train"] = "test"
    """Of the sample corpus: 83 clips, or 400."""
    clips: int = 0
    """Take only the first; 0: all."""
    copies: int = 1
    """Times each clip is transcribed, for a fast device."""
    batch_size: int = 8
    """Windows at a time, of ours."""
    peer_batches: tuple[int, ...] = (8, 1, 16, 32)
    """The lab's batch, and others; the best counts."""
    num_beams: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    turns: int = 2
    most_different: int = 0
    """Transcripts of 30 s windows that may differ from the peer's; rounding to bfloat16 changes some words."""
    measured: Path | None = None
    """Set by the benchmark itself: shards to transcribe in this process."""
    arm: str = ""
    """Set by the benchmark itself: whole, thinned, or the peer's batch size."""

    def __post_init__(self) -> None:
        if not self.peer_batches or min(*self.peer_batches, self.batch_size, self.copies, self.turns, 1) < 1:
            raise UserError("--peer-batches, --batch-size, --copies, --turns: at least 1 each")


def ours(config: DecodeBenchmark, folder: Path, shards: Shards, rows: np.ndarray, thin: bool) -> dict[str, Any]:
    """Transcripts of index `rows` in their order, seconds of writing them, peak bytes of the device (0 on a CPU)."""
    import jax
    from tokenizers import Tokenizer

    from jax_train.config import compilation_cache
    from jax_train.decode import BatchDecoder
    from jax_train.decoding_rules import DecodingRules
    from jax_train.thinned import lengths
    from jax_train.transcribe import transcribe
    from jax_train.weights import load_model

    compilation_cache()
    batch, devices = config.batch_size, jax.local_devices()[:1]
    frames = lengths(shards.index["frames"][rows], batch, 3000) if thin else ()
    rules = DecodingRules.from_folder(folder, LANGUAGE)
    decoder = BatchDecoder(load_model(folder, config.compute_dtype), rules, batch, devices, frames, config.num_beams)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for length in decoder.frames:
        jax.block_until_ready(decoder(np.zeros((1, length, decoder.config.num_mel_bins), np.float32)))
    started = time.perf_counter()
    transcripts = transcribe(shards, rows, decoder, tokenizer)
    seconds = time.perf_counter() - started
    texts, references = [t.text for t in transcripts], [t.reference for t in transcripts]
    memory = (devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    name = devices[0].device_kind + (f", {os.cpu_count()} threads" if devices[0].platform == "cpu" else "")
    return {"texts": texts, "references": references, "seconds": seconds, "memory": memory, "device": name}


def measure(config: DecodeBenchmark, shards_dir: Path) -> dict[str, Any]:
    """One arm in this process."""
    folder = model_folder(config.model)
    shards = Shards.open(shards_dir, config.split)
    rows = np.tile(np.arange(len(shards)), config.copies)
    if config.arm.isdecimal():
        from benchmarks.decode_peer import generated

        found = generated(folder, shards, rows, LANGUAGE, int(config.arm), config.num_beams, config.compute_dtype)
    else:
        found = ours(config, folder, shards, rows, config.arm == "thinned")
    found["memory"] = found["memory"] or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def in_turns(config: DecodeBenchmark, model: str, shards: str) -> dict[str, list[dict[str, Any]]]:
    """What the arms measured, each in processes of its own, turn by turn."""
    arms = ["whole", "thinned", *map(str, config.peer_batches)]
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for turn in range(config.turns):
        for arm in arms:
            print(f"turn {turn + 1} of {config.turns}: {_named(arm)}", file=sys.stderr, flush=True)
            options = ["--model", model, "--measured", shards, "--arm", arm]
            words = [sys.executable, "-m", "benchmarks.decode", *sys.argv[1:], *options]
            output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[arm].append(json.loads(output.splitlines()[-1]))
    return found


def figures(turns: list[dict[str, Any]], peer: dict[str, Any]) -> dict[str, float]:
    """What an arm's turns come to; `different` counts transcripts that are not the `peer`'s."""
    first = turns[0]
    found = scores(first["references"], first["texts"])
    return {
        "clips_per_second": len(first["texts"]) / statistics.median(turn["seconds"] for turn in turns),
        "wer_normalised": found["wer_normalised"],
        "wer": found["wer"],
        "different": sum(text != other for text, other in zip(first["texts"], peer["texts"], strict=True)),
        "peak_memory_gb": max(turn["memory"] for turn in turns) / GB,
    }


def ratios(table: dict[str, dict[str, float]], peers: list[str]) -> dict[str, float]:
    """Clips per second of ours over the peer's at the first of its batches, and at its best."""
    best = max(peers, key=lambda arm: table[arm]["clips_per_second"])
    return {
        f"{arm}_to_{_named(peer).replace(' ', '_')}{which}": table[arm]["clips_per_second"]
        / table[peer]["clips_per_second"]
        for arm in ("whole", "thinned")
        for peer, which in ((peers[0], ""), (best, "_its_best"))
    }


def _named(arm: str) -> str:
    return f"generate at {arm}" if arm.isdecimal() else f"ours {arm}"


@command
def main() -> None:
    config = tyro.cli(DecodeBenchmark, description=__doc__)
    if config.measured:
        print(json.dumps(measure(config, config.measured)))
        return
    model = str(model_folder(config.model) if config.model else fetch_base(Path(".cache/models")))
    with tempfile.TemporaryDirectory() as shards:
        limit = config.clips or None
        featurize(FeaturizeConfig(str(SAMPLE), shards, model=model, split=config.split, copies=0, limit=limit))
        found = in_turns(config, model, shards)
    peers = [str(batch) for batch in config.peer_batches]
    table = {arm: figures(turns, found[peers[0]][0]) for arm, turns in found.items()}
    devices = sorted({turn["device"] for turns in found.values() for turn in turns})
    count = len(found["whole"][0]["texts"])
    print(
        f"{Path(model).name}, {count} clips, {config.compute_dtype}, {config.num_beams} beams, on {'; '.join(devices)}"
    )
    for arm, row in table.items():
        print(f"  {_named(arm):16}" + "".join(f"  {name} {value:.3f}" for name, value in row.items()))
    if table["whole"]["different"] > config.most_different:
        raise UserError(
            f"{table['whole']['different']} of {count} transcripts differ from generate's: no ratio of these"
        )
    compared = ratios(table, peers)
    for name, value in compared.items():
        print(f"  {name:36}  {value:.2f}")
    ours, peer = (table[arm]["clips_per_second"] for arm in ("whole", peers[0]))
    more = {"devices": devices, "clips": count, "arms": table, **compared}
    print(result_line("decode", "clips/s", ours, peer, more=more))


if __name__ == "__main__":
    main()
