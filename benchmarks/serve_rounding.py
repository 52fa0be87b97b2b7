"""What the page's shortcuts cost in words: silence of which few positions are kept, products in bfloat16 and 8 bits.

The engine with none, with silence thinned by each of `strides`, with each kind of product, and as it is, on the same
real clips. WER moves by a point with one long clip in which the model writes digits or words for numbers, of which any
rounding may pick the other. Finer is what no such choice comes into: along the sentences themselves, the nats by which
the next token's distribution is from that of float32 (Kullback and Leibler's divergence), the silence thinned alike.

    make bench-serve_rounding [ARGS="--clips 10"]
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import tyro
from tqdm import tqdm

from benchmarks.corpus import SAMPLE
from benchmarks.result import result_line
from data.audio import decode, resample
from data.errors import command
from data.sources import read_split
from jax_train.pretrained import fetch_base, model_folder
from jax_train.scores import scores
from serving import products, pytorch
from serving.errors import never
from serving.media import SAMPLE_RATE
from serving.transcribe import Transcriber
from serving.transcript import Options

EIGHT, HALF = "has_eight_bits", "has_bfloat16"
THINNED, WHOLE, AS_IT_IS = "thinned, float32", "whole windows, float32", "as the page does here"


@dataclass(frozen=True)
class RoundingBenchmark:
    """WER of the page's engine with and without its shortcuts."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    clips: int = 0
    """Only the first test clips; 0: all 83."""
    strides: tuple[int, ...] = (16,)
    """Other thinnings to try: of the silence each so-many-th position is kept."""
    language: str = "it"


def arms(strides: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """What each sets in `serving.pytorch` and `serving.products`."""
    thinned = {"STRIDE": pytorch.STRIDE, EIGHT: False, HALF: False}
    found = {THINNED: thinned, WHOLE: thinned | {"STRIDE": pytorch.POSITIONS}}
    found |= {f"every {stride}th position of silence, float32": thinned | {"STRIDE": stride} for stride in strides}
    found["thinned, bfloat16"] = thinned | {HALF: True}
    found["thinned, 8 bits"] = thinned | {EIGHT: True}
    found["thinned, 8 bits and 7 of inputs"] = thinned | {EIGHT: True, "_processor_has": False}
    return found | {AS_IT_IS: {}}


def transcriber(folder: Path, settings: dict[str, Any], stack: ExitStack) -> Transcriber:
    """The page's, under those settings for as long as the stack is."""
    for name, value in settings.items():
        module = pytorch if hasattr(pytorch, name) else products
        stack.enter_context(patch.object(module, name, value if name == "STRIDE" else lambda _, value=value: value))
    return Transcriber(folder)


@torch.inference_mode()
def log_probabilities(own: Transcriber, audio_N: np.ndarray, sentence: str, language: str) -> torch.Tensor:
    """Of every token (L, V) at each place of the sentence, and at its end."""
    engine, vocabulary = own.engine, own.vocabulary
    assert isinstance(engine, pytorch.PyTorchWhisper)
    log_mel_BMF = own.features([audio_N], sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    heard, cache = engine.hear(log_mel_BMF, [audio_N.size], never), engine._cache(1)
    tokens = vocabulary.tokenizer.encode(f" {sentence}", add_special_tokens=False).ids
    given = [vocabulary.prompt(language, "transcribe", timestamps=False), *([token] for token in tokens)]
    return torch.cat([engine._logits(torch.tensor([some]), cache, heard).log_softmax(-1) for some in given])


@command
def main() -> None:
    config = tyro.cli(RoundingBenchmark, description=__doc__)
    folder = model_folder(config.model) if config.model else fetch_base(Path(".cache/models"))
    clips = read_split(str(SAMPLE), "test").clips[: config.clips or None]
    audio = [(resample(*decode(clip.audio.load())), clip.sentence) for clip in clips]
    exact: list[torch.Tensor] = []
    table = {}
    for name, settings in arms(config.strides).items():
        with ExitStack() as stack:
            own = transcriber(folder, settings, stack)
            texts, found_LV = [], []
            for audio_N, sentence in tqdm(audio, unit="clip", desc=name):
                texts.append(own.transcribe_audio(audio_N, Options(config.language)).text)
                found_LV.append(log_probabilities(own, audio_N, sentence, config.language))
        exact = exact or found_LV
        away = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(exact, found_LV, strict=True)])
        found = scores([sentence for _, sentence in audio], texts)
        table[name] = {figure: found[figure] for figure in ("wer_normalised", "wer")} | {"nats": float(away.mean())}
        print(f"{name:48}" + "".join(f"  {figure} {value:.5f}" for figure, value in table[name].items()), flush=True)
    whole, ours = (table[name]["wer_normalised"] for name in (WHOLE, AS_IT_IS))
    print(result_line("serve_rounding", "% WER normalised", ours, whole, less_is_better=True, more={"arms": table}))


if __name__ == "__main__":
    main()
