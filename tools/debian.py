"""What Debian's own tools can fetch: packages, and source archives from the configured mirror."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import places
import watched

if TYPE_CHECKING:
    from collections.abc import Sequence

APT_HELPER = Path("/usr/lib/apt/apt-helper")
SECONDS_TO_DOWNLOAD = 600.0
SECONDS_TO_INSTALL = 900.0


def can_install() -> bool:
    """Whether this user may install packages, without being asked anything."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str], progress: watched.Progress) -> bool:
    """Install packages, after an update of the lists if they are too old (or not there) for it."""
    return _apt_get(["install", *packages], progress) or (
        _apt_get(["update"], progress) and _apt_get(["install", *packages], progress)
    )


def _apt_get(arguments: Sequence[str], progress: watched.Progress) -> bool:
    """Run apt-get and say what it does; tell whether it succeeded."""
    progress.phase(f"apt-get {' '.join(arguments)}")
    return watched.run(
        ["apt-get", "--yes", "--no-install-recommends", *arguments],
        places.OUTPUT / f"apt-get-{arguments[0]}.log",
        progress,
        timeout=SECONDS_TO_INSTALL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    ).is_good


def download(pool_path: str, target: Path, sha256: str, progress: watched.Progress) -> bool:
    """Fetch a file of the archive's pool from the first configured mirror that has it.

    apt-helper checks the SHA-256 itself. The pool is common to all releases, so a package of a
    later release is found there too.
    """
    return any(
        watched.run(
            [APT_HELPER, "download-file", mirror + pool_path, target, f"SHA256:{sha256}"],
            places.OUTPUT / "apt-helper.log",
            progress,
            timeout=SECONDS_TO_DOWNLOAD,
        ).is_good
        for mirror in _mirrors()
    )


def _mirrors() -> list[str]:
    """Return the mirrors that this machine's apt is configured to use, each ending in a slash.

    Asked for what an update would fetch, apt answers without a list of packages and without root.
    """
    if not APT_HELPER.exists():
        return []
    told = subprocess.run(
        ["apt-get", "update", "--print-uris"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return list(dict.fromkeys(re.findall(r"^'(\S+/)dists/", told.stdout, re.MULTILINE)))
