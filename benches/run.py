"""Measures our primitives, queues and pools and the stdlib's, in turn: `make bench` calls it.

On 3.14 between processes, on 3.14t between threads; each round in fresh processes, one for ours and
one for the stdlib's, which take turns row by row. Which of them goes first changes with the round.
Some rows have rivals as well, which come last.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import floors
import installation
import interpreters
import machine
import report
import venvs
import watched
import works
from contenders import OURS, STDLIB
from installation import Installed
from results import Measured, OnInterpreter
from session import MeasureError, Session

if TYPE_CHECKING:
    from interpreters import Interpreter

INTERRUPTED = 130
# Rounds, and seconds per row, contender and round.
FULL = (5, 0.25)
QUICK = (2, 0.04)
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Options:
    """What is to be measured, how often, and for how long."""

    rounds: int
    seconds: float
    kinds: tuple[str, ...]
    words: tuple[str, ...]
    with_floors: bool


def main() -> int:
    """Measure, show, and write down."""
    parser, options = _options()
    if not works.matching(options.words):
        parser.error(f"no row's name has {' or '.join(options.words)} in it; --list shows them")
    watched.end_by_exception()
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except venvs.VenvError as error:
        print(error, file=sys.stderr)
        return 1


def _options() -> tuple[argparse.ArgumentParser, Options]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and shorter rounds, in a minute or two")
    add("--only", action="append", default=[], metavar="WORD", help="rows with it in the name")
    add(
        "--python",
        action="append",
        choices=interpreters.KINDS,
        metavar="KIND",
        help=f"one of {', '.join(interpreters.KINDS)}; default: {', '.join(interpreters.REQUIRED)}",
    )
    add("--rounds", type=_count, metavar="N", help=f"default: {FULL[0]}, quick {QUICK[0]}")
    add(
        "--seconds",
        type=_duration,
        metavar="S",
        help=f"per row, contender and round; default: {FULL[1]}, quick {QUICK[1]}",
    )
    add("--no-floors", action="store_true", help="leave the floors without Python out")
    add("--list", action="store_true", help="name the rows and end")
    given = parser.parse_args()
    if given.list:
        width = max(len(row.name) for row in works.ROWS)
        print(*(f"{row.name:<{width}}  {row.title}" for row in works.ROWS), sep="\n")
        sys.exit(0)
    rounds, seconds = QUICK if given.quick else FULL
    return parser, Options(
        given.rounds or rounds,
        given.seconds or seconds,
        tuple(given.python or interpreters.REQUIRED),
        tuple(given.only),
        not given.no_floors,
    )


def _run(options: Options) -> int:
    progress = watched.Progress("bench")
    chosen = installation.obtain(options.kinds, progress)
    missing = set(options.kinds) - {one.kind for one in chosen}
    found: list[OnInterpreter] = []
    where = machine.facts()  # what is committed meanwhile isn't measured
    with contextlib.ExitStack() as stack:
        pythons = [stack.enter_context(installation.held(one, progress)) for one in chosen]
        progress.end("built and installed")
        floor = floors.measure(progress) if options.with_floors else {}
        progress = watched.Progress("bench")
        for interpreter, python in zip(chosen, pythons, strict=True):
            installed = Installed(python, _rivals(interpreter, options, progress))
            found.append(_measure_on(interpreter, installed, options, progress))
    print(f"\n{report.tables(found, floor)}\n")
    file = report.write(found, floor, where, asdict(options))
    print(report.last_line(found, progress.seconds, file), flush=True)
    has_problems = any(measured.problems for one in found for measured in one.rows)
    return 1 if missing or has_problems else 0


def _backend(interpreter: Interpreter) -> str:
    return "threading" if interpreter.kind.endswith("t") else "multiprocessing"


def _rivals(
    interpreter: Interpreter, options: Options, progress: watched.Progress
) -> dict[str, Path]:
    """Install whom the rows name beside the stdlib; between threads there is nobody."""
    if _backend(interpreter) == "threading":
        return {}
    names = {rival: None for row in works.matching(options.words) for rival in row.rivals}
    return installation.rivals(list(names), interpreter, progress)


def _measure_on(
    interpreter: Interpreter, installed: Installed, options: Options, progress: watched.Progress
) -> OnInterpreter:
    """Measure all rounds on one interpreter."""
    rows = [Measured(row) for row in works.matching(options.words)]
    found = OnInterpreter(interpreter.kind, interpreter.version, _backend(interpreter), rows)
    for index in range(options.rounds):
        _Round(found, installed, index, options.seconds, progress).measure()
    progress.phase(f"{interpreter.kind}, {options.rounds} rounds of {len(rows)} rows")
    progress.end("done")
    return found


class _Round:
    """One round on one interpreter: each row once, each contender in a process of its own."""

    def __init__(
        self,
        found: OnInterpreter,
        installed: Installed,
        index: int,
        seconds: float,
        progress: watched.Progress,
    ) -> None:
        self._found = found
        self._installed = installed
        self._index = index
        self._seconds = seconds
        self._progress = progress
        self._sessions: dict[str, Session] = {}

    def measure(self) -> None:
        """Go through the rows; a process that fails in one is replaced for the next."""
        order = (OURS, STDLIB) if self._index % 2 == 0 else (STDLIB, OURS)
        rows = [one for one in self._found.rows if self._index < one.row.most_rounds]
        with contextlib.ExitStack() as stack:
            for number, measured in enumerate(rows, start=1):
                rivals = [one for one in measured.row.rivals if one in self._installed.rivals]
                for contender in (*order, *rivals):
                    self._progress.phase(
                        f"{self._found.kind}, round {self._index + 1}, "
                        f"row {number} of {len(rows)}: {measured.row.name}, {contender}"
                    )
                    if contender not in measured.problems:
                        self._take(measured, contender, stack)

    def _take(self, measured: Measured, contender: str, stack: contextlib.ExitStack) -> None:
        row = measured.row
        try:
            if row.is_fresh:
                with self._session(contender, row.name) as session:
                    session.hello(self._progress)
                    sample = session.ask(row.name, self._seconds, self._progress)
            else:
                session = self._shared_session(contender, stack)
                sample = session.ask(row.name, self._seconds, self._progress)
        except MeasureError as error:
            measured.problems[contender] = str(error)
            if not row.is_fresh and contender in self._sessions:
                self._sessions.pop(contender).end(gently=False)
            return
        measured.add(contender, sample)

    def _shared_session(self, contender: str, stack: contextlib.ExitStack) -> Session:
        """Return the process that measures a contender's rows, started if need be."""
        if contender not in self._sessions:
            session = stack.enter_context(self._session(contender, "rows"))
            self._sessions[contender] = session
            self._found.processes[contender] = session.hello(self._progress)
        return self._sessions[contender]

    def _session(self, contender: str, what: str) -> Session:
        name = f"{self._found.kind}-round{self._index + 1}-{what}"
        modules = self._installed.rivals.get(contender)
        return Session(self._installed.python, contender, self._found.backend, name, modules)


def _count(text: str) -> int:
    """Read a number of rounds."""
    if (number := int(text)) < 1:
        message = f"must be at least 1, not {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def _duration(text: str) -> float:
    """Read a number of seconds."""
    if not 0 < (seconds := float(text)) <= MOST_SECONDS:
        message = f"must be above 0 and at most {MOST_SECONDS:g}, not {text}"
        raise argparse.ArgumentTypeError(message)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
