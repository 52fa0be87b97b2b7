"""How much audio an MP3 file holds, by counting its frames.

libsndfile believes the Xing header, and where there is none multiplies the first frame's bit rate by the file's size:
both may be far off, for a file cut in the middle, two files put together, or a variable bit rate without a header.
Frame headers are as ISO/IEC 11172-3 and 13818-3 have them; only layer III is looked for.
"""

from dataclasses import dataclass

KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG 1
KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG 2 and 2.5
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
MOST_BYTES_PER_SECOND = 40_000  # at 320 kb/s
IN_A_ROW = 3  # frames that must follow one another where the first is looked for: chance makes one or two
ID3V1_BYTES = 128  # a tag at the end
TELLS_LENGTH = {b"Xing": 8, b"Info": 8, b"VBRI": 14}  # where the number of frames stands after the mark


def _frame_bytes() -> dict[int, int]:
    """Bytes of a frame by the second and third bytes of its header."""
    sizes = {}
    for version, rates in RATES.items():
        for bit_rate, kbps in enumerate(KBPS_1 if version == 3 else KBPS_2, start=1):
            for number, rate in enumerate(rates):
                for rest in range(8):  # padding and a private bit, and whether there is no checksum
                    no_checksum, padding = rest & 1, rest >> 2
                    header = (0xE2 | version << 3 | no_checksum) << 8 | bit_rate << 4 | number << 2 | rest >> 1
                    sizes[header] = samples_per_frame(version) // 8 * kbps * 1000 // rate + padding
    return sizes


def samples_per_frame(version: int) -> int:
    """Samples of each channel in a frame of MPEG 1 (`version` 3 in the header) or 2 (the others)."""
    return 1152 if version == 3 else 576


FRAME_BYTES = _frame_bytes()


@dataclass(frozen=True)
class Mp3Length:
    """Lengths in samples of a channel."""

    counted: int
    promised: int | None
    """By the header; None if it does not tell."""
    whole: bool
    """Whether the last frame is."""


def count_samples(content: bytes, most: int) -> Mp3Length | None:
    """The length of the MP3 in `content`, counted until it exceeds `most`; None if there is no MP3 in it."""
    at = first_frame(content)
    if at is None:
        return None
    step = samples_per_frame(content[at + 1] >> 3 & 3)
    first = content[at : at + _size(content, at)]
    promised, is_header = _header(first)
    if promised is not None and len(content) - at - (_stream_bytes(first) or 0) in (0, ID3V1_BYTES):
        return Mp3Length(promised * step, promised * step, whole=True)  # all bytes are there: nothing to count
    counted = -step if is_header else 0
    end = len(content)
    while counted <= most:
        size = _size(content, at)
        if not size:
            found = first_frame(content, at)
            if found is None:
                break
            at = found
            continue
        at += size
        if at > end:
            return Mp3Length(counted, None if promised is None else promised * step, whole=False)
        counted += step
    return Mp3Length(counted, None if promised is None else promised * step, whole=True)


def first_frame(content: bytes, start: int = 0) -> int | None:
    """Where the first frame from `start` on begins that others follow, after tags or whatever else there is."""
    if start == 0 and content[:3] == b"ID3" and len(content) > 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    at = content.find(b"\xff", start)
    while at >= 0:
        place = at
        for number in range(IN_A_ROW):
            size = _size(content, place)
            if not size:
                break
            place += size
            if number + 1 == IN_A_ROW or place == len(content):
                return at
        at = content.find(b"\xff", at + 1)
    return None


def _size(content: bytes, at: int) -> int:
    """Bytes of the frame at `at`; 0 if none begins there."""
    if at + 3 > len(content) or content[at] != 0xFF:
        return 0
    return FRAME_BYTES.get(content[at + 1] << 8 | content[at + 2], 0)


def _header(frame: bytes) -> tuple[int | None, bool]:
    """The number of frames that a first frame promises, and whether it is a header instead of audio."""
    for mark, place in TELLS_LENGTH.items():
        at = frame.find(mark, 0, 64)
        if at >= 0:
            tells = mark == b"VBRI" or (frame[at + 7 : at + 8] and frame[at + 7] & 1)
            return (int.from_bytes(frame[at + place : at + place + 4], "big") if tells else None), True
    return None, False


def _stream_bytes(frame: bytes) -> int | None:
    """The number of bytes, this header frame among them, that a Xing header promises; None if it does not tell."""
    at = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
    if at < 0 or len(frame) < at + 16 or frame[at + 7] & 3 != 3:
        return None
    return int.from_bytes(frame[at + 12 : at + 16], "big")
