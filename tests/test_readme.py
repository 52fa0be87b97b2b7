"""Every command the README shows works: the demo by its own test, test and check by CI, the others here."""

import os
import re
import shlex
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BY_OTHERS = {
    "make demo": "tests/test_demo.py",
    "make daily STORE=store": "tests/test_daily_whole.py",
    "make monitor STORE=store PORT=7861": "tests/test_daily_whole.py",
    "make test": ".ci/run",
    "make check": ".ci/run",
}
"""Commands run elsewhere, and where."""
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def shown_commands() -> list[str]:
    """The make and python commands in README's code blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL) + re.findall(r"^    (make .*)$", README, re.MULTILINE)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def environment() -> dict[str, str]:
    """A newcomer's: without the tests' eight devices, and without the settings of a make around the tests."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    ours = {"XLA_FLAGS", "NPROC", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    ours |= set(re.findall(r"^(?:export )?([A-Z_]+) \?=", makefile, re.MULTILINE))
    return {name: value for name, value in os.environ.items() if name not in ours}


def make(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
    )


def test_the_readmes_commands_are_run_somewhere():
    commands = shown_commands()
    assert {"make demo", "make test", "make check"} <= set(commands)
    for command, place in BY_OTHERS.items():
        assert command in (REPOSITORY / place).read_text(encoding="utf-8"), (command, place)
    assert all(command.startswith("make ") for command in commands), "a new kind of command: run it here too"


def test_paths_may_have_spaces_and_apostrophes():
    """As a Drive's «My Drive» has, and many an Italian name: L'isola."""
    paths = ("SOURCE", "SHARDS", "MODEL", "RUN", "MODEL_DIR", "SPACE", "FILE", "STORE")
    settings = [f"{name}=My l'{name}" for name in paths] + ["BIN=/bin", "LAST=2", "A=a", "B=b", "REPO=me/model"]
    said: set[str] = set()
    for target in re.findall(
        r"^([a-z-]+): \$\(READY\)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    ):
        if target not in ("setup", "environments"):
            said |= set(shlex.split(make(["-n", target, *settings]).stdout))
    assert {f"My l'{name}" for name in paths} <= said
    assert not said & {"My", *paths}


def test_make_alone_lists_every_target():
    listed = make([]).stdout
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"setup", "demo", "featurize", "train", "evaluate", "export", "serve", "test", "check"} <= set(targets)
    assert [target for target in targets if not re.search(rf"^  {target} ", listed, re.MULTILINE)] == []
    assert "bench-NAME" in listed


HELP = """
import contextlib, runpy, sys
for name in sys.argv[1:]:
    print("module", name, flush=True)
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def test_every_command_helps():
    """As `python -m` would, but in one process: nearly all of its time goes into imports."""
    modules = sorted(
        set(re.findall(r"`(?:\.venv/bin/python -m )?((?:data|jax_train|serving)\.[a-z]+)(?: --help)?`", README))
    )
    assert len(modules) == 9
    command = [str(REPOSITORY / ".venv/bin/python"), "-c", HELP, *modules]
    found = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    _, *said = found.stdout.split("module ")
    assert [(text.split()[0], "usage:" in text) for text in said] == [(module, True) for module in modules]


def test_the_readmes_way_from_a_corpus_to_a_page_works(tmp_path, terse_model_dir, sample_corpus):
    instead = {
        "cv-corpus-11.0/it": sample_corpus,
        "openai/whisper-tiny": terse_model_dir,
        "recording.mp3": sorted((sample_corpus / "clips").glob("*.mp3"))[0],
        "SHARDS=shards": f"SHARDS={tmp_path}/shards",
        "RUN=runs/": f"RUN={tmp_path}/runs/",
        "models/": f"{tmp_path}/models/",
    }
    more = {
        "featurize": "--limit 8",
        "train": "--epochs 1 --batch-size 1 --learning-rate 1e-3",
        "evaluate": "--max-new-tokens 5",
        "space": f"--out {tmp_path}/space",
        "preview": f"--output {tmp_path}/preview.html --clips 2 --sample 10",
    }
    commands = [command for command in shown_commands() if command not in BY_OTHERS]
    assert len(commands) == 12
    for command in commands:
        for shown, real in instead.items():
            command = command.replace(shown, str(real))
        words = [word for word in shlex.split(command)[1:] if not word.startswith("ARGS=")]
        if words[0] == "serve":
            check_page(words)
            continue
        done = make([*words, f"ARGS={more.get(words[0], '')}"])
        assert done.returncode == 0, (command, done.stderr[-2000:])
    assert (tmp_path / "runs/tiny/evaluate-test/scores.json").is_file()
    assert (tmp_path / "preview.html").is_file()
    assert (tmp_path / "space/app.py").is_file()


def check_page(words: list[str]) -> None:
    """`make serve` says it is ready, answers, and ends when asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"PORT={port}" if word.startswith("PORT=") else word for word in words]
    with subprocess.Popen(
        ["make", *words], cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as page:
        try:
            said = next((line for line in page.stdout if line.startswith("ready: ")), None)
            assert said is not None, "the page ended before it was ready"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.status == 200
        finally:
            os.killpg(page.pid, 15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["featurize", "SOURCE=no/such/corpus"], "no/such/corpus"),
        (["plan", "SOURCE=no/such/corpus"], "no/such/corpus"),
        (["preview", "SOURCE=no/such/corpus"], "no/such/corpus"),
        (["verify", "SHARDS=no/such/shards"], "no/such/shards"),
        (["train", "SHARDS=no/such/shards"], "no/such/shards"),
        (["evaluate", "SHARDS=no/such/shards", "MODEL=no/such/model"], "no/such/shards"),
        (["compare", "A=no/such/model", "B=no/such/run", "SHARDS=no/such/shards"], "no/such/shards"),
        (["compare", "A=no/such/model"], "make compare A=… B=…"),
        (["export", "RUN=no/such/run"], "no/such/run"),
        (["transcribe", "MODEL=no/such/model", "FILE=README.md"], "no/such/model"),
        (["serve", "MODEL=no/such/model"], "no/such/model"),
    ],
)
def test_wrong_input_is_one_clear_line_and_a_failing_command(words, said, small_model_dir, tmp_path):
    if words[0] in ("featurize", "plan", "preview"):
        words = [*words, f"MODEL={small_model_dir}", f"SHARDS={tmp_path}"]
    done = make(words)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert not Path("no").exists()
