"""A Hugging Face Space's app.py: the page with the Space's model, on CPU Basic or on ZeroGPU.

Decision: one file for both, told apart as the package `spaces` does it, by SPACES_ZERO_GPU. On ZeroGPU that package is
installed and has to be imported before PyTorch, as `serving/zerogpu.py` does; nowhere else is it needed.
"""

import os
from pathlib import Path

if os.environ.get("SPACES_ZERO_GPU"):
    from serving.zerogpu import ZeroGPUTranscriber as Transcriber
else:
    from serving.transcribe import Transcriber  # type: ignore[assignment]

from serving.errors import command
from serving.model import quiet_transformers
from serving.port import check_port
from serving.running import run, warm_up
from serving.space_model import model_folder, settings

HERE = Path(__file__).resolve().parent


@command
def main() -> None:
    host = "0.0.0.0" if os.environ.get("SYSTEM") == "spaces" else "127.0.0.1"
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    check_port(host, port)
    quiet_transformers()
    transcriber = Transcriber(model_folder(HERE))
    transcriber.name = settings(HERE)["name"]
    # On ZeroGPU a GPU would have to be lent for it, and to nobody.
    compute = None if os.environ.get("SPACES_ZERO_GPU") else warm_up(transcriber)
    run(transcriber, host, port, compute=compute)


if __name__ == "__main__":
    main()
