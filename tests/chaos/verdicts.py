"""What to say about an outcome: in a table, and whether it is a failure of ours."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scenarios import Scenario
    from theatre import Outcome

# What an `os._exit`, a kill or a SIGTERM leaves of the standard library's fork server: its socket.
_OF_FORK_SERVER = "pymp-"


def words(scenario: Scenario, outcome: Outcome) -> str:
    """Return what happened, for a table."""
    facts = outcome.facts
    if skipped := outcome.skipped or facts.get("skipped"):
        return f"skipped: {skipped}"
    if outcome.timed_out:
        where = f"after {facts.get('kills', 0)} kills" if scenario.is_soak else f"({outcome.step})"
        return "; ".join([f"hangs {where}", *_lost(outcome)])
    if outcome.returncode not in scenario.statuses:
        return f"ends with {_status(outcome.returncode)}: {outcome.last_line[:100]}"
    found = [*_breaks(scenario, outcome), *_lost(outcome), *_leaves(scenario, outcome)]
    return "; ".join(found) or "survives"


def _breaks(scenario: Scenario, outcome: Outcome) -> list[str]:
    facts, found = outcome.facts, []
    if not facts.get("usable", True):
        if scenario.act == "everything" and facts.get("told"):
            found.append(f"fails: {facts['told'][:80]}")
        else:
            found.append("breaks" if scenario.group in {"pool", "soak"} else "stuck")
    if raised := facts.get("raised"):
        found.append(f"its end raises {raised}")
    return found


def _leaves(scenario: Scenario, outcome: Outcome) -> list[str]:
    facts, found = outcome.facts, []
    # What is stuck has threads of ours that wait for it.
    if facts.get("usable"):
        counts = {what: facts[what] for what in ("descriptors", "threads", "bytes")}
        found += [f"leaves {count} {what}" for what, count in counts.items() if count]
    if count := len(outcome.left.processes):
        found.append(f"leaves {count} process{'es' if count > 1 else ''}")
    if count := len(_files(scenario, outcome)):
        found.append(f"leaves {count} file{'s' if count > 1 else ''}")
    return found


def _lost(outcome: Outcome) -> list[str]:
    facts, found = outcome.facts, []
    if count := facts.get("unanswered", 0):
        found.append(f"{count} of {facts['items']} never answered")
    if count := facts.get("lost", 0) - facts.get("unanswered", 0):
        found.append(f"loses {count} of {facts['items']}")
    for what in ("doubled", "torn"):
        found += [f"{count} {what}"] if (count := facts.get(what, 0)) else []
    return found


def _status(returncode: int) -> str:
    if returncode >= 0:
        return f"status {returncode}"
    return signal.Signals(-returncode).name


def _files(scenario: Scenario, outcome: Outcome) -> list[str]:
    left = [*outcome.left.files, *outcome.left.shared]
    if scenario.leaves_files:
        left = [name for name in left if not name.startswith(_OF_FORK_SERVER)]
    return left


def failures(scenario: Scenario, outcome: Outcome) -> list[str]:
    """Return what we shouldn't have done; nothing if all is well."""
    facts = outcome.facts
    if outcome.skipped or facts.get("skipped"):
        return []
    if outcome.timed_out:
        return [words(scenario, outcome)]
    found = []
    if outcome.returncode not in scenario.statuses:
        found.append(words(scenario, outcome))
    if not facts and 0 in scenario.statuses:
        found.append("tells nothing")
    most = facts.get("kills", 0) if scenario.is_soak else scenario.loses
    if facts.get("lost", 0) > most:
        found.append(f"loses {facts['lost']} of {facts['items']}, {most} at most may be lost")
    found += [
        f"{facts[what]} {what}" for what in ("doubled", "torn", "unanswered") if facts.get(what)
    ]
    if not facts.get("usable", True) and not scenario.may_be_unusable:
        found.append(f"can't be used afterwards ({facts['told']})")
    if raised := facts.get("raised"):
        found.append(f"its end raises {raised}")
    if facts and scenario.ends and facts["told"] not in scenario.ends:
        found.append(f"ends as {facts['told'] or 'usual'!r}, not as {' or '.join(scenario.ends)!r}")
    found += [
        f"leaves {facts[what]} {what}"
        for what in ("descriptors", "threads", "bytes")
        if facts.get(what)
    ]
    found += [f"leaves process {process}" for process in outcome.left.processes]
    found += [f"leaves file {name}" for name in _files(scenario, outcome)]
    return found
