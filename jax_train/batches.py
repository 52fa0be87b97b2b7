"""Shards to device batches, by Grain: random access over the index, a prefetching thread, a resumable position.

The sequence of global batches depends on (seed, epoch, global batch size) alone: each process takes its own columns
of it, however many there are.
"""

import dataclasses
import functools
import math
import signal
import time
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from data.errors import UserError
from data.records import Shards
from jax_train.config import TrainConfig
from jax_train.sharding import WINDOWS
from jax_train.windows import EpochPlan, Prompt, Window, assemble, label_length, plan_epoch

PREFETCHED_BATCHES = 2
SILENT_SECONDS = 2.0  # of planning, before there is a bar


class PlannedWindow(NamedTuple):
    """What a window of a global batch is made of; nothing past an epoch's end."""

    rows: np.ndarray
    """Index rows of its clips."""
    timestamps: bool
    """Whether its labels carry timestamps."""
    previous: np.ndarray
    """Index rows of the clips whose text the decoder reads first."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """All windows of a run, epoch by epoch."""

    epochs: list[EpochPlan]
    label_length: int
    """L, the same for every window of the run."""
    steps: int
    """Global batches to train on; an epoch's last one is completed with empty windows."""
    batch_size: int

    def steps_per_epoch(self) -> list[int]:
        """Global batches of each planned epoch."""
        return [-(-len(epoch) // self.batch_size) for epoch in self.epochs]

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """The steps that are done at each epoch's end."""
        return np.cumsum(self.steps_per_epoch())

    def window(self, step: int, column: int) -> PlannedWindow:
        """The window in a column of a global batch."""
        number = int(np.searchsorted(self._ends, step, side="right"))
        epoch = self.epochs[number]
        window = (step - (int(self._ends[number - 1]) if number else 0)) * self.batch_size + column
        if window >= len(epoch):
            none = np.zeros(0, np.int64)
            return PlannedWindow(none, False, none)
        return PlannedWindow(epoch.rows[window], bool(epoch.timestamps[window]), epoch.previous(window))

    def rows_of_step(self, step: int) -> np.ndarray:
        """Index rows of all the clips of a global batch."""
        return np.concatenate([self.window(step, column).rows for column in range(self.batch_size)])


def plan_run(index: dict[str, np.ndarray], config: TrainConfig) -> RunPlan:
    """The plan for `config.steps` steps, or for `config.epochs` passes over the clips."""

    def plan(epoch: int, **limit: int) -> EpochPlan:
        return plan_epoch(
            index,
            seed=config.seed,
            epoch=epoch,
            windows=config.windows,
            timestamps=config.timestamps,
            single=config.single,
            prompts=config.prompt_share,
            **limit,
        )

    if not len(index["id"]):
        raise UserError(f"{config.shards}: the {config.split} split holds no clip; see its rejected.tsv")
    first = plan(0)
    length = label_length(first, index)
    epochs: list[EpochPlan] = []
    steps = 0.0
    about = config.steps / -(-len(first) // config.batch_size) if config.steps else config.epochs
    with tqdm(
        desc="plan", unit="epoch", total=math.ceil(about), delay=SILENT_SECONDS, disable=jax.process_index() > 0
    ) as bar:
        while len(epochs) < config.epochs if not config.steps else steps < config.steps:
            epochs.append(plan(len(epochs), max_tokens=length))
            share = 1.0 if config.steps else min(1.0, config.epochs - (len(epochs) - 1))
            steps += share * -(-len(epochs[-1]) // config.batch_size)
            bar.update()
    return RunPlan(epochs, length, config.steps or max(1, round(steps)), config.batch_size)


class Windows:
    """Random access to this process's windows of a run, in training order."""

    def __init__(self, shards: Shards, plan: RunPlan, prompt: Prompt, process: int = 0, processes: int = 1) -> None:
        if plan.batch_size % processes:
            raise UserError(f"--batch-size {plan.batch_size} does not divide by {processes} processes")
        self._shards, self._plan, self._prompt = shards, plan, prompt
        self._n_mels = int(shards.manifest["features"]["n_mels"])
        self.local_batch = plan.batch_size // processes
        self._first = process * self.local_batch

    def __len__(self) -> int:
        return self._plan.steps * self.local_batch

    def __getitem__(self, position: int) -> Window:
        step, column = divmod(int(position), self.local_batch)
        planned = self._plan.window(step, self._first + column)
        records, previous = ([self._shards[int(row)] for row in rows] for rows in (planned.rows, planned.previous))
        length = self._plan.label_length
        return assemble(records, planned.timestamps, self._prompt, self._n_mels, length, previous)


def batches(windows: Windows, workers: int = 0) -> Any:
    """A Grain iterator over this process's part of the global batches; `get_state` and `set_state` resume it.

    They are read by a thread of this process, or by `workers` processes; the batches are the same.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCHED_BATCHES)
    dataset = grain.MapDataset.source(windows).batch(windows.local_batch).to_iter_dataset(options)
    if workers:
        no_absl_flags()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, PREFETCHED_BATCHES), start_worker)
    return iter(dataset)


def no_absl_flags(*_: int) -> None:
    """Grain's processes ask absl for flags, which raises in a program that never let absl parse its command line."""
    flags.FLAGS.mark_as_parsed()


def start_worker(*_: int) -> None:
    """In each of Grain's processes: Ctrl-C reaches them too, and they must serve until the running step is saved."""
    no_absl_flags()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Ahead:
    """A run's global batches on the devices, the next one on its way before it is asked for."""

    def __init__(self, iterator: Any, mesh: Mesh) -> None:
        self._iterator, self._mesh = iterator, mesh
        self._next: Window | None = None
        self._position: Any = None
        self._waited = 0.0

    def take(self) -> tuple[Window, float]:
        """The next batch, and the seconds that the devices waited for it."""
        asked = time.perf_counter()
        batch = self._next or to_devices(next(self._iterator), self._mesh)
        waited, self._waited, self._next = self._waited + time.perf_counter() - asked, 0.0, None
        return batch, waited

    def fetch(self, beside: jax.Array) -> None:
        """Send the next batch on its way; the time counts as waited for if the step that gives `beside` ended in it."""
        asked = time.perf_counter()
        self._position = self._iterator.get_state()
        self._next = to_devices(next(self._iterator), self._mesh)
        self._waited = time.perf_counter() - asked if beside.is_ready() else 0.0  # type: ignore[attr-defined]

    def get_state(self) -> Any:
        """The position after the last batch taken, as a checkpoint holds it."""
        return self._iterator.get_state() if self._next is None else self._position

    def set_state(self, state: Any) -> None:
        """Go on from that position."""
        self._iterator.set_state(state)
        self._next = None


def to_devices(batch: Window, mesh: Mesh) -> Window:
    """The process's batch as global arrays, split over the mesh's devices."""
    sharding = NamedSharding(mesh, WINDOWS)
    return Window(*(jax.make_array_from_process_local_data(sharding, array) for array in batch))
