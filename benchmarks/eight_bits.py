"""What eight bits a value cost: Whisper base on the same real clips from float32 features and from the shards' uint8.

`make bench-eight_bits`. The float32 features are Hugging Face's own, the model is Hugging Face's PyTorch: word error
rates of greedy transcripts, and the largest difference of the logits along the reference sentence.
"""

from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
import tyro
from tqdm import tqdm
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from benchmarks.result import result_line
from data.audio import decode, resample
from data.log_mel import log_mel, pad_to_window, quantize, restore
from data.sources import read_split
from jax_train.pretrained import fetch_base

MOST_TOKENS = 100  # the sentences have fewer


@dataclass(frozen=True)
class EightBitsBenchmark:
    """Compare float32 and uint8 features."""

    source: str = "sample/it"
    split: str = "test"
    language: str = "it"
    batch_size: int = 8
    limit: int | None = None


@torch.no_grad()
def main(config: EightBitsBenchmark) -> None:
    """Print both error rates and the largest differences."""
    folder = str(fetch_base(Path(".cache/models")))
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder, language=config.language, task="transcribe")
    clips = read_split(config.source, config.split).clips[: config.limit]
    said: dict[str, list[str]] = {"float32": [], "uint8": []}
    feature_difference = logit_difference = 0.0
    for start in tqdm(range(0, len(clips), config.batch_size), unit="batch"):
        batch = clips[start : start + config.batch_size]
        audio = [resample(*decode(clip.audio.load(), clip.start, clip.length, clip.id)) for clip in batch]
        features = {"float32": theirs(audio), "uint8": ours(audio)}
        feature_difference = max(feature_difference, float((features["float32"] - features["uint8"]).abs().max()))
        labels = processor.tokenizer([" " + clip.sentence for clip in batch], padding=True, return_tensors="pt")
        keep = labels.attention_mask.bool()[..., None]
        logits = {
            kind: model(input_features=each, decoder_input_ids=labels.input_ids).logits
            for kind, each in features.items()
        }
        logit_difference = max(logit_difference, float(((logits["float32"] - logits["uint8"]).abs() * keep).max()))
        for kind, each in features.items():
            tokens = model.generate(each, language=config.language, task="transcribe", max_new_tokens=MOST_TOKENS)
            said[kind] += processor.batch_decode(tokens, skip_special_tokens=True)
    normalise = BasicTextNormalizer()
    references = [clip.sentence for clip in clips]
    error = {}
    for kind, texts in said.items():
        as_written = jiwer.wer(references, [text.strip() for text in texts])
        normalised = jiwer.wer([*map(normalise, references)], [*map(normalise, texts)])
        error[kind] = 100 * normalised
        print(f"{kind:>8}: WER {100 * normalised:.2f} % normalised, {100 * as_written:.2f} % as written")
    different = sum(a != b for a, b in zip(said["float32"], said["uint8"], strict=True))
    print(f"transcripts that differ: {different} of {len(clips)}")
    print(
        f"largest difference of a feature {feature_difference:.4f} (1/255 is 0.0039), of a logit {logit_difference:.3f}"
    )
    more = {"different": different, "largest_feature_difference": feature_difference}
    figures = error["uint8"], error["float32"]
    print(result_line("eight_bits", "% WER normalised", *figures, less_is_better=True, more=more))


def theirs(audio: list[np.ndarray]) -> torch.Tensor:
    """Hugging Face's features."""
    found: torch.Tensor = WhisperFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="pt").input_features
    return found


def ours(audio: list[np.ndarray]) -> torch.Tensor:
    """What comes back from a shard."""
    windows = [pad_to_window(restore(*quantize(log_mel(audio_N, 80)))) for audio_N in audio]
    return torch.from_numpy(np.stack(windows).transpose(0, 2, 1).copy())


if __name__ == "__main__":
    main(tyro.cli(EightBitsBenchmark, prog="python -m benchmarks.eight_bits"))
