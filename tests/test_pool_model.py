"""Pools and executors under random mixes of all that is done to them: each task ends once.

A plan is made from a seed: calls of every kind from several threads, tasks that return, raise,
exit, die or carry what can't travel, workers that are killed, futures that are cancelled, and an
end at some moment. What may come of it is known from the plan: each task has one outcome, of the
right kind, with the right value in the right place; it was run once, or not at all; nothing hangs,
and nothing is left. A plan that fails is shown with its seed.

`FREETHREADING_SEEDS=1000` tries a thousand plans instead of the few of the usual run,
`FREETHREADING_SEEDS=500-520` those.
"""

# Longer than other files: the plans, what carries them out and what judges it belong together.

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import threading
import traceback
from collections import Counter
from concurrent.futures import CancelledError, Future, as_completed, wait
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import TimeoutError as PoolTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import (
    Event,
    SimpleQueue,
    WorkerDiedError,
    WorkerPool,
    WorkerPoolExecutor,
    _native,
    active_children,
)
from freethreading._errors import TaskError
from support import wait_until
from test_worker import DEADLINE, PROCESSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from freethreading._results import AsyncResult

# (A process takes longer to start than a thread.)
SEEDS = os.environ.get("FREETHREADING_SEEDS", "60" if PROCESSES else "200")
FIRST, _, LAST = SEEDS.rpartition("-")
CHOSEN = range(int(FIRST or 0), int(LAST) + 1 if FIRST else int(LAST))

# How often each action is chosen.
HARMLESS = {"return": 30, "dawdle": 12, "wait": 4, "return large": 5, "take large": 5}
HARMFUL = {
    "raise": 4,
    "exit": 2,
    "raise base": 1,
    "raise unpicklable": 2,
    "raise unloadable": 2,
    "return unpicklable": 2,
    "return unloadable": 2,
    "take unpicklable": 2,
    "take unloadable": 2,
}
DEADLY = {"kill oneself": -signal.SIGKILL, "exit at once": 7, "crash": -signal.SIGSEGV}
SIZES = (1, 1, 2, 3, 7, 50)
# More than is sent at a time, for as many workers as a plan has.
MANY = 800

POOL_CALLS = {
    "apply": 3,
    "apply_async": 6,
    "map": 2,
    "map_async": 3,
    "starmap": 2,
    "starmap_async": 2,
    "imap": 4,
    "imap_unordered": 4,
}
EXECUTOR_CALLS = {"submit": 10, "executor.map": 4}
ONE_BY_ONE = ("apply", "apply_async", "submit")
AT_ONCE = ("map", "map_async", "starmap", "starmap_async")
POOL_ENDS = ("close", "terminate", "close and join", "terminate and join")
EXECUTOR_ENDS = ("shut down", "shut down, wait", "cancel all", "cancel all, wait")


# --- plans ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """What one task, or one item of a chunk, is to do."""

    number: int
    action: str

    def load(self) -> object:
        """Return what it is given."""
        if self.action == "take large":
            return tasks.ACTIONS["return large"](self.number, None)
        if self.action == "take unloadable":
            return tasks.Unloadable()
        return threading.Lock() if self.action == "take unpicklable" else None

    def argument(self) -> tuple[int, str, object]:
        return self.number, self.action, self.load()

    def __str__(self) -> str:
        return f"{self.number} {self.action}"


@dataclass(frozen=True)
class Step:
    """What a client does next: a call with its items, or something else."""

    name: str
    items: tuple[Item, ...] = ()
    size: int | None = 1
    # Whether the items come from a generator; and how, and when, the outcome is asked for.
    is_fed: bool = False
    ask: str = ""
    is_later: bool = False

    def is_single(self) -> bool:
        """Say whether each item is a task of its own."""
        return self.name in ONE_BY_ONE or self.size == 1

    def __str__(self) -> str:
        if not self.items:
            return self.name
        how = (
            f"size {self.size}"
            + ", fed" * self.is_fed
            + f", {self.ask}"
            + ", later" * self.is_later
        )
        if len(self.items) > MANY // 2:
            return f"{self.name} ({how}): {self.items[0]} ... {self.items[-1]}"
        return f"{self.name} ({how}): {', '.join(map(str, self.items))}"


