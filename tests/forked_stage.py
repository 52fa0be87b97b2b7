"""Commands of the daily loop as forks of one process that has imported all they need: seconds less for each.

`warm()` imports, `Forked` stands in for `subprocess.Popen` in `daily.commands`. Each command still is a process of its
own with arguments of its own, run as `python -m` runs it.
"""

import contextlib
import importlib
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MODULES = (
    *(f"daily.{name}" for name in ("confidence", "features", "inference", "snapshot", "training")),
    *(f"jax_train.{name}" for name in ("compare", "curves", "evaluate", "export", "train")),
    "serving.batch",
    # What these import when they first need it.
    "mlflow",
    "orbax.checkpoint",
    "sklearn.ensemble",
    "torch",
    "transformers.models.whisper.english_normalizer",
    "transformers.models.whisper.modeling_whisper",
)


def warm() -> None:
    """Import what the commands import. No library may have started its threads: they would not be in a fork."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    warnings.simplefilter("ignore")  # JAX warns of every fork
    for name in MODULES:
        importlib.import_module(name)


class Forked:
    """A running command, as far as `daily.commands` looks at one."""

    begins: Callable[[str], None] = staticmethod(lambda _: None)
    """Called in the new process with its module's name."""

    def __init__(self, command: Sequence[str], stderr: int, close_fds: bool, env: Mapping[str, str] | None) -> None:
        del stderr, close_fds  # a pipe, and everything is inherited: that is what a fork does
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            os.dup2(writing, 2)
            os.close(writing)
            _become(command, env)
        os.close(writing)
        self.stderr = open(reading, "rb")  # noqa: SIM115, PTH123

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def _become(command: Sequence[str], env: Mapping[str, str] | None) -> None:
    """Run `python -m MODULE …` in this process, and end it."""
    code: Any = 1
    try:
        os.environ.update(env or {})
        name = command[command.index("-m") + 1]
        Forked.begins(name)
        sys.argv = [name, *command[command.index("-m") + 2 :]]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
