"""Plays the scenarios again and again, for a stated time: `make chaos` calls it.

In an order that a seed decides, on processes and on threads, in environments with the package
installed. With `--table` each is played once, by the standard library and others' pools as well,
and the tables of docs/reliability.md are written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path += [str(REPOSITORY / "tools"), str(REPOSITORY / "benches")]

import installation
import interpreters
import scenarios
import subjects
import tables
import venvs
import watched
from season import Entry, Season
from theatre import Cast

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130
# In the usual run, and in a soak: there is one kill for each 20 ms or so.
KILLS_A_MINUTE = 100


def main() -> int:
    """Play, show, and say in one line what came of it."""
    given = _options()
    if given.list:
        print(*(scenario.title for scenario in scenarios.all_scenarios()), sep="\n")
        return 0
    watched.end_by_exception()
    try:
        with contextlib.ExitStack() as stack:
            return _run(given, list(_casts(given, stack)))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except venvs.VenvError as error:
        print(error, file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add, variable = parser.add_argument, os.environ.get
    add("--minutes", type=float, default=float(variable("CHAOS_MINUTES") or 5))
    add("--seed", type=int, default=int(variable("CHAOS_SEED") or random.randrange(10**6)))
    add("--kills", type=int, default=int(variable("CHAOS_KILLS") or 0), help="in each kill soak")
    add("--only", action="append", default=[], metavar="WORD", help="scenarios with it in the name")
    add("--subject", action="append", default=[], help=f"default: {', '.join(subjects.IS_OURS)}")
    add("--python", action="append", choices=interpreters.KINDS, metavar="KIND")
    add("--backend", action="append", choices=(scenarios.PROCESSES, scenarios.THREADS))
    add("--here", action="store_true", help="by the Python that runs this, as it is")
    add("--once", action="store_true", help="each scenario once, however long that takes")
    add("--table", action="store_true", help="with all others, once, into docs/reliability.md")
    add("--list", action="store_true", help="name the scenarios and end")
    return parser.parse_args()


def _casts(given: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[Cast]:
    """Return who can play: each interpreter on each backend."""
    backends = given.backend or [scenarios.PROCESSES, scenarios.THREADS]
    if given.here:
        for backend in backends:
            yield Cast(sys.executable, backend, f"this Python, {backend}")
        return
    progress = watched.Progress("chaos")
    if given.table:
        kinds, backends = ["3.14"], [scenarios.PROCESSES]
    else:
        kinds = given.python or list(interpreters.REQUIRED)
    for interpreter in installation.obtain(kinds, progress):
        python = str(stack.enter_context(installation.held(interpreter, progress)))
        modules = {}
        if given.table or set(given.subject) & set(subjects.PACKAGES):
            found = installation.rivals(subjects.PACKAGES, interpreter, progress)
            modules = {name: str(folder) for name, folder in found.items()}
        for backend in backends:
            yield Cast(python, backend, f"{interpreter.kind}, {backend}", modules)
    progress.end("built and installed")


def _run(given: argparse.Namespace, casts: list[Cast]) -> int:
    kills = given.kills or int(max(given.minutes, 2) * KILLS_A_MINUTE)
    everyone = (subjects.OURS, subjects.STDLIB, *subjects.POOLS)
    who = given.subject or (everyone if given.table else subjects.IS_OURS)
    entries = [
        Entry(scenario, subject, cast)
        for scenario in scenarios.all_scenarios(kills)
        if all(word.lower() in scenario.title.lower() for word in given.only)
        for cast in casts
        if cast.backend in scenario.backends
        for subject in scenario.subjects
        if subject in who and (subject not in subjects.PACKAGES or subject in cast.modules)
    ]
    if not entries:
        print(f"no scenario's name has {' and '.join(given.only)} in it; --list shows them")
        return 1
    how_long = "once" if given.once or given.table else f"for {given.minutes:g} minutes"
    print(f"chaos: {len(entries)} plays a round, {how_long}, seed {given.seed}", flush=True)
    progress = watched.Progress("chaos")
    running = Season(entries, given.seed, progress)
    running.run(given.minutes * 60, once=given.once or given.table)
    for title, reason in sorted(running.totals.reasons.items()):
        print(f"skipped: {title}: {reason}")
    if given.table:
        file = REPOSITORY / "docs" / "reliability.md"
        tables.write(file, running.found)
        print(f"written: {file.relative_to(REPOSITORY)}")
    progress.phase("chaos")
    progress.end(f"{running.totals} (seed {given.seed})")
    return 1 if running.totals.failed or len(casts) == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
