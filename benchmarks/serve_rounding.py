"""What the page's two shortcuts cost in words: silence of which few positions are kept, a vocabulary in 8 bits.

The engine with neither, with silence thinned by each of `strides`, and as it is, on the same real clips.

    make bench-serve_rounding [ARGS="--clips 10"]
"""

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.corpus import SAMPLE
from benchmarks.result import result_line
from data.audio import decode, resample
from data.errors import command
from data.sources import read_split
from jax_train.pretrained import fetch_base, model_folder
from jax_train.scores import scores
from serving import pytorch
from serving.transcribe import Options, Transcriber


@dataclass(frozen=True)
class RoundingBenchmark:
    """WER of the page's engine with and without its shortcuts."""

    model: str = ""
    """Whisper folder or hub name; by default base."""
    clips: int = 0
    """Only the first test clips; 0: all 83."""
    strides: tuple[int, ...] = (8, 16)
    language: str = "it"


def transcripts(folder: Path, audio: list[np.ndarray], name: str, language: str) -> list[str]:
    """The engine's texts, with the settings there are now."""
    engine = Transcriber(folder)
    return [engine.transcribe_audio(audio_N, Options(language)).text for audio_N in tqdm(audio, unit="clip", desc=name)]


@command
def main() -> None:
    config = tyro.cli(RoundingBenchmark, description=__doc__)
    folder = model_folder(config.model) if config.model else fetch_base(Path(".cache/models"))
    clips = read_split(str(SAMPLE), "test").clips[: config.clips or None]
    audio = [(resample(*decode(clip.audio.load())), clip.sentence) for clip in clips]
    arms = {"whole windows, float32": (pytorch.POSITIONS, False)}
    arms |= {f"every {stride}th position of silence, float32": (stride, False) for stride in config.strides}
    arms["as the page does"] = (pytorch.STRIDE, True)
    table = {}
    for name, (stride, eight_bits) in arms.items():
        rounds = pytorch.has_eight_bits if eight_bits else lambda _: False
        with patch.object(pytorch, "STRIDE", stride), patch.object(pytorch, "has_eight_bits", rounds):
            texts = transcripts(folder, [audio_N for audio_N, _ in audio], name, config.language)
        found = scores([sentence for _, sentence in audio], texts)
        table[name] = {figure: found[figure] for figure in ("wer_normalised", "wer")}
        print(f"{name:48}" + "".join(f"  {figure} {value:.2f}" for figure, value in table[name].items()), flush=True)
    whole, ours = (table[name]["wer_normalised"] for name in (next(iter(table)), "as the page does"))
    print(result_line("serve_rounding", "% WER normalised", ours, whole, less_is_better=True, more={"arms": table}))


if __name__ == "__main__":
    main()
