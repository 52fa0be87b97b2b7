"""Commands run as processes: what is shown, what a failure says, what an interrupted one leaves."""

import io
import re
import sys
from pathlib import Path

import pytest

from daily import commands, loop
from daily.commands import CommandError, last_line, module, run
from data.errors import UserError

FRAME = """
╭─ Parsing error ────────────────────────────────────────╮
│ Error parsing --clips: 'ten' is none of the            │
│ numbers.                                               │
│ ────────────────────────────────────────────────────── │
│ For full helptext, run python -m daily.features --help │
╰────────────────────────────────────────────────────────╯
"""


def test_a_command_that_ends_well_is_shown_and_its_output_and_errors_pass_through(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run([sys.executable, "-c", "import sys; print('text'); print('bar', file=sys.stderr)"])
    shown = capfd.readouterr()
    assert re.match(r"\$ \S+ -c .*\n", shown.out)
    assert shown.out.endswith("text\n")
    assert shown.err == "bar\n"


def test_what_a_command_says_passes_through_an_output_of_another_encoding() -> None:
    said, there = "perché →\n".encode(), io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    script = f"import os; os.write(2, {said!r}); print('went on')"
    run([sys.executable, "-c", script], errors=there)
    assert there.buffer.getvalue() == said  # type: ignore[attr-defined]


def test_a_failed_command_is_named_by_its_module_with_its_last_line_of_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CommandError, match=r"^data\.verify: no shards: /nowhere is not a folder; .*featurize`$"):
        run(module("data.verify", "--shards", "/nowhere"))
    assert "error: no shards" in capfd.readouterr().err
    assert issubclass(CommandError, UserError)


def test_a_killed_command_says_by_which_signal(capfd: pytest.CaptureFixture[str]) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CommandError, match=r"said nothing \(ended by SIGKILL\)"):
        run([sys.executable, "-c", script])
    capfd.readouterr()


def test_a_command_that_ends_with_another_code_than_a_users_error_says_which(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CommandError, match=r"^data\.nothing: .*No module named data\.nothing \(exit code 1\)$"):
        run(module("data.nothing"))
    capfd.readouterr()


def test_a_long_line_of_error_is_shortened_in_the_message_and_shown_whole(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError) as failed:
        run([sys.executable, "-c", "import sys; sys.exit('a' * 5000)"])
    assert len(str(failed.value)) < 600
    assert "a…" in str(failed.value)
    assert "a" * 5000 in capfd.readouterr().err


@pytest.mark.parametrize("deaf", [False, True])
def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], deaf: bool
) -> None:
    """Also what does not heed SIGTERM. The child is one of another group, as a shell's would be."""
    monkeypatch.setattr(commands, "GRACE", 0.3 if deaf else 30.0)
    child = "import os, signal, time; open('child', 'w').write(str(os.getpid())); time.sleep(60)"
    if deaf:
        child = child.replace("time; ", "time; signal.signal(15, signal.SIG_IGN); ")
    parent = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {child!r}], process_group=0)"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="had not ended after 2 seconds, and was ended"):
        run([sys.executable, "-c", parent], longest=2)
    stat = Path("/proc", (tmp_path / "child").read_text(), "stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    capfd.readouterr()


def test_the_longest_that_a_stage_may_take_is_told_the_loop_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(loop, "run_loop", lambda *arguments: given.extend(arguments) or [])
    monkeypatch.setattr(sys, "argv", ["loop", "--day", "2026-11-23", "--catch-up", "2", "--stage-timeout", "0.5"])
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which it sets by itself away from a terminal
    loop.main()
    assert (given[:3], given[-1]) == ([Path("store"), "2026-11-23", 2], 1800.0)


def test_a_program_that_is_not_there_is_an_error_a_user_can_mend() -> None:
    with pytest.raises(CommandError, match="text2wave-of-nobody: No such file"):
        run(["text2wave-of-nobody"])


def test_environment_variables_are_the_given_ones(capfd: pytest.CaptureFixture[str]) -> None:
    run([sys.executable, "-c", "import os; print(os.environ['SPOKEN'])"], env={"SPOKEN": "ciao"})
    assert capfd.readouterr().out.endswith("ciao\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("Traceback (most recent call last):\n  File …\nValueError: no\n\n", "ValueError: no"),
        ("10%|█\r50%|█████\rerror: disk full\n", "disk full"),
        ("one\ntwo\r", "two"),
        ("ValueError: no\n    ^^^^\n", "ValueError: no"),
        (f"╭─ Older ─╮\n│ Older.  │\n╰─────────╯\n{FRAME}", "Error parsing --clips: 'ten' is none of the numbers."),
        (f"{FRAME}ended\n", "ended"),
    ],
)
def test_the_last_line_of_error_is_what_a_terminal_shows_last(text: str, line: str) -> None:
    assert last_line(text) == line
