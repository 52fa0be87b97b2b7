"""Errors a user can mend, and the one place that turns them into a line and an exit code.

The same few lines as `data.errors`, on purpose: serving runs where no other package of the project is installed.
"""

import functools
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
    """`main` that ends a `UserError` as one line on standard error and exit code 2, an interrupt as 130."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)

    return run
