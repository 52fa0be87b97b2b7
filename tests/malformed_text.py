"""Odd and bad tables and manifests, each a corpus folder with what must become of it; audio is not looked at."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.malformed import LEAVES

Files = dict[str, bytes | str | Callable[[Path], object]]


@dataclass(frozen=True)
class TextCase:
    """A corpus of its own: an error (a regular expression), or the clips' sentences and the rows left out."""

    name: str
    files: Files
    """What is in the corpus folder; text is UTF-8."""
    error: str = ""
    clips: dict[str, str] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""
    """The file in the folder that is the source; the folder itself by default."""


HEADER = "client_id\tpath\tsentence\tlocale"
ROW = "s\ta.mp3\tUno.\tit"
UNO = {"a.mp3": "Uno."}


def tsv(*rows: str, end: str = "\n", header: str = HEADER) -> Files:
    """A Common Voice folder."""
    return {"clips/": "", "train.tsv": "".join(f"{row}{end}" for row in (header, *rows))}


def raw(table: bytes | str | Callable[[Path], object]) -> Files:
    """A Common Voice folder whose table is this."""
    return {"clips/": "", "train.tsv": table}


def line(**fields: object) -> str:
    """A line of a manifest."""
    return json.dumps({"file_name": "a.mp3", "text": "Uno."} | fields) + "\n"


def manifest(text: str | bytes, name: str = "train.jsonl") -> Files:
    """A folder with this manifest."""
    return {name: text}


