"""Word error rate while training: a fixed subset of a split, by the same decoder and scores as the evaluate command.

The subset is drawn by the run's seed, so that evaluations of a run compare; its first clips are shown as text.
"""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer

from data.errors import UserError
from data.records import Shards
from jax_train.config import TrainConfig
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Params, Whisper
from jax_train.processes import in_any_process, whole
from jax_train.runlog import RunLog
from jax_train.scores import scores
from jax_train.step import TrainState
from jax_train.transcribe import transcribe

SHOWN = 8  # transcripts
SCORES = ("wer", "wer_normalised", "cer", "cer_normalised")


def chosen_rows(index: dict[str, np.ndarray], clips: int, seed: int) -> np.ndarray:
    """Index rows of `clips` clean clips drawn by `seed`, in the shards' order; 0: all."""
    clean = np.flatnonzero(index["copy"] == 0)
    drawn = np.random.default_rng([seed, len(clean)]).permutation(clean)
    return np.sort(drawn[: clips or None])


class Evaluation:
    """Scores a run's state on its evaluation split. Every process of a run scores all of the clips."""

    def __init__(self, config: TrainConfig, folder: Path, build: Callable[[Params, Params], Whisper]) -> None:
        self._config, self._build = config, build
        self._shards = Shards.open(config.shards, config.eval_split)
        self._rows = chosen_rows(self._shards.index, config.eval_clips, config.seed)
        if not len(self._rows):
            raise UserError(f"{self._shards.folder}: no clips to evaluate on; see its rejected.tsv")
        self._rules = DecodingRules.from_folder(folder, config.language)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
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
        """Score the state after `step` into `log`. Of a run that averages its parameters, the average is scored."""
        started = time.perf_counter()
        params = {name: whole(value) for name, value in (state.params | (state.ema or {})).items()}
        model = self._build(params, {name: whole(value) for name, value in state.buffers.items()})
        if self._decoder:
            self._decoder.take(model)
        else:
            devices = jax.local_devices()
            self._decoder = BatchDecoder(model, self._rules, self._config.eval_batch_size * len(devices), devices)
        transcripts = transcribe(self._shards, self._rows, self._decoder, self._tokenizer, leave=False)
        references, hypotheses = [t.reference for t in transcripts], [t.text for t in transcripts]
        self._decoder.state = None  # the next step consumes the arrays
        del model, params
        gc.collect()  # Flax holds them in circles, merged matrices too
        found = scores(references, hypotheses)
        values = {name: found[name] for name in (*SCORES, "normaliser")} | {"clips": len(self._rows)}
        log.evaluation(step, values, self._shown(references, hypotheses), time.perf_counter() - started)

    def _shown(self, references: Sequence[str], hypotheses: Sequence[str]) -> str:
        """The first clips' sentences and transcripts as a Markdown table."""
        ids = self._shards.index["id"][self._rows[:SHOWN]].tolist()
        lines = [f"| {' | '.join(row)} |" for row in zip(ids, references, hypotheses, strict=False)]
        return "\n".join(["| clip | reference | hypothesis |", "| --- | --- | --- |", *lines])