@dataclass(frozen=True)
class Plan:
    seed: int
    is_pool: bool
    workers: int
    most_tasks: int | None
    clients: tuple[tuple[Step, ...], ...]
    end: str

    def __str__(self) -> str:
        front = "WorkerPool" if self.is_pool else "WorkerPoolExecutor"
        told = [f"plan {self.seed}: {front}, {self.workers} workers, {self.most_tasks} tasks each"]
        for number, steps in enumerate(self.clients):
            told += [f"  client {number}:", *(f"    {step}" for step in steps)]
        return "\n".join([*told, f"  then {self.end}"])


def one_of(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


class Planner:
    """Makes a plan."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - the same each time
        self.seed = seed
        self.numbers = 0
        # Each costs the time that a new process takes to start.
        self.deaths = self.kills = 2 if PROCESSES else 0
        self.harm = self.rng.choice([0, 10, 30, 60])
        self.is_pool = self.rng.random() < 0.5
        self.most_tasks = None if self.is_pool else self.rng.choice([None, None, None, 2, 5])

    def plan(self) -> Plan:
        rng = self.rng
        ends = POOL_ENDS if self.is_pool else EXECUTOR_ENDS
        workers = rng.randint(1, 3)
        clients = [
            [self.step() for _ in range(rng.randint(2, 8))] for _ in range(rng.choice([1, 1, 2, 3]))
        ]
        # Mostly at the end of all, else while others make calls, or beside the client's own.
        if rng.random() < 0.6:
            early = rng.choice(clients)
            early.insert(rng.randint(len(early) // 2, len(early)), Step(rng.choice(ends)))
        frozen = tuple(tuple(steps) for steps in clients)
        return Plan(self.seed, self.is_pool, workers, self.most_tasks, frozen, rng.choice(ends))

    def step(self) -> Step:
        rng = self.rng
        other = rng.random()
        if other < 0.06:
            return Step("hold")
        if other < 0.12 and self.kills:
            self.kills -= 1
            return Step("kill")
        if other < 0.2:
            return Step("ask")
        if other < 0.3 and not self.is_pool:
            return Step("cancel")
        return self.call()

    def call(self) -> Step:
        rng = self.rng
        name = one_of(rng, POOL_CALLS if self.is_pool else EXECUTOR_CALLS)
        count = rng.choice([0, 1, 2, 5, 9, 20]) if name not in ONE_BY_ONE else 1
        count = rng.randint(1, 4) if name == "submit" else count
        if name not in ONE_BY_ONE and self.most_tasks is None and rng.random() < 0.05:
            return self.many(name)
        sizes = (*SIZES, None, None) if name in AT_ONCE else SIZES
        asks = {
            "apply_async": ("get", "wait", "poll", "call back"),
            "map_async": ("get", "wait", "poll", "call back"),
            "starmap_async": ("get", "wait", "poll", "call back"),
            "imap": ("all", "all", "in time", "some", "none"),
            "imap_unordered": ("all", "all", "in time", "some", "none"),
            "executor.map": ("all", "all", "some", "none"),
            "submit": ("result", "exception", "wait", "as completed", "call back"),
        }
        return Step(
            name,
            tuple(self.item() for _ in range(count)),
            rng.choice(sizes),
            is_fed=rng.random() < 0.5,
            ask=rng.choice(asks.get(name, ("at once",))),
            is_later=rng.random() < 0.7,
        )

    def many(self, name: str) -> Step:
        """Return a call with so many items that they are sent bit by bit."""
        first, self.numbers = self.numbers + 1, self.numbers + MANY
        items = tuple(Item(first + at, "return") for at in range(MANY))
        ask = {"map": "at once", "starmap": "at once"}.get(name, "all")
        return Step(name, items, self.rng.choice([1, 1, 2]), ask=ask, is_later=True)

    def item(self) -> Item:
        self.numbers += 1
        action = one_of(self.rng, HARMLESS)
        if self.rng.random() * 100 < self.harm:
            action = one_of(self.rng, HARMFUL)
            if self.deaths and self.rng.random() < 0.2:
                self.deaths -= 1
                action = self.rng.choice(list(DEADLY))
        return Item(self.numbers, action)


# --- what is to come of them ----------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a task ended, as far as it can be told beforehand."""

    kind: str
    what: Any = None


def ended(call: Callable[[], Any]) -> Ended:
    """Make a call and tell how it ended."""
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001 - that is the outcome
        return failed(error)
    return returned(value)


def returned(value: Any) -> Ended:  # noqa: ANN401 - whatever it is
    return Ended("value", comparable(value))


def comparable(value: Any) -> Any:  # noqa: ANN401 - whatever it is
    """Return a value, with the kind of what can't travel between processes in its place."""
    if isinstance(value, list):
        return [comparable(each) for each in value]
    is_odd = callable(value) or isinstance(value, tasks.Unloadable)
    return type(value).__name__ if is_odd else value


# What the pool itself says, by its own exceptions.
SAID = {
    "was terminated before": Ended("terminated"),
    "the pool is closed": Ended("refused"),
    "the pool is terminated": Ended("refused"),
    "the executor is shut down": Ended("refused"),
    "no more calls are taken": Ended("refused"),
    "can't be pickled": Ended("ValueError"),
}


def failed(error: BaseException) -> Ended:
    if isinstance(error, WorkerDiedError):
        return Ended("died", error.exitcode)
    if isinstance(error, CancelledError):
        return Ended("cancelled")
    if isinstance(error, TaskError):
        told = error.type_name, error.message
        return Ended("TaskError", of_result(error.message) or told)
    if type(error) in {ValueError, RuntimeError}:
        return next((end for text, end in SAID.items() if text in str(error)), Ended(str(error)))
    return Ended(type(error).__name__, error.args)


def of_result(message: str) -> str | None:
    """Return what is wrong with a result that a TaskError stands for, if it is one of a result."""
    found = (each for each in ("can't be pickled", "can't be unpickled") if each in message)
    return next(found, None) if message.startswith("the task's result") else None


def fate(item: Item) -> Ended:
    """Return how a task ends that has this item only, if nothing happens to it."""
    number, action = item.number, item.action
    if action in DEADLY:
        return Ended("died", DEADLY[action])
    if action in {"return large", "take large"}:
        return Ended("value", tasks.ACTIONS[action](number, item.load()))
    always = {
        "raise": Ended("PlainError", (number,)),
        "exit": Ended("SystemExit", (number,)),
        "raise base": Ended("OwnBaseError", (number,)),
        "take unpicklable": Ended("ValueError"),
    }
    processes = {
        "raise unpicklable": Ended("TaskError", ("PlainError", str(number))),
        "raise unloadable": Ended("TaskError", ("TwoArgumentsError", f"{number} at the seam")),
        "return unpicklable": Ended("TaskError", "can't be pickled"),
        "return unloadable": Ended("TaskError", "can't be unpickled"),
        "take unloadable": Ended("LookupError", ("not here",)),
    }
    threads = {
        "raise unpicklable": Ended("PlainError", (number,)),
        "raise unloadable": Ended("TwoArgumentsError", (f"{number} at the seam",)),
        "return unpicklable": Ended("value", "function"),
        "return unloadable": Ended("value", "Unloadable"),
    }
    others = processes if PROCESSES else threads
    return always.get(action) or others.get(action) or Ended("value", ("done", number))


# What ends a task before it is run; and after all of it was run.
BEFORE = ("ValueError", "LookupError")
AFTER = ("can't be pickled", "can't be unpickled")


@dataclass(frozen=True)
class Fate:
    """How a task of some items ends by itself, and how often each of them is run."""

    items: tuple[Item, ...]
    ended: Ended
    runs: tuple[int, ...]

    def units(self) -> list[Ended]:
        """Return what an iterator gives for it, one after the other."""
        if self.ended.kind != "value":
            return [self.ended]
        return [Ended("value", fate(item).what) for item in self.items]


def fates_of(step: Step) -> list[Fate]:
    """Return what becomes of each task of a call, unless the sizes of the tasks are open."""
    size = 1 if step.is_single() else step.size
    assert size is not None
    chunks = [step.items[at : at + size] for at in range(0, len(step.items), size)]
    return [fate_of(chunk, is_single=step.is_single()) for chunk in chunks]


def ends_of(step: Step) -> list[Ended]:
    """Return how a call may end that has one outcome for all its items."""
    if step.size is None:
        # Who comes first depends on who is with whom.
        errors = [each for each in map(fate, step.items) if each.kind != "value"]
        return errors or [Ended("value", [fate(item).what for item in step.items])]
    fates = fates_of(step)
    errors = [each.ended for each in fates if each.ended.kind != "value"]
    if errors:
        return errors[:1]
    values = [unit.what for each in fates for unit in each.units()]
    return [Ended("value", values[0] if step.name in ONE_BY_ONE else values)]


def fate_of(items: tuple[Item, ...], *, is_single: bool) -> Fate:
    """Return what becomes of items that are a task together."""
    ends = [fate(item) for item in items]
    for kind in BEFORE:
        if any(each.kind == kind for each in ends):
            return Fate(items, next(each for each in ends if each.kind == kind), (0,) * len(items))
    for at, each in enumerate(ends):
        if each.kind != "value" and each.what not in AFTER:
            return Fate(items, each, (1,) * (at + 1) + (0,) * (len(items) - at - 1))
    ran = (1,) * len(items)
    for what in AFTER:
        if any(each.what == what for each in ends):
            return Fate(items, Ended("TaskError", what), ran)
    values = [each.what for each in ends]
    return Fate(items, Ended("value", values[0] if is_single else values), ran)


# --- carrying it out ------------------------------------------------------------------------

ONCE, NEVER, MAYBE = frozenset({1}), frozenset({0}), frozenset({0, 1})


@dataclass
class Told:
    """What was done to all tasks alike, and may therefore be the outcome of any."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    # Workers that were killed, and outcomes that say so.
    kills: int = 0
    lost: int = 0
    is_ending: bool = False
    is_ended: bool = False
    is_terminating: bool = False
    is_cancelling: bool = False

    def excuses(self, end: Ended) -> bool:
        """Say whether any task may have ended like this."""
        if end == Ended("died", -signal.SIGKILL) and self.kills:
            with self.lock:
                self.lost += 1
            return True
        allowed = {"terminated": self.is_terminating, "cancelled": self.is_cancelling}
        return allowed.get(end.kind, False)

    def is_sure(self) -> bool:
        """Say whether all tasks were left alone."""
        return not (self.kills or self.is_terminating or self.is_cancelling)


class Run:
    """A pool or an executor that plans are carried out on."""

    def __init__(self, plan: Plan, traces: SimpleQueue[int], gate: Event) -> None:
        self.plan = plan
        self.told = Told()
        self.gate = gate
        self.rng = random.Random(plan.seed)  # noqa: S311 - which worker is killed
        self.others = set(active_children())
        initial: Any = (plan.workers, tasks.keep, (traces, gate))
        if plan.is_pool:
            self.front: Any = WorkerPool(*initial)
        else:
            self.front = WorkerPoolExecutor(*initial, max_tasks_per_child=plan.most_tasks)
        self.clients = [Client(self, steps) for steps in plan.clients]

    def kill(self) -> None:
        """Kill one of the workers, whatever it does, or is about to do."""
        workers = [each for each in active_children() if each not in self.others]
        if workers:
            with self.told.lock:
                self.told.kills += 1
            victim: Any = self.rng.choice(sorted(workers, key=lambda worker: worker.name))
            with suppress(ProcessLookupError, ValueError):  # it has ended meanwhile
                os.kill(victim.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Before an outcome is waited for: let those go on who wait for the gate.

        Nobody has to wait for the tasks of a pool that was terminated.
        """
        if not (self.told.is_terminating and self.told.is_ended):
            self.gate.set()

    def end(self, how: str) -> None:
        """Take no more calls, and more than that."""
        self.told.is_cancelling |= "cancel" in how
        self.told.is_terminating |= "terminate" in how
        self.told.is_ending = True
        if "join" in how or "wait" in how:
            self.gate.set()
        if not self.plan.is_pool:
            self.front.shutdown(wait="wait" in how, cancel_futures="cancel" in how)
        elif "terminate" in how:
            self.front.terminate()
        else:
            self.front.close()
        self.told.is_ended = True
        if "join" in how:
            self.front.join()

    def finish(self) -> None:
        """Have all clients take their steps, end, and wait until that is done."""
        for client in self.clients:
            client.thread.start()
        for client in self.clients:
            client.thread.join(2 * DEADLINE)
            if client.thread.is_alive():
                faulthandler.dump_traceback()
                pytest.fail(f"a client hangs at: {client.step}")
        problems = [client.problem for client in self.clients if client.problem]
        assert not problems, "\n".join(problems)
        self.end(self.plan.end)
        self.gate.set()
        self.front.join() if self.plan.is_pool else self.front.shutdown()
        assert self.told.lost <= self.told.kills


class Client:
    """Takes the steps of a plan, in a thread, and judges what comes of its calls."""

    def __init__(self, run: Run, steps: Sequence[Step]) -> None:
        self.run = run
        self.told = run.told
        self.steps = steps
        self.step: Step | None = None
        # For each call that wasn't asked about yet, what asks for its outcome and judges it.
        self.unasked: list[Callable[[], None]] = []
        self.futures: list[tuple[Item, Future[Any]]] = []
        self.cancelled: set[int] = set()
        # How often each item may have been run.
        self.runs: dict[int, frozenset[int]] = {}
        self.problem: str | None = None
        self.thread = threading.Thread(target=self.take_all, daemon=True)

    def take_all(self) -> None:
        try:
            for step in self.steps:
                self.step = step
                self.take(step)
            self.ask_all()
        except BaseException:  # noqa: BLE001 - shown with the plan
            self.problem = f"{self.step}\n{traceback.format_exc()}"
        finally:
            self.unasked.clear()
            self.futures.clear()
            self.run.gate.set()

    def take(self, step: Step) -> None:
        if step.name in {*POOL_CALLS, *EXECUTOR_CALLS}:
            self.runs.update(dict.fromkeys((item.number for item in step.items), MAYBE))
            for each in one_by_one(step):
                self.call(each)
        elif step.name == "hold":
            self.run.gate.clear()
        elif step.name == "kill":
            self.run.kill()
        elif step.name == "ask":
            self.ask_all()
        elif step.name == "cancel":
            self.cancel()
        else:
            self.run.end(step.name)
            if "cancel" in step.name:
                # Asked twice: it may end between the first two questions.
                begun = [it.done() or it.running() or it.done() for _, it in self.futures]
                assert all(begun), "neither begun nor cancelled"

    def ask_all(self) -> None:
        while self.unasked:
            self.run.let_go()
            self.unasked.pop(0)()

    def cancel(self) -> None:
        """Cancel every other future, the last one first."""
        for item, future in self.futures[::-2]:
            if future.cancel():
                self.cancelled.add(item.number)
                assert future.cancelled()

    def call(self, step: Step) -> None:
        """Make a call; ask for its outcome now or later."""
        was_ended = self.told.is_ended
        if step.name in {"apply", "map", "starmap"}:
            self.run.let_go()
        called: list[Ended] = []
        made: list[Any] = []
        end = ended(lambda: made.append(call(self.run.front, step, called)))
        if end.kind == "refused":
            assert self.told.is_ending, f"refused: {step}"
            self.note(step.items, NEVER)
            return
        assert not was_ended, f"not refused: {step}"
        if end.kind != "value" or step.name in {"apply", "map", "starmap"}:
            self.judge(step, returned(made[0]) if made else end)
            return
        if step.name == "submit":
            self.futures.append((step.items[0], made[0]))
        self.unasked.append(lambda: self.ask(step, made.pop(), called))
        if not step.is_later:
            self.run.let_go()
            self.unasked.pop()()

    def ask(self, step: Step, made: Any, called: list[Ended]) -> None:  # noqa: ANN401 - by the call
        """Ask for the outcome of a call in the way of its step, and judge it."""
        self.step = step
        if step.name in {"imap", "imap_unordered", "executor.map"}:
            ends = list(stream(step, made))
            is_whole = step.ask in {"all", "in time"}
            if step.name == "imap_unordered":
                self.judge_unordered(step, ends, is_whole)
            else:
                self.judge_ordered(step, ends, is_whole)
            return
        end = ask_future(step, made) if step.name == "submit" else ask_result(step, made)
        if step.ask == "call back" and not self.told.is_terminating:
            wait_until(lambda: called, "the callback was called")
            assert called == [end]
        self.judge(step, end)

    def note(self, items: Sequence[Item], runs: frozenset[int]) -> None:
        self.runs.update(dict.fromkeys((item.number for item in items), runs))

    def note_fate(self, fate: Fate) -> None:
        for item, runs in zip(fate.items, fate.runs, strict=True):
            self.runs[item.number] = frozenset({runs})

    def judge(self, step: Step, end: Ended) -> None:
        """Judge the one outcome that a call has."""
        if step.name == "submit" and step.items[0].number in self.cancelled:
            assert end.kind == "cancelled", f"cancelled, but ended with {end}"
        elif end in (allowed := ends_of(step)):
            if end.kind == "value":
                self.note(step.items, ONCE)
            elif step.size is not None and (self.told.is_sure() or step.name in ONE_BY_ONE):
                for each in fates_of(step):
                    self.note_fate(each)
            return
        else:
            assert self.told.excuses(end), f"{end} instead of {allowed}"
        if end.kind == "cancelled":
            self.note(step.items, NEVER)

    def judge_ordered(self, step: Step, ends: list[Ended], is_whole: bool) -> None:
        """Judge what an iterator gave, in order."""
        left = ends
        for each in fates_of(step):
            if not left:
                # What a pool hadn't sent when it was ended has one outcome together; and an
                # executor's map ends with the first exception.
                last = ends[-1] if ends else None
                is_over = last is not None and last.kind != "value"
                is_over &= step.name == "executor.map" or self.told.is_terminating
                assert is_over or not is_whole, f"ended before {each}"
                return
            units = each.units()
            if left[: len(units)] == units[: len(left)]:
                if len(left) >= len(units):
                    self.note_fate(each)
                left = left[len(units) :]
            else:
                assert self.told.excuses(left[0]), f"{left[0]} instead of {units}"
                if left[0].kind == "cancelled":
                    self.note(each.items, NEVER)
                left = left[1:]
        # Whether more items would have come, nobody knows.
        if left == [Ended("terminated")] and step.is_fed and self.told.is_terminating:
            return
        assert not left, f"more than there should be: {left}"

    def judge_unordered(self, step: Step, ends: list[Ended], is_whole: bool) -> None:
        """Judge what an iterator gave, in any order."""
        fates = [(each, each.units()) for each in fates_of(step)]
        excused = 0
        for end in ends:
            units = next((units for _, units in fates if end in units), None)
            if units is not None:
                units.remove(end)
            else:
                assert self.told.excuses(end), f"{end} is nobody's"
                excused += 1
        lost = [each for each, units in fates if units]
        for each, units in fates:
            if not units and (each.ended.kind == "value" or not lost):
                self.note_fate(each)
            assert not is_whole or len(units) in {0, len(each.units())}, f"a part of {each}"
        if is_whole and not self.told.is_terminating:
            assert len(lost) == excused, f"without an outcome: {lost}"
        assert not lost or excused or not is_whole, f"without an outcome: {lost}"


def one_by_one(step: Step) -> list[Step]:
    """Return the calls that a step consists of."""
    if step.name != "submit":
        return [step]
    return [
        Step(step.name, (item,), 1, ask=step.ask, is_later=step.is_later) for item in step.items
    ]


def call(front: Any, step: Step, called: list[Ended]) -> Any:  # noqa: ANN401 - of every kind
    """Make the call of a step; what callbacks are told goes to `called`."""
    arguments = [item.argument() for item in step.items]
    items: Any = (argument for argument in arguments) if step.is_fed else arguments
    if step.name == "submit":
        future = front.submit(tasks.act, *arguments[0])
        if step.ask == "call back":
            future.add_done_callback(lambda it: called.append(ended(lambda: it.result(0))))
        return future
    if step.name == "executor.map":
        columns = list(zip(*arguments, strict=True)) if arguments else [(), (), ()]
        return front.map(tasks.act, *columns, timeout=DEADLINE, chunksize=step.size)
    method = getattr(front, step.name)
    back: dict[str, Any] = {}
    if step.ask == "call back":
        back["callback"] = lambda value: called.append(returned(value))
        back["error_callback"] = lambda error: called.append(failed(error))
    if step.name in {"apply", "apply_async"}:
        return method(tasks.act, arguments[0], **back)
    function = tasks.act if "star" in step.name else tasks.act_on
    return method(function, items, step.size, **back)


def ask_result(step: Step, result: AsyncResult[Any]) -> Ended:
    """Wait for the end of a call of a pool."""
    if step.ask == "poll":
        wait_until(result.ready, "the result is ready", DEADLINE)
    elif step.ask == "wait":
        result.wait(DEADLINE)
        assert result.ready()
    end = ended(lambda: result.get(DEADLINE))
    assert result.ready()
    assert result.successful() is (end.kind == "value")
    assert ended(lambda: result.get(0)) == end
    return end


def ask_future(step: Step, future: Future[Any]) -> Ended:
    """Wait for the end of a future."""
    if step.ask == "exception":
        ended(lambda: future.exception(DEADLINE))
    elif step.ask == "wait":
        assert wait([future], DEADLINE).not_done == set()
    elif step.ask == "as completed":
        assert next(as_completed([future], DEADLINE)) is future
    end = ended(lambda: future.result(DEADLINE))
    assert future.done()
    assert not future.running()
    assert future.cancelled() is future.cancel() is (end.kind == "cancelled")
    return end


def stream(step: Step, iterator: Any) -> Iterator[Ended]:  # noqa: ANN401 - a pool's, or a generator
    """Yield what an iterator gives, as much of it as is asked for."""
    most = {"none": 0, "some": len(step.items) // 2}.get(step.ask)
    patience = 0.0 if step.ask == "in time" else DEADLINE
    while most is None or most > 0:
        most = None if most is None else most - 1
        try:
            yield returned(
                next(iterator) if step.name == "executor.map" else iterator.next(patience)
            )
        except StopIteration:
            return
        except PoolTimeoutError:
            assert patience == 0.0, "the next outcome does not come"
            patience = DEADLINE
        except BaseException as error:  # noqa: BLE001 - the next outcome
            yield failed(error)


# --- the tests ------------------------------------------------------------------------------


@dataclass
class Left:
    """What a run may leave nothing of."""

    children: set[Any] = field(default_factory=lambda: set(active_children()))
    threads: set[Any] = field(default_factory=lambda: set(threading.enumerate()))
    files: Counter[str] = field(default_factory=lambda: Counter(open_files()))
    family: Any = field(default_factory=_native.family_statistics)


def open_files() -> Iterator[str]:
    """Yield what the descriptors of this process stand for; a pipe of many is like any other."""
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            yield str(each.readlink()).partition(":")[0]


def drained(traces: SimpleQueue[int]) -> Counter[int]:
    """Return how often each task has left a trace."""
    found: Counter[int] = Counter()
    while not traces.empty():
        found.update(traces.get_many(1000))
    return found


@pytest.fixture(scope="module")
def shared() -> tuple[SimpleQueue[int], Event]:
    """Return where traces are left, and the gate; what is made once by a process is there then."""
    traces: SimpleQueue[int] = SimpleQueue()
    gate = Event()
    with WorkerPool(1, tasks.keep, (traces, gate)) as pool:
        assert pool.apply(tasks.act, (1, "return")) == ("done", 1)
    pool.join()
    del pool
    wait_until(lambda: gc.collect() == 0, "nothing is left of it")
    # What the traces need at most, they have from now on.
    traces.put_many(range(2, 20_000))
    assert drained(traces) == Counter(range(1, 20_000))
    return traces, gate


def carry_out(plan: Plan, traces: SimpleQueue[int], gate: Event) -> None:
    gate.set()
    drained(traces)  # of a run that has failed
    run = Run(plan, traces, gate)
    try:
        run.finish()
        allowed = {number: runs for client in run.clients for number, runs in client.runs.items()}
        found = drained(traces)
        wrong = {
            number: found[number] for number in allowed if found[number] not in allowed[number]
        }
        assert not wrong, f"run so many times: {wrong}"
        assert set(found) <= set(allowed)
    except BaseException:
        gate.set()
        run.front.terminate() if plan.is_pool else run.front.shutdown(cancel_futures=True)
        raise


@pytest.mark.parametrize("seed", CHOSEN)
def test_whatever_happens_each_task_ends_once(
    seed: int, shared: tuple[SimpleQueue[int], Event]
) -> None:
    plan = Planner(seed).plan()
    wait_until(lambda: gc.collect() == 0, "nothing is left of the last one")
    before = Left()
    try:
        carry_out(plan, *shared)
        wait_until(lambda: gc.collect() >= 0 and Left() == before, "nothing is left")
    except BaseException as error:
        error.add_note(f"{plan}\nleft: {Left()}\nbefore: {before}")
        raise
