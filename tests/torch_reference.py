"""Hugging Face's PyTorch Whisper beside ours, on the same weights and batches: the truth for the model's tests."""

from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from transformers import WhisperConfig as HFConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from jax_train.windows import IGNORE

SMALL = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "vocab_size": 512,
    "pad_token_id": 500,
    "bos_token_id": 500,
    "eos_token_id": 500,
    "decoder_start_token_id": 501,
    "begin_suppress_tokens": None,
    "suppress_tokens": None,
}
"""A Whisper of 0.4 M parameters: fast, and every part of the architecture is there more than once."""


SHALLOW = {"encoder_layers": 1, "decoder_layers": 1}
"""Half the time to compile, for tests of what does not know of layers."""


def small_model_dir(folder: Path, n_mels: int = 80, seed: int = 0, **changes: int) -> Path:
    """A small random Whisper, saved by Hugging Face itself; weights as large as trained ones, so that errors show."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(HFConfig(num_mel_bins=n_mels, **SMALL | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.3))
    model.save_pretrained(folder)
    return folder


def load_torch(folder: Path) -> WhisperForConditionalGeneration:
    """The folder's model in PyTorch float32, attention written out (eager)."""
    return WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def speech_features(corpus: Path, names: list[str], n_mels: int = 80) -> np.ndarray:
    """Real clips through Hugging Face's own extractor: float32 (B, F, M)."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    clips = []
    for name in names:
        audio, rate = soundfile.read(corpus / "clips" / name, dtype="float32")
        clips.append(soxr.resample(audio, rate, 16_000))
    return extractor(clips, sampling_rate=16_000, return_tensors="np").input_features.transpose(0, 2, 1)


def random_tokens(rng: np.random.Generator, batch: int, length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Decoder inputs and labels (B, L) with ends of different lengths ignored."""
    sequence = rng.integers(0, vocab_size, (batch, length + 1)).astype(np.int32)
    tokens, labels = sequence[:, :-1], sequence[:, 1:].copy()
    for row in range(batch):
        labels[row, length - 5 * (row + 1) :] = IGNORE
    return tokens, labels


def torch_loss(
    model: WhisperForConditionalGeneration, log_mel: np.ndarray, tokens: np.ndarray, labels: np.ndarray
) -> torch.Tensor:
    """PyTorch's mean cross-entropy over the labels that are not ignored."""
    logits = model(
        input_features=torch.from_numpy(log_mel.transpose(0, 2, 1).copy()),
        decoder_input_ids=torch.from_numpy(tokens).long(),
    ).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).long().flatten())
