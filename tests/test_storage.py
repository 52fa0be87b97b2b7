"""Files that appear whole, also where the power fails."""

import os
from pathlib import Path

import pytest
from upath import UPath

from data.errors import UserError
from data.storage import new_file, read_json


@pytest.mark.parametrize("once", [False, True])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    """Else a power cut leaves its name without its content."""
    target, sync, synced = tmp_path / "table", os.fsync, list[tuple[int, bool]]()

    def spied(file: int) -> None:
        synced.append((os.fstat(file).st_size, target.exists()))
        sync(file)

    monkeypatch.setattr(os, "fsync", spied)
    with new_file(UPath(target), once=once) as file:
        file.write(b"content")
    assert synced == [(7, False)]
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_broken_file_is_named_with_the_advice_of_whoever_reads_it(tmp_path: Path, content: str) -> None:
    path = UPath(tmp_path / "found.json")
    path.write_text(content)
    with pytest.raises(UserError, match=r"found\.json is not .*: ask for it again$"):
        read_json(path, "ask for it again")
    with pytest.raises(UserError, match=f": delete {tmp_path} and run featurize again$"):
        read_json(path)
