"""A training step: ours and PyTorch's, padded against padded and packed against padded, side by side.

The peer is a `Seq2SeqTrainer`-style loop: Hugging Face's PyTorch Whisper with SDPA attention, padded windows kept in
memory as float32 features, labels padded to the batch's longest, fused AdamW, clipping to 1, bfloat16 by autocast. Same
clips (random features at Common Voice's lengths), size, precision and windows a step. Each arm runs in processes of its
own, in turns, so that peak memory is its own and a slow minute hits all; medians of the steps of all turns count.

A step's time is the one between its end and the last one's end; on an accelerator steps overlap, as in a run.

Model-FLOPs utilisation (MFU) is 3 x the forward pass's operations (2 a multiplication; the backward pass costs twice
the forward's; recomputation and padding of labels not counted) over seconds and the device's dense peak: `PEAK` for a
known accelerator, for a CPU what its BLAS reaches on a 2048² float32 product. Forward, for S = 1500 positions, T label
tokens, V words: convolutions 2F·3M·D + 2S·3D²; an encoder layer 8SD² + 4S²D + 4SD·ffn; a decoder layer
12TD² + 4T²D + 4SD² + 4TSD + 4TD·ffn; words 2TDV.

    make bench-train [ARGS="--model base --batch-size 4"]
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from benchmarks.input import PROMPT, generate
from benchmarks.result import result_line
from benchmarks.train_peer import peer_steps
from data.errors import command
from data.log_mel import N_FRAMES
from data.records import Shards
from jax_train.batches import Ahead, RunPlan, Windows, batches, plan_run
from jax_train.config import PUBLISHED, TrainConfig, WhisperConfig, compilation_cache
from jax_train.layers import Remat
from jax_train.model import Whisper
from jax_train.optimizer import make_optimizer
from jax_train.sharding import data_mesh
from jax_train.step import Metrics, TrainState, make_train_step
from jax_train.train import initial_state, overlaps

PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "T4": 65e12,
    "v5 lite": 197e12,
    "v6 lite": 918e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,
}
"""Dense bfloat16 (T4: float16) operations a second, by what a device calls itself; from the makers' data sheets."""
GB = 1e9
CLIPS_PER_WINDOW = 6  # more than a packed window holds of Common Voice's


@dataclasses.dataclass(frozen=True)
class TrainBenchmark:
    """Seconds of speech trained on per second, tokens, windows, memory and MFU of ours and of PyTorch."""

    model: str = "tiny"
    """Published size; random weights."""
    batch_size: int = 8
    """Windows a step, of each arm."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Remat = "none"
    """Ours: what is computed again in the backward pass."""
    clips: int = 0
    """Generated clips, 43 kB each; 0: a thousand, or as many as fill all steps' packed windows (an epoch ends with some
    that are empty)."""
    steps: int = 3
    """Timed steps a turn, after one that compiles."""
    turns: int = 2
    arms: tuple[Literal["packed", "padded", "peer"], ...] = ("packed", "padded", "peer")
    measured: Path | None = None
    """Set by the benchmark itself: shards to train on in this process, with the first of `arms`."""


def forward_flops(config: WhisperConfig, tokens: float) -> float:
    """Operations of a window's forward pass with `tokens` label tokens."""
    d, s, t = config.d_model, config.max_source_positions, tokens
    convolutions = 2 * N_FRAMES * 3 * config.num_mel_bins * d + 2 * s * 3 * d * d
    encoder = 8 * s * d * d + 4 * s * s * d + 4 * s * d * config.encoder_ffn_dim
    decoder = 12 * t * d * d + 4 * t * t * d + 4 * s * d * d + 4 * t * s * d + 4 * t * d * config.decoder_ffn_dim
    words = 2 * t * d * config.vocab_size
    return convolutions + config.encoder_layers * encoder + config.decoder_layers * decoder + words


def peak_flops() -> tuple[str, float | None]:
    """The device's name, and its dense peak in operations a second; None: not known of this accelerator."""
    kind = jax.devices()[0].device_kind
    for name, peak in PEAK.items():
        if name in kind:
            return kind, peak * len(jax.devices())
    if jax.default_backend() != "cpu":
        return kind, None
    a = np.ones((2048, 2048), np.float32)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return f"{kind}, by BLAS", 2 * 2048**3 / min(times)


def random_model(config: WhisperConfig, dtype: str, remat: Remat) -> Whisper:
    """A model of random weights, quickly."""
    from flax import nnx

    graph, state = nnx.split(Whisper(config, jax.numpy.dtype(dtype), remat=remat))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(
        lambda like: jax.numpy.asarray(rng.standard_normal(like.shape, np.float32) * 0.02, like.dtype), state
    )
    return nnx.merge(graph, filled)


def prepare(
    config: TrainBenchmark, shards: Shards, windows: Literal["packed", "padded"], steps: int
) -> tuple[Any, TrainState, Ahead, RunPlan]:
    """Our step, its state over this process's devices, the batches of so many steps, and their plan."""
    settings = TrainConfig(
        shards=Path(),
        run=Path(),
        batch_size=config.batch_size,
        windows=windows,
        steps=steps,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
    )
    plan = plan_run(shards.index, settings)
    mesh = data_mesh()
    optimizer = make_optimizer(settings, lambda _: jax.numpy.float32(1e-5))
    model = random_model(PUBLISHED[config.model], config.compute_dtype, config.remat)
    state, build = initial_state(model, optimizer, mesh, settings)
    step = make_train_step(build, optimizer, mesh, settings)
    return step, state, Ahead(batches(Windows(shards, plan, PROMPT)), mesh), plan


