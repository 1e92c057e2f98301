"""Circumstances in which a scenario is played: what the kernel or the system lacks.

`command` wraps the program's command line, for those that are there from its beginning (mounts, a
process namespace, a clock); `begin` does the rest within it. What can't be had here has a reason.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DEVICES = " && ".join(
    f"mknod -m 666 /dev/{name} c 1 {minor}" for name, minor in (("null", 3), ("urandom", 9))
)
_MOUNTS = {
    "/dev/shm is missing": f"mount -t tmpfs -o size=64k none /dev && {_DEVICES}",
    "/dev/shm is read-only": "mount -t tmpfs -o ro none /dev/shm",
    "/dev/shm has 64 KiB": "mount -t tmpfs -o size=64k none /dev/shm",
}
_MOUNTED = next(iter(_MOUNTS))
PIDS = "process ids come again"
CLOCK = "the clock is set back"
USER = "as a user with limits"
# The limit of processes doesn't hold for root. What root may read stays readable.
_AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *(f"--{kind}-caps=-all,+dac_override,+dac_read_search" for kind in ("inh", "ambient")),
)
# A kernel that doesn't know a system call, and a filter that forbids it (old Docker, EPERM).
_WITHOUT, _REFUSED = "without ", "with EPERM from "
_CALLS = {
    "x86_64": {"memfd_create": 319, "pidfd_open": 434, "futex_waitv": 449},
    "aarch64": {"memfd_create": 279, "pidfd_open": 434, "futex_waitv": 449},
}
_CLOCK_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long behind(void) { return access(getenv("CHAOS_CLOCK"), F_OK) ? 0 : 86400; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec -= behind();
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec told;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &told);
    now->tv_sec = told.tv_sec;
    now->tv_usec = told.tv_nsec / 1000;
    return 0;
}
"""


def command(name: str, program: list[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a program under a hardship, and what to set for it."""
    if name in _MOUNTS:
        script = f'{_MOUNTS[name]} && exec "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", script, *program], {}
    if name == PIDS:
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *program], {}
    if name == USER and os.geteuid() == 0:
        return [*_AS_NOBODY, *program], {}
    if name == CLOCK:
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_CLOCK_SOURCE, encoding="ascii")
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True
        )
        return program, {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(folder / "gate-back")}
    if name == "" and not why_not(_MOUNTED):
        # Names in /dev/shm that are left can be told from those of other programs.
        (folder / "shm").mkdir(mode=0o1777)
        script = 'mount --bind "$0" /dev/shm && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(folder / "shm"), *program], {}
    return program, {}


@functools.cache
def why_not(name: str) -> str:
    """Return why a hardship can't be had here, or nothing."""
    if name in _MOUNTS:
        return _unshare("--mount", "sh", "-c", "mount -t tmpfs none /mnt")
    if name == PIDS:
        write = "echo 1000 > /proc/sys/kernel/ns_last_pid"
        return _unshare("--pid", "--fork", "--mount-proc", "sh", "-c", write)
    if name == USER and os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "needs setpriv, to be another user than root"
    if name == CLOCK and shutil.which("gcc") is None:
        return "needs gcc, for a library that sets the clock back"
    if name.startswith((_WITHOUT, _REFUSED)) and platform.machine() not in _CALLS:
        return "knows no numbers of system calls of this machine"
    return ""


def _unshare(*arguments: str) -> str:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return "needs namespaces of its own: unshare, as root"
    tried = subprocess.run(["unshare", *arguments], check=False, capture_output=True)
    return "" if tried.returncode == 0 else "namespaces of its own are forbidden here"


def begin(name: str) -> None:
    """Do what is to be done within the process, before anything else is imported."""
    if name.startswith(_WITHOUT):
        _forbid(name.removeprefix(_WITHOUT).split(" and "), errno.ENOSYS)
    if name.startswith(_REFUSED):
        _forbid([name.removeprefix(_REFUSED)], errno.EPERM)


def _forbid(names: list[str], error: int) -> None:
    """Have the kernel answer these system calls with an error, for good."""
    load, jump_if_equal, give_back = 0x20, 0x15, 0x06
    refuse, allow = 0x0005_0000 | error, 0x7FFF_0000
    calls = _CALLS[platform.machine()]
    steps = [(load, 0, 0, 0)]
    for name in names:
        steps += [(jump_if_equal, 0, 1, calls[name]), (give_back, 0, 0, refuse)]
    steps.append((give_back, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    no_new_privileges, seccomp, filtered = 38, 22, 2
    control = ctypes.CDLL(None, use_errno=True).prctl
    if control(no_new_privileges, 1, 0, 0, 0) or control(seccomp, filtered, program, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")


LACKS = (
    *_MOUNTS,
    *(f"{_WITHOUT}{name}" for name in _CALLS["x86_64"]),
    *(f"{_REFUSED}{name}" for name in _CALLS["x86_64"]),
    "without memfd_create and pidfd_open and futex_waitv",
)
