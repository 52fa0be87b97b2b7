"""How long an audio is: what a clip may last, what the file promises, and what there is of it.

A file that ends before it should is left out, since its sentence goes on where nothing is heard. libsndfile takes such
a file for a shorter one and says so in its log only, which is where that is found; of Ogg, the last page tells, and an
MP3's frames are counted (`data.mpeg`). An MP3 without a header that was cut between two frames cannot be told from a
shorter one.
"""

import os
import re
from typing import BinaryIO

from soundfile import SoundFile

from data.clips import ClipError
from data.log_mel import WINDOW_SECONDS
from data.mpeg import MOST_BYTES_PER_SECOND, count_samples

MIN_SECONDS = 0.1
SLACK_SECONDS = 0.1  # what a header or a manifest may promise beyond what there is: rounding, a decoder's delay
STREAMED = 0x7FFF0000  # sizes from here on are written by programs that do not know the size
MP3_TAGS_BYTES = 1 << 24  # at most, before its first frame
BYTES = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
FRAMES = re.compile(r"Calculated frame count \d+ does not match value from 'ds64' chunk of (\d+)")
OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # at most


def check_duration(seconds: float) -> None:
    """`ClipError` unless a clip may last `seconds`."""
    if seconds > WINDOW_SECONDS:
        raise ClipError(f"longer than {WINDOW_SECONDS} s", f"{seconds:.2f} s; split it")
    if seconds < MIN_SECONDS:
        raise ClipError(f"shorter than {MIN_SECONDS} s", f"{seconds:.3f} s")


def check_end(seconds: float, promised: float, where: str) -> None:
    """`ClipError` if there are `seconds` of audio where there should be as many as `promised`."""
    if promised - seconds > SLACK_SECONDS:
        raise _ends_early(where, f"{seconds:.2f} s of {promised:.2f} s")


def _ends_early(where: str, detail: str) -> ClipError:
    return ClipError("audio ends early", f"{where}: {detail}")


def is_whole(sound: SoundFile, file: BinaryIO, until: float, where: str) -> bool:
    """Whether libsndfile knows of all the audio in `sound`, which it has opened from `file`, as far as `until` seconds.

    Raises `ClipError` if there is less than the file promises.
    """
    if sound.format in ("MP3", "OGG"):
        place = file.tell()  # which libsndfile reads on from
        known = _is_whole_mp3(sound, file, until, where) if sound.format == "MP3" else _is_whole_ogg(file, where)
        file.seek(place)
        return known
    log: str = sound.extra_info
    seconds = sound.frames / sound.samplerate
    for promised, there in ((int(size), int(real)) for size, real in BYTES.findall(log)):
        if promised < STREAMED:
            check_end(seconds, seconds * promised / max(there, 1), where)
    for promised_frames in FRAMES.findall(log):
        check_end(seconds, int(promised_frames) / sound.samplerate, where)
    return True


def _is_whole_ogg(file: BinaryIO, where: str) -> bool:
    file.seek(max(file.seek(0, os.SEEK_END) - 2 * OGG_PAGE_BYTES, 0))
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    segments = page[27 : 27 + page[26]] if len(page) > 27 else b""
    if len(page) < 27 + len(segments) + sum(segments) or not page[5] & 4:  # the flag of the last page
        raise _ends_early(where, "its last Ogg page is missing or cut")
    return True


def _is_whole_mp3(sound: SoundFile, file: BinaryIO, until: float, where: str) -> bool:
    rate, most = sound.samplerate, round(until * sound.samplerate)
    size = min(file.seek(0, os.SEEK_END), int(until * MOST_BYTES_PER_SECOND) + MP3_TAGS_BYTES)
    file.seek(0)
    length = count_samples(file.read(size), most)  # not more than there is: the buffer is made before
    if length is None:
        return True
    if length.promised is not None:
        check_end(length.counted / rate, min(length.promised, most) / rate, where)
    elif not length.whole:
        raise _ends_early(where, f"the MP3 frame after {length.counted / rate:.2f} s is not whole")
    expected = sound.frames if length.promised is None else length.promised
    return abs(min(expected, most) - min(length.counted, most)) <= SLACK_SECONDS * rate
