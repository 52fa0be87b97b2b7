"""What a command says when it fails is one line; what it writes fits any terminal, and may go unread."""

import io
import os
import subprocess
import sys

import pytest

import data.errors
from serving.errors import UserError, command
from tests.conftest import REPOSITORY


def test_an_error_is_one_line_whatever_the_files_name(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("bad\nname  x.mp3: no such file")

    with pytest.raises(SystemExit) as ended:
        command(main)()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: bad name  x.mp3: no such file\n"


@pytest.mark.parametrize("command", [command, data.errors.command])
def test_what_the_terminal_has_no_sign_for_is_written_by_its_number(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of text in an ASCII locale, and of a file's name that is not UTF-8."""
    for encoding, wanted in (("ascii", b"pi\\xf9 b\\udce9.wav\n"), ("utf-8", b"pi\xc3\xb9 b\\udce9.wav\n")):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
        command(lambda: print("più b\udce9.wav", flush=True))()
        assert written.getvalue() == wanted


def test_who_closes_the_pipe_ends_the_command_quietly() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    program = "from serving.errors import command; command(lambda: print('x' * 99999, flush=True))()"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")
