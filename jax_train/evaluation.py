"""Word error rate while training: a fixed subset of a split, by the same decoder and scores as the evaluate command.

The subset is drawn by the run's seed, so that evaluations of a run compare; its first clips are shown as text.
"""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data.errors import UserError
from data.records import Shards
from data.tokens import load_tokenizer
from jax_train.config import TrainConfig
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Params, Whisper
from jax_train.preemption import StopRequest
from jax_train.processes import in_any_process, of_all_processes, whole
from jax_train.runlog import RunLog
from jax_train.scores import NORMALISER, SCORES, scores
from jax_train.step import TrainState
from jax_train.suited_shards import check_suited
from jax_train.transcribe import transcribe

SHOWN = 8  # transcripts


def chosen_rows(index: dict[str, np.ndarray], clips: int, seed: int) -> np.ndarray:
    """Index rows of `clips` clean clips drawn by `seed`, in the shards' order; 0: all."""
    clean = np.flatnonzero(index["copy"] == 0)
    drawn = np.random.default_rng([seed, len(clean)]).permutation(clean)
    return np.sort(drawn[: clips or None])


class Evaluation:
    """Scores a run's state on its evaluation split. Every process of a run scores all of the clips."""

    def __init__(
        self, config: TrainConfig, folder: Path, build: Callable[[Params, Params], Whisper], stop: StopRequest
    ) -> None:
        self._config, self._build, self._stop = config, build, stop
        self._shards = Shards.open(config.shards, config.eval_split)
        self._rows = chosen_rows(self._shards.index, config.eval_clips, config.seed)
        if not len(self._rows):
            raise UserError(f"{self._shards.folder}: no clips to evaluate on; see its rejected.tsv")
        self._tokenizer = load_tokenizer(str(folder))
        check_suited(self._shards, config, folder, self._tokenizer)
        self._rules = DecodingRules.from_folder(folder, config.language)
        self._decoder: BatchDecoder | None = None

    def due(self, step: int, last: bool, log: RunLog) -> bool:
        """Whether the state after `step` is to be scored, as steps and the share of time allow.

        Beyond the share are only a run's first evaluation, as nobody knows yet how long it takes, and the last.
        """
        if last or step == 0 or step % self._config.eval_steps:
            return last
        seconds = log.last_evaluation_seconds
        return not in_any_process(seconds > 0 and log.eval_share_after(seconds) > self._config.max_eval_share)

    def run(self, state: TrainState, step: int, log: RunLog) -> None:
        """Score the state after `step` into `log`, if not stopped before; the first process's scores are everybody's.

        Of a run that averages its parameters, the average is scored.
        """
        started = time.perf_counter()
        model = self._whole(state)
        found: tuple[list[float], str] | None = None
        with self._stop.breakable():
            found = self._scored(model)
        if self._decoder:
            self._decoder.state = None  # the next step consumes the arrays
        del model
        gc.collect()  # Flax holds them in circles, merged matrices too
        values, shown = found or ([0.0] * len(SCORES), "")
        seconds, *values = of_all_processes(time.perf_counter() - started if found else 0.0, *values)[0].tolist()
        if seconds:
            scored = dict(zip(SCORES, values, strict=True)) | {"normaliser": NORMALISER, "clips": len(self._rows)}
            log.evaluation(step, scored, shown, seconds)

    def _whole(self, state: TrainState) -> Whisper:
        """The model on each device of this process, in the type it computes in. All processes take part."""
        graph, arrays = nnx.split(self._build(state.params | (state.ema or {}), state.buffers))
        dtype = jnp.dtype(self._config.compute_dtype)
        return nnx.merge(graph, jax.tree.map(lambda array: whole(array.astype(dtype)), arrays))

    def _scored(self, model: Whisper) -> tuple[list[float], str]:
        """The `SCORES`, and the first transcripts for people."""
        if self._decoder:
            self._decoder.take(model)
        else:
            devices = jax.local_devices()
            self._decoder = BatchDecoder(model, self._rules, self._config.eval_batch_size * len(devices), devices)
        transcripts = transcribe(self._shards, self._rows, self._decoder, self._tokenizer, leave=False)
        references, hypotheses = [t.reference for t in transcripts], [t.text for t in transcripts]
        found = scores(references, hypotheses)
        return [float(found[name]) for name in SCORES], self._shown(references, hypotheses)

    def _shown(self, references: Sequence[str], hypotheses: Sequence[str]) -> str:
        """The first clips' sentences and transcripts as a Markdown table."""
        ids = self._shards.index["id"][self._rows[:SHOWN]].tolist()
        lines = [f"| {' | '.join(row)} |" for row in zip(ids, references, hypotheses, strict=False)]  # ids are SHOWN
        return "\n".join(["| clip | reference | hypothesis |", "| --- | --- | --- |", *lines])
