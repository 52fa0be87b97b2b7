"""The process that decodes can do nothing but decode, whatever a file makes of it."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving import confinement
from serving.confinement import MACHINES
from serving.media import PROGRAM

CONFINED = """
import ctypes, json, os, signal, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
import decoding
libc = ctypes.CDLL(None, use_errno=True)


def call(*given):
    ctypes.set_errno(0)
    if libc.syscall(*map(ctypes.c_long, given)) < 0:
        raise OSError(ctypes.get_errno(), "")


line, number = os.dup(1), {"x86_64": 0, "aarch64": 1}[os.uname().machine]
filtered = decoding.confine(line, 1 << 30, 60, 1000)
os.close(0)  # so that a descriptor is free
attempts = {
    "open": lambda: open("/etc/passwd"),
    "openat": lambda: os.open("passwd", os.O_RDONLY, dir_fd=1),
    "openat2": lambda: call(437, -100, 0, 0, 0),
    "io_uring": lambda: call(425, 1, 0),
    "pipe": os.pipe,
    "socket": socket.socket,
    "connect": lambda: call((42, 203)[number], decoding.LINE, 0, 0),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "execveat": lambda: call((322, 281)[number], -100, 0, 0, 0, 0),
    "fork": os.fork,
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "kill": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "tgkill": lambda: call((234, 131)[number], os.getppid(), os.getppid(), signal.SIGCONT),
    "ptrace": lambda: call((101, 117)[number], 16, os.getppid(), 0, 0),
    "process_vm_readv": lambda: call((310, 270)[number], os.getppid(), 0, 0, 0, 0, 0),
    "prlimit": lambda: call((302, 261)[number], os.getppid(), 0, 0, 0),
    "unlink": lambda: os.unlink(sys.argv[2]),
    "rename": lambda: os.rename(sys.argv[2], sys.argv[2] + "x"),
    "list": lambda: os.listdir("/"),
}
said = {}
for name, attempt in attempts.items():
    try:
        attempt()
        said[name] = "done"
    except OSError as error:
        said[name] = error.errno
try:
    bytearray(1 << 30)
    said["memory"] = "allocated"
except MemoryError:
    said["memory"] = "refused"
thread = threading.Thread(target=said.update, args=({"thread": "ran"},))
thread.start()
thread.join()
os.write(decoding.LINE, json.dumps([filtered, said]).encode() + b"\\n")
threading.Event().wait()
"""


def test_the_process_can_open_reach_start_and_harm_nothing(tmp_path: Path) -> None:
    """Whatever a flaw in FFmpeg makes it do, with a descriptor that it has closed."""
    (tmp_path / "theirs").touch()
    arguments = [sys.executable, "-c", CONFINED, str(PROGRAM.parent), str(tmp_path / "theirs")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        filtered, said = json.loads(process.stdout.readline())
        limits = {name: psutil.Process(process.pid).rlimit(getattr(psutil, f"RLIMIT_{name}")) for name in LIMITED}
        process.kill()
    assert filtered
    assert (said.pop("memory"), said.pop("thread")) == ("refused", "ran")
    assert said == dict.fromkeys(said, errno.EPERM)
    assert len(said) == 19
    assert (tmp_path / "theirs").exists()
    assert limits == LIMITED


LIMITED = {"CPU": (60, 60), "DATA": (1 << 30,) * 2, "FSIZE": (1000, 1000), "CORE": (0, 0), "NOFILE": (4, 4)}


def test_without_a_filter_the_limits_alone_keep_it_from_opening_anything() -> None:
    program = """
import errno, sys
sys.path.insert(0, sys.argv[1])
import decoding, serving.confinement
serving.confinement.MACHINES.clear()
if decoding.confine(1, 1 << 30, 60, 1000):
    sys.exit(1)
try:
    open("/etc/passwd")
except OSError as error:
    sys.exit(0 if error.errno == errno.EMFILE else 2)
"""
    arguments = [sys.executable, "-c", program, str(PROGRAM.parent)]
    assert subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 0


def answered(machine: str, architecture: int, number: int, flags: int = 0) -> int:
    """What the filter answers to a call, by the kernel's rules for its steps."""
    data, steps, at, held = {0: number, 4: architecture, 16: flags}, confinement._steps(*MACHINES[machine]), 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        if code == confinement.RETURN:
            return operand
        if code == confinement.LOAD:
            held, then = data[operand], 0
        else:
            true = held == operand if code == confinement.IF_EQUAL else held & operand
            then = if_true if true else if_false
        at += 1 + then


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_lets_through_what_is_listed_and_threads(machine: str) -> None:
    column, architecture = MACHINES[machine]
    allow, refuse, unknown = (step[-1] for step in (confinement.ALLOW, confinement.REFUSE, confinement.UNKNOWN))
    listed = {numbers[column] for numbers in confinement.ALLOWED.values()}
    assert len(listed) == len(confinement.ALLOWED)
    clone, clone3 = confinement.CLONE[column], confinement.CLONE3[column]
    for number in {*range(600), 0x40000000, 0x40000002} - {clone, clone3}:
        assert answered(machine, architecture, number) == (allow if number in listed else refuse)
    assert answered(machine, architecture, clone, 0x3D0F00) == allow  # what glibc asks for a thread
    assert answered(machine, architecture, clone, 0x1200011) == refuse  # and for a process
    assert answered(machine, architecture, clone3) == unknown
    assert answered(machine, 0x40000003, 0) == refuse  # a call of 32 bits
