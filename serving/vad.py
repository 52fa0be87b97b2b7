"""Where somebody speaks: silero-vad's network, on a recording of any length.

Decision: the weights come from the `silero-vad` package, the network is written out here. The package runs it one chunk
of 32 ms at a time, which takes 14 × as long, and its import sets PyTorch to one thread for the whole process. A test
compares the probabilities with the package's own. (Its weights as safetensors are an older generation's.)

N samples, C chunks (512 samples: 32 ms), D features (128).
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad, relu

from serving.errors import StoppedError, UserError

CHUNK, CONTEXT = 512, 64  # samples at 16 kHz: a chunk, and what of the one before is seen with it
BLOCK = 60 * 16_000 // CHUNK  # chunks at a time
STRIDES = (1, 2, 2, 1)  # of the encoder's convolutions


class VoiceActivity:
    """The probability of speech in each 32 ms of a recording."""

    def __init__(self) -> None:
        weights = _weights()
        self.fourier = weights["stft.forward_basis_buffer"]
        self.convolutions = [
            (weights[f"encoder.{i}.reparam_conv.weight"], weights[f"encoder.{i}.reparam_conv.bias"], stride)
            for i, stride in enumerate(STRIDES)
        ]
        self.lstm = nn.LSTM(128, 128).eval().requires_grad_(False)
        self.lstm.load_state_dict(
            {f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        )
        self.last = weights["decoder.decoder.2.weight"], weights["decoder.decoder.2.bias"]

    @torch.inference_mode()
    def __call__(self, audio_N: NDArray[np.float32], stopped: Callable[[], bool]) -> NDArray[np.float32]:
        """Probabilities (C,). A minute at a time is read, of a memory map too."""
        found, before_N, state = [], np.zeros(CONTEXT, np.float32), None
        for start in range(0, audio_N.size, BLOCK * CHUNK):
            if stopped():
                raise StoppedError
            block_N = np.asarray(audio_N[start : start + BLOCK * CHUNK])
            block_N = np.concatenate([before_N, block_N, np.zeros(-block_N.size % CHUNK, np.float32)])
            before_N = block_N[-CONTEXT:]
            features_CD = self._features(torch.from_numpy(block_N).unfold(0, CONTEXT + CHUNK, CHUNK))
            hidden_CD, state = self.lstm(features_CD, state)
            found.append(conv1d(relu(hidden_CD)[..., None], *self.last).sigmoid().flatten().numpy())
        return np.concatenate(found)

    def _features(self, chunks_CN: Tensor) -> Tensor:
        """(C, D) of chunks with their context: magnitudes of a Fourier transform, four convolutions."""
        spectrum = conv1d(pad(chunks_CN[:, None], (0, CONTEXT), "reflect"), self.fourier, stride=128)
        real, imaginary = spectrum.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for weight, bias, stride in self.convolutions:
            x = relu(conv1d(x, weight, bias, stride=stride, padding=1))
        return x.squeeze(-1)


def _weights() -> dict[str, Tensor]:
    package = find_spec("silero_vad")  # found, not imported: see above
    if package is None or not package.submodule_search_locations:
        raise UserError("the package silero-vad is not installed: pip install silero-vad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
        archive = torch.jit.load(Path(package.submodule_search_locations[0]) / "data" / "silero_vad.jit")
    model = "_model."
    return {name.removeprefix(model): x for name, x in archive.state_dict().items() if name.startswith(model)}
