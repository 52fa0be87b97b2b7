"""Errors a user can mend, and the one place that turns them into a line and an exit code.

Everything else is a bug and keeps its traceback.
"""

import errno
import functools
import io
import sys
from collections.abc import Callable

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""A disk that is full, or a share of one, or that cannot be written on."""


class UserError(Exception):
    """Wrong input: the message names the item, the value, what was allowed and what to do."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """`main` whose `UserError` or full disk is one line on standard error and exit code 2, an interrupt 130.

    What the output's encoding lacks is written by its number, as on standard error.
    """

    @functools.wraps(main)
    def run() -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror}; make room and run the same command again", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted: run the same command again to continue", file=sys.stderr)
            sys.exit(130)

    return run
