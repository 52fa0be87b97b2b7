"""A run killed at random moments: `python -m tests.killed_run CONFIG.pickle KILLS SEED`, the config a `TrainConfig`.

Everything is imported once; each attempt is a fork, made before JAX starts its threads, so that it costs a run's own
start alone. Of the kills every fifth waits for a checkpoint that is being written; the others come at a moment drawn
from the whole life of an attempt, its start included. The last attempt is left alone. Prints where they struck.
"""

import json
import os
import pickle
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

from jax_train.checkpoint_files import PARTIAL, steps_in
from jax_train.config import TrainConfig, compilation_cache
from jax_train.runlog import read_rows
from jax_train.train import train

REPOSITORY = Path(__file__).resolve().parent.parent
LIFE_SECONDS = 6.0  # the longest that an attempt is left alive: its start and some steps
START_SECONDS = 2.0  # the same for one that is ahead of its share
PATIENCE_SECONDS = 60.0  # for a checkpoint to be begun
LEFT_SAVES = 4  # checkpoints that the kills leave to the last attempt, two of them for those that strike too late


def main() -> None:
    path, kills, seed = sys.argv[1:]
    config: TrainConfig = pickle.loads(Path(path).read_bytes())
    compilation_cache(REPOSITORY / ".cache" / "jax")
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX is imported, and has started no thread
    moments = random.Random(int(seed))
    struck = []
    for number in range(int(kills)):
        child = start(config)
        if number % 5 == 4:
            wait_for_writing(child, config.run)
        else:
            share = (config.steps - LEFT_SAVES * config.save_steps) * (number + 1) / int(kills)
            wait_for_moment(config, share, moments.random())
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"attempt {number} ended by itself with {status}; {struck}")
        struck.append((len(read_rows(config.run)), steps_in(config.run / "checkpoints"), partial(config.run)))
    _, status = os.waitpid(start(config), 0)
    if status:
        sys.exit(f"the last attempt ended with {status}; {struck}")
    print(json.dumps(struck))


def start(config: TrainConfig) -> int:
    """The process id of a fork that trains."""
    if child := os.fork():
        return child
    status = 1
    try:
        train(config)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def partial(run: Path) -> list[str]:
    """What stands half written."""
    return sorted(path.name for path in (run / "checkpoints").glob(f"*{PARTIAL}*"))


def wait_for_moment(config: TrainConfig, share: float, moment: float) -> None:
    """Return at the moment, 0 to 1, of an attempt's life, or once checkpoints are beyond its share of the steps."""
    seconds = START_SECONDS if newest(config.run) >= share else LIFE_SECONDS
    end = time.monotonic() + moment * seconds
    while time.monotonic() < end and newest(config.run) < share + config.save_steps:
        time.sleep(0.001)


def newest(run: Path) -> int:
    return max(steps_in(run / "checkpoints"), default=0)


def wait_for_writing(child: int, run: Path) -> None:
    """Return once the child is writing a checkpoint."""
    before = partial(run)
    end = time.monotonic() + PATIENCE_SECONDS
    while partial(run) in ([], before):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            sys.exit("no checkpoint was begun")
        time.sleep(0.001)


if __name__ == "__main__":
    main()
