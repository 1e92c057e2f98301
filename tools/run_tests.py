"""Runs all tests of the project: what `make test` calls.

Lint, Rust tests, then the Python tests on every interpreter, many of them once more in parallel
threads, nonsense at random for minutes, processes killed at each step of the engine, and the
examples of the docs. A step that fails stops only those that need it. The last line says how many
tests passed over everything.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import interpreters
import places
import pytest_runs
import venvs
import watched
from pytest_runs import Configuration
from steps import ONE_FAILED, ONE_PASSED, TestRun, count_rust

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from interpreters import Interpreter

PARTS = ("lint", "rust", "py", "parallel", "fuzz", "faults", "docs")
SECONDS_TO_LINT = 600.0
SECONDS_FOR_RUST = 900.0
# A minute each to build and to run on two cores.
SECONDS_FOR_LOOM = 900.0
SECONDS_TO_BUILD = 600.0
# Enough to see the examples work on both backends; the tests go through all the others.
DOCS = (Configuration("3.14"), Configuration("3.14t"))
# Where the build with fault points is tested.
FAULTS = Configuration("3.14", {"FREETHREADING_BACKEND": "multiprocessing"})
CORE = ("--locked", "--package", "freethreading-core")


@dataclass(frozen=True)
class Options:
    """What of it all is to be run."""

    parts: Sequence[str]
    kinds: Sequence[str]
    keyword: str | None
    lanes: int


def main() -> int:
    """Run what is asked for, and close with the line of totals."""
    options = _options()
    watched.end_by_exception()
    os.environ["CARGO_TERM_COLOR"] = "never"  # the logs are read
    test_run = TestRun()
    found = _interpreters(test_run)
    tools = _tools(test_run, found)
    if "lint" in options.parts:
        _lint_rust(test_run, found)
    if "rust" in options.parts:
        _test_rust(test_run)
    if "fuzz" in options.parts:
        _fuzz_rust(test_run)
    if "lint" in options.parts and tools is not None:
        _lint_python(test_run, tools)
    if tools is not None:
        _test_python(test_run, tools, found, options)
    for name in test_run.failures:
        print(f"failed: {name}")
    print(test_run.totals, flush=True)
    return 0 if test_run.totals.passed and not test_run.totals.failed else 1


def _options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help=f"one of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--python",
        action="append",
        choices=interpreters.KINDS,
        metavar="KIND",
        help=f"one of {', '.join(interpreters.KINDS)}",
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="the Python tests that match, for pytest")
    parser.add_argument(
        "--lanes",
        type=int,
        default=2,
        metavar="N",
        help="how many interpreters are tested side by side (default: 2)",
    )
    given = parser.parse_args()
    return Options(given.only or PARTS, given.python or interpreters.KINDS, given.k, given.lanes)


def _interpreters(test_run: TestRun) -> dict[str, Interpreter]:
    """Find the interpreters and obtain the required ones."""
    name = "interpreters"
    progress = watched.Progress(name)
    found, problems = interpreters.ensure(progress)
    progress.phase(name)
    if problems:
        test_run.record(progress, name, ONE_FAILED, "\n".join(problems))
    else:
        progress.end(", ".join(f"{one.kind} ({one.version})" for one in found.values()))
    return found


def _tools(test_run: TestRun, found: dict[str, Interpreter]) -> venvs.Venv | None:
    """Make the environment that holds maturin, mypy and ruff."""
    name = "development tools"
    progress = watched.Progress(name)
    try:
        tools = venvs.tools(next(iter(found.values())), progress)
    except (StopIteration, venvs.VenvError) as error:
        test_run.record(progress, name, ONE_FAILED, str(error) or "no interpreter")
        return None
    progress.phase(name)
    progress.end("ready")
    return tools


def _lint_rust(test_run: TestRun, found: dict[str, Interpreter]) -> None:
    """Check the form of the Rust sources."""
    test_run.command("rustfmt", ["cargo", "fmt", "--all", "--check"], timeout=SECONDS_TO_LINT)
    clippy = ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
    env = dict(os.environ)
    if "3.14" in found:
        env["PYO3_PYTHON"] = str(found["3.14"].executable)
    test_run.command("clippy", clippy, timeout=SECONDS_FOR_RUST, env=env)


def _test_rust(test_run: TestRun) -> None:
    """Test the crate that needs no Python; the binding is tested from Python."""
    nextest = ["nextest", "run"] if shutil.which("cargo-nextest") else ["test", "--lib", "--tests"]
    test_run.command(
        f"cargo {nextest[0]}",
        ["cargo", *nextest, *CORE],
        timeout=SECONDS_FOR_RUST,
        count=count_rust,
    )
    test_run.command(
        "cargo test --doc",
        ["cargo", "test", "--doc", *CORE],
        timeout=SECONDS_FOR_RUST,
        count=count_rust,
    )
    test_run.command("make loom", ["make", "loom"], timeout=SECONDS_FOR_LOOM, count=count_rust)


def _fuzz_rust(test_run: TestRun) -> None:
    """Overwrite the memory of the crate that needs no Python."""
    minutes = os.environ.get("FUZZ_MINUTES", pytest_runs.MINUTES_OF_NONSENSE)
    test_run.command(
        "nonsense for the core",
        ["cargo", "test", *CORE, "--test", "hostile", "--", "--test-threads=1"],
        timeout=SECONDS_FOR_RUST + 60 * float(minutes),
        count=count_rust,
        env={**os.environ, "FUZZ_MINUTES": minutes},
    )


def _lint_python(test_run: TestRun, tools: venvs.Venv) -> None:
    """Check the form of the Python sources, and their types."""
    ruff = tools.program("ruff")
    steps: dict[str, list[str | Path]] = {
        "source rules": [sys.executable, "tools/source_rules.py"],
        "ruff check": [ruff, "check"],
        "ruff format": [ruff, "format", "--check"],
        "mypy": [tools.program("mypy")],
    }
    for name, command in steps.items():
        test_run.command(name, command, timeout=SECONDS_TO_LINT)


def _test_python(
    test_run: TestRun, tools: venvs.Venv, found: dict[str, Interpreter], options: Options
) -> None:
    """Build the package for each interpreter, then test it there in each configuration."""
    wanted = [found[kind] for kind in options.kinds if kind in found and _runs(kind, options)]
    wheels = {one.kind: _build_wheel(test_run, tools, one) for one in wanted}
    # Tests wait most of the time. The newest come first, for they have the most configurations.
    with ThreadPoolExecutor(max(1, options.lanes)) as lanes:
        tested = [
            lanes.submit(_test_on, test_run, interpreter, wheel, options)
            for interpreter in reversed(wanted)
            if (wheel := wheels[interpreter.kind]) is not None
        ]
        if "faults" in options.parts and FAULTS.kind in options.kinds:
            tested.append(lanes.submit(_test_faults, test_run, tools, found, options))
        try:
            for one in tested:
                one.result()
        except BaseException:
            watched.stop_all()
            raise


def _build_wheel(test_run: TestRun, tools: venvs.Venv, interpreter: Interpreter) -> Path | None:
    """Build the wheel as it would be released; None if that failed."""
    folder = places.OUTPUT / "wheels" / interpreter.kind
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path] = [
        *(tools.program("maturin"), "build", "--release", "--locked"),
        *("--interpreter", interpreter.executable, "--out", folder),
    ]
    name = f"wheel for {interpreter.kind}"
    is_built = test_run.command(name, command, timeout=SECONDS_TO_BUILD)
    return next(folder.glob("*.whl"), None) if is_built else None


def _test_faults(
    test_run: TestRun, tools: venvs.Venv, found: dict[str, Interpreter], options: Options
) -> None:
    """Build the package with fault points, unoptimized, and kill its processes at each of them."""
    interpreter = found.get(FAULTS.kind)
    if interpreter is None:
        return
    folder = places.OUTPUT / "wheels" / "faults"
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path] = [
        *(tools.program("maturin"), "build", "--locked", "--profile", "dev"),
        *("--features", "faults"),
        *("--interpreter", interpreter.executable, "--out", folder),
    ]
    name = "wheel with fault points"
    if not test_run.command(name, command, timeout=SECONDS_TO_BUILD):
        return
    name = "installation with fault points"
    progress = watched.Progress(name)
    try:
        with venvs.held("faults", interpreter, venvs.REQUIREMENTS / "test.txt", progress) as venv:
            progress.phase(name)
            wheel = next(folder.glob("*.whl"))
            venv.pip_install(["--no-deps", "--force-reinstall", wheel], progress)
            test_run.record(progress, name, ONE_PASSED)
            chosen = ["-k", options.keyword] if options.keyword else []
            arguments = ["tests/test_faults.py", *chosen]
            may_be_empty = options.keyword is not None
            pytest_runs.run(test_run, venv, FAULTS, "faults", arguments, may_be_empty=may_be_empty)
    except venvs.VenvError as error:
        test_run.record(progress, name, ONE_FAILED, str(error))


def _test_on(test_run: TestRun, interpreter: Interpreter, wheel: Path, options: Options) -> None:
    """Install a wheel in the interpreter's own environment and run pytest there."""
    name = f"installation on {interpreter.kind}"
    progress = watched.Progress(name)
    try:
        with venvs.tests(interpreter, progress) as venv:
            progress.phase(name)
            venv.pip_install(["--no-deps", "--force-reinstall", wheel], progress)
            test_run.record(progress, name, ONE_PASSED)
            _pytest(test_run, venv, interpreter.kind, options)
    except venvs.VenvError as error:
        test_run.record(progress, name, ONE_FAILED, str(error))


