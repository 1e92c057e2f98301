"""The scenarios: which act is played, who is struck when and by what, and what must hold then.

The table is made of few rows, each for several kinds of things, several signals, several moments.
What every scenario must show unless it says otherwise: the program ends by itself with status 0,
nothing is lost, doubled or torn, the thing works afterwards, and nothing is left behind.
"""

from __future__ import annotations

import itertools
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import deeds
import hardships
import subjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROCESSES, THREADS = "multiprocessing", "threading"
STOPPED_FOR = 1.2
# Of a short pass, and of a long one.
FEW_KILLS = 25

SHARING = (subjects.OURS, subjects.STDLIB)


@dataclass(frozen=True)
class Strike:
    """A signal, to whom, and when: once a worker is ready, or when the main process says go.

    It comes at a moment of the `within` seconds after that, which the seed decides.
    """

    number: signal.Signals
    whom: str = "worker"
    at_gate: bool = False
    within: float = 0.02
    resumes_after: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One row; `subjects` are those who can play it."""

    group: str
    name: str
    act: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = subjects.POOLS
    backends: tuple[str, ...] = (PROCESSES,)
    strike: Strike | None = None
    hardship: str = ""
    seconds: float = 60.0
    statuses: tuple[int, ...] = (0,)
    loses: int = 0
    # How the task or the wait that was struck may end with us; empty: however it likes.
    ends: tuple[str, ...] = ()
    measures: bool = True
    # What the standard library's fork server leaves when its owner is killed: its socket.
    leaves_files: bool = False
    may_be_unusable: bool = False
    is_soak: bool = False

    @property
    def title(self) -> str:
        """Return a name that no other scenario has."""
        return f"{self.group}: {self.name}"


KILL, TERM, INT, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP
_DIED = ("WorkerDiedError",)
_WORDS = {
    KILL: "killed",
    TERM: "told to end (SIGTERM)",
    INT: "interrupted (SIGINT)",
    STOP: f"stopped for {STOPPED_FOR:g} s",
}


def _strike(number: signal.Signals, **others: Any) -> Strike:  # noqa: ANN401 - its own fields
    if number == STOP:
        others["resumes_after"] = STOPPED_FOR
    return Strike(number, **others)


def all_scenarios(kills: int = FEW_KILLS) -> list[Scenario]:
    """Return all scenarios; soaks have so many kills."""
    rows = itertools.chain(
        _pool_strikes(),
        _pool_deeds(),
        _pool_ends(),
        _sharing(),
        _queues(),
        _ends(),
        _hardships(),
        _soaks(kills),
    )
    return list(rows)


# --- pools --------------------------------------------------------------------------------------


def _pool_strikes() -> Iterator[Scenario]:
    """A worker of a pool is struck at some moment."""
    moments = {
        # When, by what, and how its task may end.
        "idle": ((KILL, TERM, INT, STOP), ()),
        "busy": ((KILL, TERM, INT, STOP), _DIED),
        "starting": ((KILL, STOP), ()),
        "ending": ((KILL, STOP), ()),
        "unpickling its task": ((KILL,), _DIED),
        "pickling its result": ((KILL,), _DIED),
        "sending a large result": ((KILL, STOP), ("value", *_DIED)),
    }
    for when, (numbers, ends) in moments.items():
        for number in numbers:
            survives = number in {INT, STOP} and when not in {"idle", "starting", "ending"}
            # mpire's pools have no initializer.
            who = [one for one in subjects.POOLS if one != subjects.MPIRE or when != "starting"]
            is_sending = when == "sending a large result"
            within = 0.03 if is_sending else 0.005
            yield Scenario(
                "pool",
                f"a worker is {_WORDS[number]} {_while(when)}",
                "pool_strike",
                {"when": when},
                tuple(who),
                strike=_strike(number, at_gate=when == "idle", within=within),
                # It may have sent the result by then, and have the next task in hands.
                loses=1 if is_sending and number == KILL else 0,
                ends=("value",) if survives else ends,
            )


def _while(when: str) -> str:
    return f"while {when}"


def _pool_deeds() -> Iterator[Scenario]:
    """A task of a pool does what nobody should do."""
    for name, deed in deeds.DEEDS.items():
        yield Scenario(
            "pool",
            f"a task {name}",
            "pool_deed",
            {"deed": name},
            backends=(PROCESSES, THREADS) if deed.on_threads else (PROCESSES,),
            ends=deed.ends,
            loses=deed.loses,
        )
    yield Scenario(
        "pool", "a callback raises", "pool_callback", backends=(PROCESSES, THREADS), ends=("value",)
    )


def _pool_ends() -> Iterator[Scenario]:
    """The main process of a pool, its group, or its fork server is struck."""
    for number, whom in itertools.product((KILL, TERM, INT), ("main", "group")):
        who = "the main process is" if whom == "main" else "the process group is"
        yield Scenario(
            "pool",
            f"{who} {_WORDS[number]}",
            "pool_main",
            {"lives_on": number == INT},
            strike=Strike(number, whom, at_gate=True),
            statuses=(-number,),
            measures=False,
            leaves_files=number != INT,
        )
    yield Scenario(
        "pool",
        "the fork server is killed while a worker is busy",
        "pool_strike",
        {"when": "busy"},
        strike=Strike(KILL, "server"),
        ends=("value",),
        measures=False,
    )
    yield Scenario(
        "pool",
        "the fork server is killed, then workers",
        "pool_server",
        strike=Strike(KILL, "server", at_gate=True),
        ends=_DIED,
        measures=False,
    )


# --- primitives and queues ----------------------------------------------------------------------


def _sharing() -> Iterator[Scenario]:
    """A worker is struck that holds a primitive, or waits in it."""
    owned = {"Lock", "RLock", "Condition"}
    locks = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")
    holds = [(kind, "holding") for kind in locks]
    waits = [(kind, "waiting") for kind in (*locks, "Event", "Barrier")]
    for (kind, role), number in itertools.product((*holds, *waits), (KILL, TERM, STOP)):
        dies, article = number != STOP, "for a" if role == "waiting" else "a"
        ends: tuple[str, ...] = ("",)
        if kind in owned and role == "holding" and dies:
            ends = ("OwnerDiedError",)
        elif kind == "Barrier":
            ends = ("BrokenBarrierError",) if dies else ("passes",)
        yield Scenario(
            "sharing",
            f"a worker is {_WORDS[number]} {role} {article} {kind}",
            "sharing_strike",
            {"kind": kind, "role": role, "dies": dies},
            SHARING,
            strike=_strike(number, within=0.05),
            ends=ends,
        )

    yield Scenario(
        "sharing",
        "the fork server is killed while a worker holds a Lock",
        "sharing_strike",
        {"kind": "Lock", "role": "holding", "dies": False},
        SHARING,
        strike=Strike(KILL, "server", resumes_after=STOPPED_FOR),
        ends=("",),
        measures=False,
    )


def _queues() -> Iterator[Scenario]:
    """A worker is struck that waits for a queue, or is in the middle of using it."""
    waits = [("Queue", "waiting in get"), ("Queue", "waiting in put")]
    waits += [("SimpleQueue", "waiting in get")]
    for (kind, role), number in itertools.product(waits, (KILL, TERM, STOP)):
        yield Scenario(
            "queue",
            f"a worker is {_WORDS[number]} {role} of a {kind}",
            "queue_wait",
            {"kind": kind, "role": role, "dies": number != STOP},
            SHARING,
            strike=_strike(number, within=0.05),
        )
    uses = itertools.product(("Queue", "SimpleQueue"), ("put", "get"), (KILL, TERM, STOP))
    for kind, use, number in uses:
        yield Scenario(
            "queue",
            f"a worker is {_WORDS[number]} amidst {use} of a {kind}",
            f"queue_{use}",
            {"kind": kind, "dies": number != STOP},
            SHARING,
            strike=_strike(number, within=0.1),
            loses=1 if use == "get" and number != STOP else 0,
        )
    yield Scenario(
        "queue",
        "items raise in __reduce__, when unpickled and in __del__",
        "hard_objects",
        {},
        (subjects.OURS,),
        measures=False,
    )


# --- ends of programs ---------------------------------------------------------------------------


def _ends() -> Iterator[Scenario]:
    """A program ends while everything still runs."""
    hows = {"its end": 0, "sys.exit(7)": 7, "an exception": 1, "os._exit(7)": 7}
    both = (PROCESSES, THREADS)
    for amidst in ("a busy pool", "an idle pool"):
        for how, status in hows.items():
            yield Scenario(
                "end",
                f"by {how}, with {amidst}",
                "program_ends",
                {"amidst": amidst, "how": how},
                backends=both,
                statuses=(status,),
                measures=False,
                leaves_files=how == "os._exit(7)",
            )
    for amidst in ("waiting workers", "waiting threads", "full queues"):
        for how, status in hows.items():
            yield Scenario(
                "end",
                f"by {how}, with {amidst}",
                "program_ends",
                {"amidst": amidst, "how": how},
                SHARING if amidst != "waiting threads" else (subjects.OURS,),
                both,
                statuses=(status,),
                measures=False,
                leaves_files=how == "os._exit(7)",
            )
    for when in ("starting", "ending"):
        yield Scenario(
            "end",
            f"a worker is killed while {when}",
            "worker_strike",
            {"when": when},
            SHARING,
            strike=Strike(KILL),
            ends=("-9",),
        )
    for number, whom in itertools.product((KILL, TERM, INT), ("main", "group")):
        who = "the main process" if whom == "main" else "the process group"
        yield Scenario(
            "end",
            f"{who} is {_WORDS[number]}, with waiting workers",
            "sharing_main",
            {},
            SHARING,
            strike=Strike(number, whom, at_gate=True),
            statuses=(-number,),
            measures=False,
            leaves_files=number != INT,
        )
    yield Scenario(
        "end",
        "a program forks while its threads hold locks",
        "fork_amidst",
        {},
        SHARING,
        both,
        measures=False,
    )


# --- hardships ----------------------------------------------------------------------------------


def _hardships() -> Iterator[Scenario]:
    """The system lacks something, or refuses it."""
    everyone = (subjects.OURS, subjects.STDLIB, *subjects.POOLS)
    both = (PROCESSES, THREADS)
    for name in hardships.LACKS:
        yield Scenario(
            "hardship",
            name,
            "everything",
            {},
            everyone,
            both,
            hardship=name,
            measures=False,
            may_be_unusable="memfd_create" in name,
        )
    yield Scenario(
        "hardship",
        hardships.CLOCK,
        "clock_set_back",
        {},
        SHARING,
        both,
        hardship=hardships.CLOCK,
        measures=False,
    )
    yield Scenario(
        "hardship",
        "the id of a killed owner is another process's",
        "pid_comes_again",
        {},
        SHARING,
        hardship=hardships.PIDS,
        measures=False,
        ends=("OwnerDiedError",),
    )
    lacking = (
        ("descriptors", "no_descriptors", ""),
        ("threads or processes", "no_threads", hardships.USER),
    )
    for (name, act, hardship), at_first in itertools.product(lacking, (True, False)):
        yield Scenario(
            "hardship",
            f"no {name} {'at first' if at_first else 'later'}, then some",
            act,
            {"at_first": at_first},
            everyone,
            both,
            hardship=hardship,
            measures=False,
        )


# --- soaks --------------------------------------------------------------------------------------


def _soaks(kills: int) -> Iterator[Scenario]:
    """Kill workers at random moments, again and again."""
    for name, act, who in (
        ("producers and consumers of queues", "soak_queues", SHARING),
        ("owners of a lock and of permits", "soak_locks", SHARING),
        ("workers of a busy pool", "soak_pool", subjects.POOLS),
    ):
        yield Scenario(
            "soak",
            f"{kills} kills of {name}",
            act,
            {"kills": kills},
            who,
            loses=kills,
            measures=False,
            is_soak=True,
        )
