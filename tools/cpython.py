"""Builds CPython from source into the cache folder, where no package of the machine has it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import debian
import places
import watched

VERSION = "3.14.7"
SERIES = "3.14"
ARCHIVE = f"python{SERIES}_{VERSION}.orig.tar.xz"
POOL_PATH = f"pool/main/p/python{SERIES}/{ARCHIVE}"
SHA256 = "3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81"
SOURCE_VARIABLE = "FREETHREADING_CPYTHON_SOURCE"

# What is missing without it, and the Debian package that has it.
TOOLS = {"cc": "gcc", "make": "make"}
NEEDED_HEADERS = {
    "stdlib.h": "libc6-dev",
    "zlib.h": "zlib1g-dev",
    "ffi.h": "libffi-dev",
    "openssl/ssl.h": "libssl-dev",
}
WANTED_HEADERS = {
    "bzlib.h": "libbz2-dev",
    "lzma.h": "liblzma-dev",
    "sqlite3.h": "libsqlite3-dev",
}

SECONDS_TO_CONFIGURE = 600.0
SECONDS_TO_MAKE = 2400.0
LINES_OF_A_FAILURE = 30


class BuildError(Exception):
    """CPython could not be built; the text says why and what would help."""


def prefix(*, free_threaded: bool) -> Path:
    """Return the folder that a build is installed to."""
    return places.cache() / "cpython" / (VERSION + "t" * free_threaded)


def is_finished(installed: Path) -> bool:
    """Whether an installation was not cut off: it is marked, or has pip, which comes last."""
    return (installed / ".complete").exists() or (installed / "bin" / f"pip{SERIES}").exists()


def build(progress: watched.Progress, *, free_threaded: bool) -> None:
    """Build and install CPython, unless that has been done; wait if another process is at it."""
    target = prefix(free_threaded=free_threaded)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".lock-{target.name}").open("w") as lock:
        watched.take(lock, progress, f"CPython {target.name}")
        if is_finished(target):
            return
        _provide_libraries(progress)
        archive = _source(progress)
        work = target.with_name(f".build-{target.name}")
        for leftover in (work, target):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _build_in(work, archive, target, progress)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        (target / ".complete").touch()


def _build_in(work: Path, archive: Path, target: Path, progress: watched.Progress) -> None:
    """Unpack, configure, compile and install."""
    name = f"CPython {target.name}"
    progress.phase(f"{name}: unpacking")
    with tarfile.open(archive) as tar:
        tar.extractall(work)  # noqa: S202 - the archive is the one that SHA256 names
    (source,) = work.iterdir()
    gil = ["--disable-gil"] if target.name.endswith("t") else []
    options = [f"--prefix={target}", *gil, "--with-ensurepip=install", "CFLAGS=-O3"]
    jobs = len(os.sched_getaffinity(0))
    steps: list[tuple[str, list[str], float]] = [
        ("configuring", ["./configure", *options], SECONDS_TO_CONFIGURE),
        ("compiling", ["make", f"-j{jobs}"], SECONDS_TO_MAKE),
        ("installing", ["make", "install"], SECONDS_TO_MAKE),
    ]
    for what, command, timeout in steps:
        progress.phase(f"{name}: {what}")
        log = target.with_name(f"{target.name}-{what}.log")
        ended = watched.run(
            command, log, progress, timeout=timeout, cwd=source, env=_build_environment()
        )
        if not ended.is_good:
            message = f"{name}: {what} failed:\n{ended.tail(LINES_OF_A_FAILURE)}"
            raise BuildError(message)
        log.unlink()


def _build_environment() -> dict[str, str]:
    """Return the environment without what would reach into the build from an outer make."""
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(outer)}


def _source(progress: watched.Progress) -> Path:
    """Return CPython's source archive: a named file, a shared one, or Debian's."""
    progress.phase(f"looking for the source of CPython {VERSION}")
    if named := os.environ.get(SOURCE_VARIABLE):
        return _checked(Path(named))
    shared = places.REPOSITORY.parent / "shared" / "cpython" / ARCHIVE
    if shared.exists():
        return _checked(shared)
    downloaded = places.cache() / "source" / ARCHIVE
    if downloaded.exists():
        return _checked(downloaded)
    progress.phase(f"downloading the source of CPython {VERSION} from Debian's mirror")
    downloaded.parent.mkdir(parents=True, exist_ok=True)
    partial = downloaded.with_name(f"{ARCHIVE}.{os.getpid()}")
    if debian.download(POOL_PATH, partial, SHA256, progress):
        return _checked(partial.replace(downloaded))
    message = (
        f"no source of CPython {VERSION} found: {SOURCE_VARIABLE} is not set, {shared} does not "
        f"exist, and apt could not download {POOL_PATH}. Put the archive somewhere and name it in "
        f"{SOURCE_VARIABLE}"
    )
    raise BuildError(message)


def _checked(archive: Path) -> Path:
    """Return the archive, if it is the one that is pinned."""
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"the source of CPython can't be read: {error}"
        raise BuildError(message) from error
    if found != SHA256:
        message = f"{archive} has SHA-256 {found}; expected is {SHA256}, {ARCHIVE} of Debian"
        raise BuildError(message)
    return archive


def _provide_libraries(progress: watched.Progress) -> None:
    """See that the compiler and the libraries are there, by installing packages if need be."""
    missing = _missing()
    if missing and debian.can_install():
        progress.end(f"installs what CPython is built with: {' '.join(missing)}")
        debian.install(missing, progress)
        missing = _missing()
    essential = {*TOOLS.values(), *NEEDED_HEADERS.values()}
    if essential.intersection(missing):
        message = f"CPython can't be built without these packages: {' '.join(missing)}"
        raise BuildError(message)
    if missing:
        progress.end(f"goes on without these packages: {' '.join(missing)}")


def _missing() -> list[str]:
    """Return the Debian packages whose programs or headers are not there."""
    tools = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    headers = {**NEEDED_HEADERS, **WANTED_HEADERS}
    return tools + [package for header, package in headers.items() if not _has_header(header)]


def _has_header(header: str) -> bool:
    """Ask the preprocessor whether it finds a header."""
    if shutil.which("cc") is None:
        return False
    return (
        subprocess.run(
            ["cc", "-E", "-x", "c", "-o", os.devnull, "-"],
            input=f"#include <{header}>\n",
            text=True,
            stderr=subprocess.DEVNULL,
        ).returncode
        == 0
    )
