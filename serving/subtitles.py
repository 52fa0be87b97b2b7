"""Stand-in until the media branch is merged."""

import json
from dataclasses import asdict
from pathlib import Path

from serving.transcript import Transcript

FORMATS = {
    "txt": lambda t: t.text + "\n",
    "srt": lambda t: "\n".join(f"{i}\n{s.start} --> {s.end}\n{s.text}\n" for i, s in enumerate(t.segments, 1)),
    "vtt": lambda t: "WEBVTT\n\n" + "\n".join(f"{s.start} --> {s.end}\n{s.text}\n" for s in t.segments),
    "json": lambda t: json.dumps(asdict(t), ensure_ascii=False),
}


def write(transcript: Transcript, folder: Path, name: str) -> dict[str, Path]:
    stem = "".join(c if c.isalnum() or c in " -_" else "_" for c in Path(name).stem) or "transcript"
    paths = {kind: folder / f"{stem}.{kind}" for kind in FORMATS}
    for kind, path in paths.items():
        path.write_text(FORMATS[kind](transcript), encoding="utf-8")
    return paths
