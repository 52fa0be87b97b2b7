"""What whisper.cpp writes with a model file: greedy tokens of given clips, by pywhispercpp.

It is given our log-mel in place of audio (`whisper_set_mel`), so that nothing but the model is compared. A process
of its own, because whisper.cpp ends the process that gives it a file it cannot read.

C clips, M mel bins, F mel frames (3000).

    python -m serving.verify_ggml --model FILE.bin --clips FILE.safetensors --language it
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import _pywhispercpp as whisper
import numpy as np
import tyro
from numpy.typing import NDArray
from safetensors.numpy import load_file

from serving.errors import UserError, command


@dataclass(frozen=True)
class Config:
    """Prints the tokens whisper.cpp writes of each clip as one line of JSON."""

    model: Path
    """A model file in whisper.cpp's format."""
    clips: Path
    """A safetensors file with the clips' `input_features` (C, M, F)."""
    language: str
    """Whisper's code of the language, for example it."""


class Greedy:
    """whisper.cpp, decoding greedily without timestamps, without fallback, and never taking a clip for silence."""

    def __init__(self, path: Path, language: str) -> None:
        self._path = path
        self._context = whisper.whisper_init_from_file_with_params(str(path), whisper.whisper_context_default_params())
        self._params = whisper.whisper_full_default_params(whisper.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
        settings = {
            "n_threads": os.cpu_count() or 1,
            "language": language,
            "no_timestamps": True,
            "single_segment": True,
            "suppress_nst": True,
            "temperature_inc": 0.0,
            "no_speech_thold": 1.0,
            "print_progress": False,
        }
        for name, value in settings.items():
            setattr(self._params, name, value)

    def tokens(self, log_mel_MF: NDArray[np.float32]) -> list[int]:
        """The tokens written of one window. Raises `UserError` where whisper.cpp fails."""
        context, (n_mels, n_frames) = self._context, log_mel_MF.shape
        if whisper.whisper_set_mel(context, np.ascontiguousarray(log_mel_MF).ravel(), n_frames, n_mels):
            raise UserError(f"{self._path}: whisper.cpp takes no log-mel of {n_mels} bins and {n_frames} frames")
        if code := whisper.whisper_full(context, self._params, np.zeros(0, np.float32), 0):
            raise UserError(f"{self._path}: whisper.cpp cannot transcribe with it (code {code})")
        return [
            whisper.whisper_full_get_token_id(context, segment, place)
            for segment in range(whisper.whisper_full_n_segments(context))
            for place in range(whisper.whisper_full_n_tokens(context, segment))
        ]


@command
def main() -> None:
    config = tyro.cli(Config)
    model = Greedy(config.model, config.language)
    found = [model.tokens(log_mel_MF) for log_mel_MF in load_file(config.clips)["input_features"]]
    print(json.dumps({"transcripts": found}), flush=True)


if __name__ == "__main__":
    main()