def _pytest(test_run: TestRun, venv: venvs.Venv, kind: str, options: Options) -> None:
    """Run the tests in each configuration of an interpreter, then the examples of the docs."""
    chosen = ["-k", options.keyword] if options.keyword else []
    for what, arguments, configuration in _runs(kind, options):
        pytest_runs.run(
            test_run,
            venv,
            configuration,
            what,
            [*arguments, *chosen],
            may_be_empty=options.keyword is not None,
        )


def _runs(kind: str, options: Options) -> list[tuple[str, list[str], Configuration]]:
    """Return what is to be run by an interpreter: its name, the arguments, and how."""
    in_parallel = [*pytest_runs.IN_PARALLEL, *pytest_runs.PARALLEL_FILES]
    runs: dict[str, tuple[str, list[str], tuple[Configuration, ...]]] = {
        "py": ("pytest", [], pytest_runs.ALL),
        "parallel": ("pytest in parallel threads", in_parallel, (pytest_runs.PARALLEL,)),
        "fuzz": ("nonsense", pytest_runs.NONSENSE, pytest_runs.FUZZED),
        "docs": ("examples of the docs", ["tests/docs_examples.py"], DOCS),
    }
    return [
        (what, arguments, configuration)
        for part, (what, arguments, configurations) in runs.items()
        if part in options.parts
        for configuration in configurations
        if configuration.kind == kind
    ]


if __name__ == "__main__":
    sys.exit(main())
