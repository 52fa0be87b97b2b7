"""What the decoding process gives up before it looks at a file.

Decision: two walls. Limits that every Linux has: memory, processor time, output, and four open files, all taken. And a
filter of system calls (seccomp): what decoding takes is listed, all else is refused, so that code which a file has
taken over can close a file and still open no other, and reaches no network, program, process or memory of anybody's.
A list of what is allowed, because Linux has four hundred calls and gets new ones. Where a kernel has no such filter,
or on another processor, the limits stand alone: they keep FFmpeg from opening anything, but not code of an attacker's.
"""

import ctypes
import errno
import os
import resource
import struct

LINE = 3  # the descriptor of the line to the parent, after standard input, output and error

# Of each call the number on x86_64 and on aarch64 (Linux, asm/unistd_64.h and asm-generic/unistd.h).
ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),  # glibc's fstat
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "gettimeofday": (96, 169),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
CLONE, CLONE3, SECCOMP = (56, 220), (435, 435), (317, 277)
# The column in these, and AUDIT_ARCH_… of linux/audit.h: a process may make calls of another architecture.
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# A step of the filter: code, where to go on if true and if false, operand (linux/filter.h, linux/seccomp.h).
LOAD, IF_EQUAL, IF_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
CALL_AT, ARCHITECTURE_AT, FLAGS_AT = 0, 4, 16  # of struct seccomp_data; clone's flags are its first argument
CLONE_THREAD = 0x10000
ALLOW = (RETURN, 0, 0, 0x7FFF0000)
REFUSE = (RETURN, 0, 0, 0x00050000 | errno.EPERM)
UNKNOWN = (RETURN, 0, 0, 0x00050000 | errno.ENOSYS)
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, ALL_THREADS = 38, 1, 1


def confine(line: int, memory: int, cpu_seconds: int, file_size: int) -> bool:
    """Leaves this process standard input and output and the line to its parent, and limits what it can take.

    Gives whether calls are filtered too.
    """
    os.dup2(line, LINE)
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)  # FFmpeg and Python quote what they read: none of it belongs in a log
    os.closerange(LINE + 1, 256)
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_NOFILE, LINE + 1),
    ):
        already = resource.getrlimit(what)[1]
        lower = limit if already == resource.RLIM_INFINITY else min(limit, already)
        resource.setrlimit(what, (lower, lower))
    return filter_calls(os.uname().machine)


def filter_calls(machine: str) -> bool:
    """From now on `ALLOWED` and new threads are all that this process can ask of the kernel; the rest fails with EPERM.

    False, and nothing changes, where the kernel does not take such a filter.
    """
    if machine not in MACHINES:
        return False
    code = b"".join(struct.pack("HBBI", *step) for step in _steps(*MACHINES[machine]))
    held = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(held)))
    libc, no = ctypes.CDLL(None), ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), no, no, no) != 0:  # or only root may filter
        return False
    call = ctypes.c_long(SECCOMP[MACHINES[machine][0]])
    return bool(libc.syscall(call, ctypes.c_ulong(SET_MODE_FILTER), ctypes.c_ulong(ALL_THREADS), program) == 0)


def _steps(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """The filter's program."""
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (IF_EQUAL, 1, 0, architecture), REFUSE, (LOAD, 0, 0, CALL_AT)]
    for numbers in ALLOWED.values():
        steps += [(IF_EQUAL, 0, 1, numbers[column]), ALLOW]
    # clone3 has its flags where no filter can look; told that there is none, libc takes clone for a thread.
    steps += [(IF_EQUAL, 0, 1, CLONE3[column]), UNKNOWN]
    steps += [(IF_EQUAL, 0, 3, CLONE[column]), (LOAD, 0, 0, FLAGS_AT), (IF_BIT, 0, 1, CLONE_THREAD), ALLOW]
    return [*steps, REFUSE]
