"""A page that holds everything itself: one HTML file from a template, which asks nothing of any server.

It can be mailed, archived beside a run, or opened from an unplugged disk. Its content security policy allows only what
stands in it, and of scripts only ours, by checksum; whatever a corpus writes into a sentence is text.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from upath import UPath

from data.budget import say_bytes
from data.pictures import colour_stops
from data.storage import new_file, writing_to

HERE = Path(__file__).parent
PLAYER = "player.js"


def write_page(output: UPath | Path | str, template: Path, **fields: Any) -> int:
    """Write the page that `template` makes of `fields` piece by piece, so that iterators need not fit in memory.

    Gives its bytes. Templates find our style and parts by name, and `size()`, `script`, `script_sha256` and
    `colour_stops`.
    """
    script = (HERE / PLAYER).read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    target = UPath(output)
    with writing_to(target), new_file(target) as file:
        pieces = environment.get_template(template.name).generate(
            **fields,
            colour_stops=colour_stops(),
            script=script,
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            size=lambda: say_bytes(file.tell()),
        )
        for piece in pieces:
            file.write(piece.encode())
        return file.tell()
