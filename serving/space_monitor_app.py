"""A monitor Space's app.py: the snapshot beside it as a page."""

import os
from pathlib import Path

from serving.errors import command
from serving.monitor import run


@command
def main() -> None:
    host = "0.0.0.0" if os.environ.get("SYSTEM") == "spaces" else "127.0.0.1"
    run(Path(__file__).resolve().parent / "monitor", host, int(os.environ.get("GRADIO_SERVER_PORT", "7860")))


if __name__ == "__main__":
    main()
