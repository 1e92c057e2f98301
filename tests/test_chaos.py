"""Each scenario of the chaos harness once, by one of those who can play it (see tests/chaos).

Some are played at the same time, before the tests ask for their outcomes, as most of them wait for
something. `make chaos` plays all of them, again and again, with many more kills.
"""

from __future__ import annotations

import sys
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import freethreading
import scenarios
import season
import subjects
import theatre
import verdicts
from season import Entry
from test_worker import once_per_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theatre import Outcome

pytestmark = once_per_kind

CAST = theatre.Cast(sys.executable, freethreading.get_backend(), freethreading.get_backend())


def entries() -> list[Entry]:
    """Return a play for each scenario; where both pools can play it, they take turns."""
    found = []
    for number, scenario in enumerate(scenarios.all_scenarios()):
        ours = [subject for subject in scenario.subjects if subject in subjects.IS_OURS]
        if CAST.backend in scenario.backends:
            found.append(Entry(scenario, ours[number % len(ours)], CAST))
    return found


def play(entry: Entry) -> Outcome:
    seed = zlib.crc32(str(entry).encode())
    return theatre.play(entry.scenario, entry.subject, entry.cast, seed)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """Begin what will be asked for."""
    asked = [
        item.callspec.params.get("entry")
        for item in request.session.items
        if hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(season.AT_A_TIME) as threads:
        yield {
            str(entry): threads.submit(play, entry) for entry in asked if isinstance(entry, Entry)
        }
        threads.shutdown(cancel_futures=True)


@pytest.mark.watchdog(300)
@pytest.mark.parametrize("entry", entries(), ids=str)
def test_scenario(entry: Entry, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[str(entry)].result()
    if skipped := outcome.skipped or outcome.facts.get("skipped"):
        pytest.skip(skipped)
    assert not verdicts.failures(entry.scenario, outcome), outcome.log
