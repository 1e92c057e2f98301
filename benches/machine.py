"""Where and on what a run was measured: without it the numbers say nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import places


def facts() -> dict[str, object]:
    """Describe the machine and the state of the repository."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        "commit": _git("rev-parse", "--short=10", "HEAD") or "unknown",
        "has_changes": bool(_git("status", "--porcelain")),
    }


def _git(*arguments: str) -> str:
    told = subprocess.run(
        ["git", "-C", places.REPOSITORY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return told.stdout.strip() if told.returncode == 0 else ""


def _cpu_model() -> str:
    """Return the name that the kernel gives to the first CPU; not every architecture has one."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
