"""Recordings of any source as takes."""

import json
from pathlib import Path

import numpy as np
import soundfile

from daily.recorded import recordings


def test_parts_of_one_file_are_recordings_of_their_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 48_000), 16_000)
    rows = [
        {"audio_filepath": "a.wav", "text": text, "offset": start, "duration": seconds}
        for text, start, seconds in (("Uno.", 0.0, 1.0), ("Due.", 1.0, 2.0))
    ]
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = recordings(str(manifest), "train", "it")
    assert [(take.sentence, take.audio_N.size) for take in (one, two)] == [("Uno.", 16_000), ("Due.", 32_000)]
    (left,) = recordings(str(manifest), "train", "it", known={one.audio_sha256})
    assert left.sentence == "Due."
