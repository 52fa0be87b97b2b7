"""A tone, and a film with one: what a visitor of the page uploads."""

from pathlib import Path

import av
import numpy as np

from serving.media import SAMPLE_RATE


def tone(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def grey_film(path: Path, seconds: float) -> Path:
    """Grey with a tone, in the codecs every browser is built with."""
    with av.open(path, "w") as container:
        picture = container.add_stream("libvpx", rate=5, options={"deadline": "realtime", "cpu-used": "8"})
        picture.width, picture.height, picture.pix_fmt = 160, 90, "yuv420p"
        sound = container.add_stream("libopus", rate=48_000)
        for at in range(int(seconds * 5)):
            frame = av.VideoFrame.from_ndarray(np.full((90, 160, 3), 90 + at, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        tone_1N = tone(seconds, 48_000)[None]
        for start in range(0, tone_1N.shape[1], 960):
            piece = av.AudioFrame.from_ndarray(tone_1N[:, start : start + 960], format="flt", layout="mono")
            piece.sample_rate, piece.pts = 48_000, start
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path
