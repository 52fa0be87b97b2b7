"""Odd and bad archives of Common Voice, each with what must become of it."""

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.malformed import GONE
from tests.malformed_text import HEADER, ROW


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info, content


def packed(
    *more: tuple[tarfile.TarInfo, bytes], table: str = "", clips: bool = True, named: str = "train.tsv"
) -> bytes:
    """A tar of a language with a clip a.mp3, then `more`; `table` are further rows."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        listed = member(f"cv/it/{named}", f"{HEADER}\n{ROW}\n{table}".encode())
        for info, inside in (listed, *([member("cv/it/clips/a.mp3", b"uno")] if clips else []), *more):
            tar.addfile(info, io.BytesIO(inside))
    return file.getvalue()


def with_size(size: int, kind: bytes) -> bytes:
    """A tar whose second member claims `size`."""
    tar = bytearray(packed(member("cv/it/clips/b.mp3", b"due", kind)))
    at = tar.index(b"cv/it/clips/b.mp3")
    tar[at + 124 : at + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    tar[at + 148 : at + 156] = b" " * 8
    tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
    return bytes(tar)


ODD = ["link.mp3", "out.mp3", "hard.mp3", "device.mp3", "pipe.mp3", "folder.mp3", "up.mp3", "abs.mp3"]
ODD_MEMBERS = [
    member("cv/it/clips/link.mp3", kind=tarfile.SYMTYPE, target="a.mp3"),
    member("cv/it/clips/out.mp3", kind=tarfile.SYMTYPE, target="/etc/passwd"),
    member("cv/it/clips/hard.mp3", kind=tarfile.LNKTYPE, target="../../../../etc/passwd"),
    member("cv/it/clips/device.mp3", kind=tarfile.CHRTYPE),
    member("cv/it/clips/pipe.mp3", kind=tarfile.FIFOTYPE),
    member("cv/it/clips/folder.mp3", kind=tarfile.DIRTYPE),
    member("cv/it/clips/../clips/up.mp3", b"up"),
    member("/cv/it/clips/abs.mp3", b"abs"),
    member("../../evil", b"evil"),
    member("../../clips/evil.mp3", b"evil"),
]


@dataclass(frozen=True)
class ArchiveCase:
    """An archive, tried as it is and compressed: an error, or the clips' bytes and the rows left out."""

    name: str
    tar: bytes
    error: str = ""
    clips: dict[str, bytes] = field(default_factory=lambda: {"a.mp3": b"uno"})
    rejected: list[tuple[str, str]] = field(default_factory=list)
    compressed: Callable[[bytes], bytes] | None = None
    """For what is wrong with the compression alone."""


AGAIN = "download it again"
ARCHIVES = [
    ArchiveCase(
        "links, devices and names that lead out",
        packed(*ODD_MEMBERS, table="".join(f"s\t{name}\tX\tit\n" for name in ODD)),
        rejected=[(name, GONE) for name in ODD],
    ),
    ArchiveCase(
        "a member twice: the last counts", packed(member("./cv/it/clips/a.mp3", b"due")), clips={"a.mp3": b"due"}
    ),
    ArchiveCase("a clip that is missing", packed(table="s\tb.mp3\tDue.\tit\n"), rejected=[("b.mp3", GONE)]),
    ArchiveCase(
        "clips that are all missing",
        packed(member("cv/it/clips/b.mp3", b"due"), clips=False),
        error="none of the 1 rows .* names a clip",
    ),
    ArchiveCase(
        "rows that lead out",
        packed(table="s\t../train.tsv\tX\tit\ns\t/etc/passwd\tX\tit\n"),
        rejected=[("../train.tsv", "path is not a file name"), ("/etc/passwd", "path is not a file name")],
    ),
    ArchiveCase("names that are not UTF-8", packed(member("cv/it/clips/\udce9.mp3", b"x"))),
    ArchiveCase("no clips", packed(clips=False), error="it has no clips/ folder"),
    ArchiveCase(
        "several languages", packed(member("cv/de/clips/a.mp3", b"x")), error="holds several languages: cv/de, cv/it"
    ),
    ArchiveCase("no table", packed(named="dev.tsv"), error="has no split 'train' .*there are: dev"),
    ArchiveCase("empty tar", bytes(10_240), error=f"{AGAIN}|has no clips/ folder"),
    ArchiveCase("zero bytes", b"", error=AGAIN),
    ArchiveCase("text", b"<html>404</html>\n" * 999, error=AGAIN),
    ArchiveCase("cut", packed()[:1700], error=AGAIN),
    ArchiveCase("cut after a member", packed()[:2048], error=AGAIN),
    ArchiveCase("cut gzip", packed(), error=AGAIN, compressed=lambda tar: gzip.compress(tar)[:-30]),
    ArchiveCase("gzip of nothing", packed(), error=AGAIN, compressed=lambda _: gzip.compress(b"")),
    ArchiveCase("wrong checksum", packed(), error=AGAIN, compressed=lambda tar: gzip.compress(tar)[:-8] + bytes(8)),
    *(
        ArchiveCase(f"size {size} of kind {kind!r}", with_size(size, kind), error=AGAIN)
        for size in (-512, -(2**62), 2**33, 2**62, 2**80)
        for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
    ),
]
