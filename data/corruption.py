"""Where the first corrupt byte of a record is.

The index tells a record's length, so its twelve header bytes are known in full. Of its payload only the CRC-32C is
known, which still names a single corrupt byte: the checksum is linear, so the difference between the one stored and the
one found is that byte's change, carried through the bytes after it as if they were zeros. Stepping the difference back
through the payload, it shrinks to eight bits where the change happened.
"""

import struct
from dataclasses import dataclass

import google_crc32c

from data.tfrecord import FOOTER, HEADER, masked_crc32c

POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed (RFC 3720, 12.1)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a record's bytes; positions count from where its framing starts."""

    what: str
    start: int
    """The first corrupt byte, or the first that may be."""
    end: int
    """The byte after the last that may be the first corrupt one."""
    mended: tuple[tuple[int, int], ...] = ()
    """(position, value it should have): single changes that would make the record whole, the likeliest first."""


def is_whole(header: bytes, payload: bytes, footer: bytes, length: int) -> bool:
    """Whether these are a record of `length` payload bytes with the right checksums."""
    return header == _header(length) and len(payload) == length and footer == FOOTER.pack(masked_crc32c(payload))


def find_fault(framed: bytes, length: int) -> Fault | None:
    """The first fault of a record of `length` payload bytes in the bytes that stand in its place; None if it is whole.

    `framed` is shorter than the record where the file ends too early.
    """
    for position, (found, right) in enumerate(zip(framed, _header(length), strict=False)):
        if found != right:
            part = "length" if position < 8 else "length's checksum"
            return Fault(f"in its {part}", position, position + 1, ((position, right),))
    if len(framed) < HEADER.size + length + FOOTER.size:
        return Fault("the file ends there", len(framed), len(framed) + 1)
    payload, footer = framed[HEADER.size : HEADER.size + length], framed[-FOOTER.size :]
    right_footer = FOOTER.pack(masked_crc32c(payload))
    if footer == right_footer:
        return None
    wrong = [byte for byte in range(FOOTER.size) if footer[byte] != right_footer[byte]]
    # One changed byte in the payload leaves three of the checksum's four bytes right once in four million times.
    if len(wrong) == 1:
        position = HEADER.size + length + wrong[0]
        return Fault("in its payload's checksum", position, position + 1, ((position, right_footer[wrong[0]]),))
    changes = single_byte_changes(length, google_crc32c.value(payload) ^ _unmask(FOOTER.unpack(footer)[0]))
    mended = tuple((HEADER.size + position, payload[position] ^ change) for position, change in changes)
    if mended:
        return Fault("in its payload", mended[0][0], mended[0][0] + 1, mended)
    return Fault("more than one byte of its payload and checksum", HEADER.size, len(framed))


def single_byte_changes(length: int, difference: int) -> list[tuple[int, int]]:
    """(position, exclusive-or) of each change of one byte among `length` that changes their CRC-32C by `difference`.

    The fewest flipped bits come first: no two single-bit flips look alike, and wider changes do so once in hundreds.
    """
    if not difference:
        return []
    found = []
    for position in range(length - 1, -1, -1):
        before = _FROM_TOP_BYTE[difference >> 24]
        difference = (difference ^ _TABLE[before]) << 8 | before
        if difference < 256:
            found.append((position, difference))
    return sorted(found, key=lambda change: change[1].bit_count())


def _header(length: int) -> bytes:
    """The twelve bytes before a payload of `length` bytes."""
    packed = struct.pack("<Q", length)
    return packed + FOOTER.pack(masked_crc32c(packed))


def _crc_table() -> list[int]:
    """What each byte adds to a CRC-32C that was zero."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()
_FROM_TOP_BYTE = {entry >> 24: byte for byte, entry in enumerate(_TABLE)}  # no two entries share their top byte


def _unmask(masked: int) -> int:
    """The CRC-32C that `masked_crc32c` masked."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
