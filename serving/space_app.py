"""A Hugging Face Space's app.py: the page with the Space's model, on CPU Basic or on ZeroGPU.

Decision: one file for both, told apart as `spaces` itself does it, by SPACES_ZERO_GPU. That package has to come before
PyTorch, which it keeps from CUDA until a GPU is lent (`serving/zerogpu.py`).
"""

import os
from pathlib import Path

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401

from serving.app import check_port, run, warm_up
from serving.errors import command
from serving.model import quiet_transformers
from serving.space_model import model_folder, settings
from serving.transcribe import Transcriber

HERE = Path(__file__).resolve().parent


@command
def main() -> None:
    host = "0.0.0.0" if os.environ.get("SYSTEM") == "spaces" else "127.0.0.1"
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    check_port(host, port)
    quiet_transformers()
    transcriber = Transcriber(model_folder(HERE))
    transcriber.name = settings(HERE)["name"]
    warm_up(transcriber)
    run(transcriber, host, port)


if __name__ == "__main__":
    main()