TEXT = [
    TextCase(
        "embedded quotes",
        tsv('s\ta.mp3\t"Uno" e "due\tit', ROW.replace("a.", "b.")),
        clips={"a.mp3": '"Uno" e "due', "b.mp3": "Uno."},
    ),
    TextCase("a tab in a sentence", tsv("s\ta.mp3\tU\tno.\tit"), clips={"a.mp3": "U"}),
    TextCase("byte order mark", raw(("\ufeff" + HEADER + "\n" + ROW + "\n").encode()), clips=UNO),
    TextCase("carriage returns", tsv(ROW, end="\r\n"), clips=UNO),
    TextCase("carriage returns alone", tsv(ROW, end="\r"), error="lists no clips"),
    TextCase("no last newline", raw(f"{HEADER}\n{ROW}"), clips=UNO),
    TextCase("empty lines", tsv("", ROW, "", ""), clips=UNO),
    TextCase(
        "other line ends in a sentence",
        tsv("s\ta.mp3\tU\u2028no\x0b.\x85!\tit"),
        clips={"a.mp3": "U\u2028no\x0b.\x85!"},
    ),
    TextCase(
        "short and long rows",
        tsv(ROW, "s\tb.mp3", "s\tc.mp3\tTre.\tit\tand\tmore"),
        clips=UNO | {"c.mp3": "Tre."},
        rejected=[("b.mp3", "incomplete row")],
    ),
    TextCase("a clip twice", tsv(ROW, ROW), clips=UNO, rejected=[("a.mp3", "listed twice")]),
    TextCase(
        "paths out",
        tsv(ROW, *(f"s\t{name}\tX\tit" for name in ("../b", "/etc/passwd", "b/", ".", "b\0.mp3"))),
        clips=UNO,
        rejected=[(name, "path is not a file name") for name in ("../b", "/etc/passwd", "b/", ".", "b\0.mp3")],
    ),
    TextCase(
        "missing columns",
        tsv("a.mp3\tUno.", header="path\ttext"),
        error="has no column client_id, sentence; its first line is: path text",
    ),
    TextCase("empty table", raw(""), error="has no column client_id, path, sentence"),
    TextCase("header only", tsv(), error="lists no clips"),
    TextCase("latin-1", raw(f"{HEADER}\ns\ta.mp3\tPerché.\tit\n".encode("latin-1")), error="is not UTF-8"),
    TextCase("utf-16", raw(f"{HEADER}\n{ROW}\n".encode("utf-16")), error="is not UTF-8"),
    TextCase("a program for a table", raw(bytes(range(256)) * 9), error="is not UTF-8"),
    TextCase("table that is a folder", raw(lambda path: path.mkdir()), error="cannot be read: .*Is a directory"),
    TextCase("table that is a pipe", raw(lambda path: os.mkfifo(path)), error="train.tsv is not a file"),
    TextCase("table that is a circle", raw(lambda path: path.symlink_to(path.name)), error="train.tsv is not a file"),
    TextCase(
        "clips that are a circle",
        {"train.tsv": f"{HEADER}\n{ROW}\n", "clips": lambda path: path.symlink_to("clips")},
        error="not in a layout that is known",
    ),
    TextCase(
        "clips that are a file", {"train.tsv": f"{HEADER}\n{ROW}\n", "clips": ""}, error="not in a layout that is known"
    ),
    TextCase(
        "durations of all sorts",
        tsv(ROW) | {"clip_durations.tsv": "clip\tduration[ms]\na.mp3\t²\na.mp3\t" + "9" * 400 + "\na.mp3\t-1\n"},
        clips=UNO,
    ),
    TextCase(
        "quotes and newlines in csv",
        manifest('file_name,text\na.mp3,"U""no\n\tdue"\n', "metadata.csv"),
        clips={"a.mp3": 'U"no\n\tdue'},
    ),
    TextCase(
        "an open quote in csv",
        manifest('file_name,text\na.mp3,"Uno\nb.mp3,Due\n', "metadata.csv"),
        error=r"metadata.csv line 3 is not CSV: unexpected end",
    ),
    TextCase(
        "short rows in csv",
        manifest("file_name,text\na.mp3,Uno.\nb.mp3\nc.mp3,Tre,3\n", "metadata.csv"),
        clips=UNO,
        rejected=[("", "incomplete row")] * 2,
    ),
    TextCase(
        "semicolons for commas",
        manifest("file_name;text\na.mp3;Uno.\n", "metadata.csv"),
        error=r"has no column with the path .*there are: file_name;text",
    ),
    TextCase(
        "an endless field in csv",
        manifest("file_name,text\na.mp3," + "x" * 200_000 + "\n", "metadata.csv"),
        error="field larger than field limit",
    ),
    TextCase(
        "broken lines of json",
        manifest(line() + "{\n[1]\n7\n\n" + "[" * 100_000 + "\n"),
        clips=UNO,
        rejected=[("", "not JSON"), ("", "not a JSON object"), ("", "not a JSON object"), ("", "not JSON")],
    ),
    TextCase("deeper than json goes", manifest("[" * 100_000), error="is neither JSON nor JSON lines"),
    TextCase(
        "half characters",
        manifest(
            line() + line(file_name="b.mp3", text="\ud800") + line(file_name="\udce9.mp3") + line(speaker="\udfff")
        ),
        clips=UNO,
        rejected=[("", "not Unicode")] * 3,
    ),
    TextCase("a pair of halves", manifest(line(text="Ciao 😀")), clips={"a.mp3": "Ciao 😀"}),
    TextCase("byte order mark in json", manifest("\ufeff" + line()), clips=UNO),
    TextCase("carriage returns in json", manifest(line().replace("\n", "\r\n")), clips=UNO),
    TextCase("newline in a file name", manifest(line(file_name="a\nb.mp3")), clips={"a\nb.mp3": "Uno."}),
    TextCase(
        "times that are none",
        manifest(
            line()
            + "".join(
                line(file_name=f"{n}.mp3", duration=bad)
                for n, bad in enumerate([-1, "lungo", [1], True, float("nan"), 10**400])
            )
        ),
        clips=UNO,
        rejected=[(f"{n}.mp3", "not a time") for n in range(6)],
    ),
    TextCase(
        "a number without end",
        manifest(line() + '{"file_name": "b.mp3", "duration": ' + "9" * 5000 + "}\n"),
        clips=UNO,
        rejected=[("", "not JSON")],
    ),
    TextCase(
        "texts that are none",
        manifest(line() + line(file_name="b.mp3", text=None) + line(file_name="c.mp3", text=["x"]) + line(file_name=7)),
        clips=UNO,
        rejected=[("b.mp3", "incomplete row"), ("c.mp3", "incomplete row"), ("", "incomplete row")],
    ),
    TextCase(
        "paths out of a manifest",
        manifest(
            line()
            + "".join(
                line(file_name=name)
                for name in (
                    "../b.mp3",
                    "x/../../b.mp3",
                    "/etc/passwd",
                    "file:///etc/passwd",
                    "http://x/b.mp3",
                    "b\0.mp3",
                    ".",
                )
            )
        ),
        clips=UNO,
        rejected=[
            (name, LEAVES)
            for name in (
                "../b.mp3",
                "x/../../b.mp3",
                "/etc/passwd",
                "file:///etc/passwd",
                "http://x/b.mp3",
                "b\0.mp3",
                ".",
            )
        ],
    ),
    TextCase(
        "a folder that leads out",
        manifest(line() + line(file_name="out/secret.wav") + line(file_name="circle/a.mp3"))
        | {"out": lambda path: path.symlink_to("../outside"), "circle": lambda path: path.symlink_to("circle")},
        clips=UNO | {"circle/a.mp3": "Uno."},
        rejected=[("out/secret.wav", LEAVES)],
    ),
    TextCase(
        "cut gzip",
        manifest(gzip.compress(line().encode() * 500)[:-20], "train.jsonl.gz"),
        error="is not gzip, or not whole",
    ),
    TextCase(
        "flipped gzip",
        manifest(gzip.compress(b"")[:10] + b"\xff" * 50, "train.jsonl.gz"),
        error="is not gzip, or not whole",
    ),
    TextCase("no gzip", manifest(line(), "train.jsonl.gz"), error="is not gzip, or not whole"),
    TextCase("manifest in utf-16", manifest(line().encode("utf-16")), error="is not UTF-8 text"),
    TextCase("no line", manifest("\n\n"), error="names a clip"),
    TextCase(
        "manifest that is a pipe", {"train.jsonl": lambda path: os.mkfifo(path)}, error="not in a layout that is known"
    ),
    TextCase(
        "pipe as the source", {"train.jsonl": lambda path: os.mkfifo(path)}, source="train.jsonl", error="no corpus"
    ),
    TextCase("nothing", {}, error="not in a layout that is known"),
    TextCase(
        "two manifests of a split",
        {"train.jsonl": line(), "train_manifest.json": line()},
        error="both are split 'train'",
    ),
]
