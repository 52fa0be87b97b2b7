"""The recordings behind a split's shards, where the corpus is still there: shards hold only the log-mel.

Decision: the shards' manifest names its source, and `data.sources` finds a clip in it by its id. By default only a
source on this machine is looked for; one over the network has to be named. A recording counts only if it has the
shards' number of frames, so a corpus that was exchanged in the meantime is not played beside another's log-mel.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from upath import UPath

from data.audio import decode, resample
from data.clips import Clip, ClipError, CorpusError
from data.log_mel import frame_count
from data.records import Record, Shards
from data.source_options import SourceOptions
from data.sources import read_split


@dataclass(frozen=True)
class Recordings:
    """Clips by id, and why there are none or not all."""

    clips: dict[str, Clip]
    source: str
    missing: str = ""
    """In a sentence; empty if the corpus is there."""

    def audio(self, record: Record) -> Float32[np.ndarray, "N"]:
        """The samples behind `record` at 16 kHz; `ClipError` if they are not there."""
        if record.id not in self.clips:
            raise ClipError("the corpus has no such clip now", self.source)
        clip = self.clips[record.id]
        native_N, rate = decode(clip.audio.load(), clip.start, clip.length, clip.id)
        audio_N = resample(native_N, rate)
        if frame_count(len(audio_N)) != len(record.log_mel_q):
            raise ClipError("the recording has another length than when the shards were made", clip.id)
        return audio_N


def find_recordings(shards: Shards, source: str = "") -> Recordings:
    """The recordings of `shards` in `source`, or, if none is named, where the manifest says.

    Raises:
        CorpusError: `source` is named and is no corpus, or has no such split.
    """
    manifest = shards.manifest
    where = source or manifest["source"]
    if not source and not Path(where).exists():
        return Recordings({}, where, f"the recordings are not here: no {where} (name their place with --recordings)")
    options = SourceOptions(cache=str(UPath(shards.folder).parent / ".archives"))
    try:
        split = read_split(where, manifest["split"], options)
    except CorpusError as error:
        if source:
            raise
        return Recordings({}, where, f"the recordings cannot be found again: {error} (name their place: --recordings)")
    return Recordings({clip.id: clip for clip in split.clips}, where)