def our_steps(config: TrainBenchmark, shards: Shards, windows: Literal["packed", "padded"]) -> dict[str, Any]:
    """Our train step over this process's devices, input pipeline included."""
    step, state, ahead, plan = prepare(config, shards, windows, config.steps + 1)
    overlapping = overlaps(TrainConfig(Path(), Path()))
    given: list[Metrics] = []
    ends, tokens, speech, losses = [time.perf_counter()], [], [], []
    for number in range(config.steps + 1):
        batch, _ = ahead.take()
        state, metrics = step(state, batch)
        given.append(metrics)
        if overlapping and number < config.steps:
            ahead.fetch(beside=metrics.loss)
        while len(given) > (overlapping and 0 < number < config.steps):  # the first compiles; the last has to be done
            found = jax.device_get(given.pop(0))
            losses.append(float(found.loss))
            tokens.append(int(found.tokens))
            ends.append(time.perf_counter())
        speech.append(float(shards.index["seconds"][plan.rows_of_step(number)].sum()))
    times = np.diff(ends).tolist()
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "first": times[0],
        "seconds": times[1:],
        "tokens": tokens[1:],
        "speech": speech[1:],
        "loss": losses,
        "memory": stats.get("peak_bytes_in_use", 0),
    }


def measure(config: TrainBenchmark, shards_dir: Path) -> dict[str, Any]:
    """One arm in this process."""
    shards = Shards.open(shards_dir, "train")
    arm = config.arms[0]
    if arm == "peer":
        found = peer_steps(PUBLISHED[config.model], shards, config.batch_size, config.compute_dtype, config.steps)
    else:
        compilation_cache()
        found = our_steps(config, shards, arm)
    found["memory"] = found["memory"] or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def in_turns(config: TrainBenchmark, run: Callable[[str], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The results of each arm, turn by turn."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in config.arms}
    for turn in range(config.turns):
        for arm in config.arms:
            print(f"turn {turn + 1} of {config.turns}: {arm}", file=sys.stderr, flush=True)
            found[arm].append(run(arm))
    return found


def figures(config: TrainBenchmark, turns: list[dict[str, Any]], peak: float | None) -> dict[str, float]:
    """What an arm's turns come to; rates from the median step. No MFU where the device's `peak` is not known."""

    def all_of(name: str) -> list[float]:
        return [value for turn in turns for value in turn[name]]

    seconds = statistics.median(all_of("seconds"))
    tokens = statistics.mean(all_of("tokens"))
    flops = 3 * config.batch_size * forward_flops(PUBLISHED[config.model], tokens / config.batch_size)
    return {
        "step_seconds": seconds,
        "speech_seconds_per_second": statistics.mean(all_of("speech")) / seconds,
        "tokens_per_second": tokens / seconds,
        "windows_per_second": config.batch_size / seconds,
        "peak_memory_gb": max(turn["memory"] for turn in turns) / GB,
        "first_step_seconds": turns[0]["first"],
        **({"mfu": flops / seconds / peak} if peak else {}),
    }


def clips_for(config: TrainBenchmark) -> int:
    """Clips whose packed windows fill the steps of a turn."""
    return max(1000, CLIPS_PER_WINDOW * config.batch_size * (config.steps + 1))


@command
def main() -> None:
    config = tyro.cli(TrainBenchmark, description=__doc__)
    if config.measured:
        print(json.dumps(measure(config, config.measured)))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), config.clips or clips_for(config), n_mels=PUBLISHED[config.model].num_mel_bins)

        def run(arm: str) -> dict[str, Any]:
            words = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], "--arms", arm, "--measured", folder]
            output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found: dict[str, Any] = json.loads(output.splitlines()[-1])
            return found

        found = in_turns(config, run)
    device, peak = peak_flops()
    table = {arm: figures(config, turns, peak) for arm, turns in found.items()}
    print(f"{config.model}, {config.batch_size} windows a step, {config.compute_dtype}, on {device}")
    for name in next(iter(table.values())):
        print(f"  {name:26}" + "".join(f"  {arm} {row[name]:9.3f}" for arm, row in table.items()))
    ratios = {}
    if "peer" in table:
        for arm in [arm for arm in table if arm != "peer"]:
            for name in ("speech_seconds_per_second", "peak_memory_gb"):
                ratios[f"{arm}_to_peer_{name}"] = table[arm][name] / table["peer"][name]
    for name, value in ratios.items():
        print(f"  {name:44}  {value:.2f}")
    unit, ours_first = "speech_seconds_per_second", next((arm for arm in config.arms if arm != "peer"), "")
    ours, peer = (table[arm][unit] if arm in table else None for arm in (ours_first, "peer"))
    more = {"device": device, "peak_flops": peak, "arms": table, **ratios}
    print(result_line(f"train: {ours_first or 'peer alone'}", unit.replace("_", " "), ours or 0.0, peer, more=more))


if __name__ == "__main__":
    main()
