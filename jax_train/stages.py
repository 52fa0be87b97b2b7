"""Commands run one after the other, each in a process of its own, as a user would; they meet in files."""

import subprocess
import sys

from data.errors import UserError


def stage(title: str, module: str, *arguments: object) -> str:
    """Run a command, show it, and give the last line of its output. Raises `UserError` where it fails."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n== {title}\n$ python -m {' '.join(words[2:])}", flush=True)
    lines = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode:
        raise UserError(f"stage '{title}' ended with exit code {process.returncode}; its message stands above")
    return lines[-1] if lines else ""
