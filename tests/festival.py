"""Festival for the tests: one that speaks tones and needs no package, and the real one where there is one."""

import os
import shutil
from pathlib import Path

import pytest

STAND_INS = Path(__file__).parent / "stand_ins"


def path_with_stand_in() -> str:
    """A PATH on which `festival` is tests/stand_ins/festival."""
    return f"{STAND_INS}{os.pathsep}{os.environ['PATH']}"


def need_festival() -> None:
    """A machine without Festival and its Italian voices skips, unless REQUIRE_FESTIVAL=1 forbids that."""
    voices = Path("/usr/share/festival/voices/italian")
    if shutil.which("festival") and all((voices / name).is_dir() for name in ("lp_diphone", "pc_diphone")):
        return
    missing = "no Festival with Italian voices: apt-get install festival festvox-italp16k festvox-itapc16k"
    if os.environ.get("REQUIRE_FESTIVAL") == "1":
        pytest.fail(f"{missing} (REQUIRE_FESTIVAL=1)")
    pytest.skip(missing)
