"""The page as a command: `run` in `running.py`, once nothing is wrong with what was asked for.

Decision: what can be wrong is looked at before PyTorch and Gradio are imported, which takes ten seconds.

    python -m serving.app --model FOLDER --port 7860
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from serving.errors import command
from serving.model_folder import GENERATION, TOKENIZER, check_folder
from serving.monitor_folder import read_snapshot
from serving.port import check_port


@dataclass(frozen=True)
class Config:
    """Serves a page that transcribes what people record or upload."""

    model: Path
    """A Hugging Face Whisper folder, such as `make export` writes."""
    port: int = 7860
    """The port to listen on."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 opens the page to the network (browsers then want https for the microphone)."""
    share: bool = False
    """Also give a public https link for a week, through gradio.live: what people say then passes through there."""
    monitor: Path | None = None
    """Also show the daily loop's monitor, a folder that `daily.snapshot` writes, in a tab of the page."""


@command
def main() -> None:
    config = tyro.cli(Config)
    check_port(config.host, config.port)
    check_folder(config.model, needs=(TOKENIZER, GENERATION))
    if config.monitor is not None:
        read_snapshot(config.monitor)
    from serving.model import quiet_transformers
    from serving.running import run, warm_up
    from serving.transcribe import Transcriber

    quiet_transformers()
    transcriber = Transcriber(config.model)
    run(transcriber, config.host, config.port, config.share, monitor=config.monitor, compute=warm_up(transcriber))


if __name__ == "__main__":
    main()
