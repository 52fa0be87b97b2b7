"""Recordings with their transcripts → takes: any source that `data.sources` reads, a folder that grows among them.

Decision: a recording is known by the checksum of its file, so one folder can be given every day and each day takes
what is new in it. One that says a sentence of the fixed splits is left out: training must not see what is tested.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from tqdm import tqdm

from daily.sentences import key
from daily.takes import Take
from data.audio import decode, resample
from data.clips import Clip, ClipError
from data.errors import UserError
from data.log_mel import N_SAMPLES
from data.sources import read_split

NONE: frozenset[str] = frozenset()


def recordings(
    source: str, split: str, language: str, known: AbstractSet[str] = NONE, reserved: AbstractSet[str] = NONE
) -> Iterator[Take]:
    """The clips of `split` in `source`, but for those whose audio is `known` or whose sentence's key is `reserved`.

    Prints how many were left out and why; `UserError` for a source that is not there or is in another language.
    """
    listed = read_split(source, split)
    if listed.language not in (None, language):
        raise UserError(
            f"{source} is in {listed.language!r}, the store in {language!r}: give recordings in {language!r}"
        )
    left_out = Counter(row.reason for row in listed.rejected)
    seen = set(known)
    for clip in tqdm(listed.clips, desc=f"{source} {split}", unit="clip", dynamic_ncols=True):
        try:
            taken = _take(clip, seen, reserved)
        except ClipError as error:
            left_out[error.reason] += 1
            continue
        seen.add(taken.audio_sha256)
        yield taken
    for reason, count in left_out.items():
        print(f"{source}: left out {count} × {reason}")


def _take(clip: Clip, known: AbstractSet[str], reserved: AbstractSet[str]) -> Take:
    """`ClipError` where it cannot be used, with the reason."""
    sentence_key = key(clip.sentence)
    if not sentence_key:
        raise ClipError("empty sentence")
    if sentence_key in reserved:
        raise ClipError("its sentence is in the test or guard split")
    content = clip.audio.load()
    digest = hashlib.sha256(content if isinstance(content, bytes) else Path(content).read_bytes())
    if clip.start or clip.length is not None:
        digest.update(f"@{clip.start}+{clip.length}".encode())
    sha256 = digest.hexdigest()
    if sha256 in known:
        raise ClipError("taken before")
    native_N, rate = decode(content, clip.start, clip.length, clip.id)
    audio_N = resample(native_N, rate)[:N_SAMPLES]
    return Take(audio_N, clip.sentence, "recorded", clip.speaker, "", sha256)
