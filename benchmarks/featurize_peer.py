"""The usual way, for `benchmarks.featurize`: `datasets.map(prepare_dataset)` with Hugging Face's feature extractor.

A process of its own, because its threads are an environment variable read at start. Audio is decoded and resampled as
fast as anyone can (soundfile and soxr, as ours), which is kinder than torchcodec's own decoding.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import soundfile
import soxr
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from data.sources import read_split


def main(corpus: str, model: str, clips: int) -> None:
    """Print one JSON object: clips, wall seconds and processor seconds of the map, bytes written."""
    extractor = WhisperFeatureExtractor.from_pretrained(model)
    tokenizer = WhisperTokenizer.from_pretrained(model, language="it", task="transcribe")

    def prepare_dataset(row: dict[str, Any]) -> dict[str, Any]:
        audio, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        audio = soxr.resample(audio, rate, 16_000)
        features = extractor(audio, sampling_rate=16_000).input_features[0]
        return {"input_features": features, "labels": tokenizer(row["sentence"]).input_ids}

    rows = read_split(corpus, "train").clips[:clips]
    audio = [{"bytes": Path(str(clip.audio.load())).read_bytes(), "path": clip.id} for clip in rows]
    content = {"audio": audio, "sentence": [clip.sentence for clip in rows]}
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.Dataset.from_dict(content).cast_column("audio", datasets.Audio(decode=False))
        started, spent = time.perf_counter(), time.process_time()
        dataset.map(prepare_dataset, remove_columns=dataset.column_names, cache_file_name=f"{folder}/map.arrow")
        wall, cpu = time.perf_counter() - started, time.process_time() - spent
        size = (Path(folder) / "map.arrow").stat().st_size
    print(json.dumps({"clips": len(rows), "wall": wall, "cpu": cpu, "bytes": size}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
