"""Errors a user can mend, and the one place that turns them into a line and an exit code.

Much the same lines as in `data.errors`, on purpose: serving runs where no other package of the project is installed.
"""

import functools
import io
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Wrong input: the message names the item, the value, what was allowed and what to do."""


class AudioError(UserError):
    """A recording that cannot be transcribed; each kind has a class, which the page puts into words."""


class StoppedError(Exception):
    """The caller asked to stop, and the work has stopped; no fault of anyone's."""


def never() -> bool:
    """Nobody stops the work."""
    return False


def command(main: Callable[[], None]) -> Callable[[], None]:
    """`main` that ends a `UserError` as one line on standard error and exit code 2, an interrupt as 130.

    Whoever reads its output may go at any time: that is 141, as of a program which the closed pipe ends. What the
    output's encoding lacks is written by its number, as on standard error.
    """

    @functools.wraps(main)
    def run() -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            main()
        except UserError as error:
            print("error:", *str(error).splitlines(), file=sys.stderr)  # a file's name may have line breaks
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes there once more when it ends
            sys.exit(141)
        except KeyboardInterrupt:
            sys.exit(130)

    return run
