"""Worker and the six functions around it; what a worker is given stays usable.

The first part of this file is shared by the other test modules: starting and finishing workers,
and requiring one exception that is all the classes which the stdlib raises for one mistake.
"""

# Longer than other files: all that every module shares is here, and what every class must stand.

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import re
import signal
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import freethreading
from freethreading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    Worker,
    active_children,
    active_count,
    current_worker,
    get_backend,
    get_ident,
)
from support import run_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Lock as StdlibLock

# How long a worker may take for anything before the test calls it hung; never waited out.
DEADLINE = 20.0
# A wait that is meant to time out; tests assert only that it lasted at least this long.
SHORT = 0.05
# Timeouts no clock can reach: each must be refused or waited for, and must never be a panic.
ODD_TIMEOUTS = [float("nan"), float("inf"), float("-inf"), 1e300, 2.0**63, 10**30, -(10**30)]

PROCESSES = get_backend() == "multiprocessing"
# Importing takes a worker longer than all else: the fork server does it once for all.
PRELOADED = [
    *("__main__", "pytest", "freethreading._preload"),
    *("test_worker", "test_lock", "test_queue"),
]
if PROCESSES:
    multiprocessing.set_forkserver_preload(PRELOADED)
# For what takes long and hardly differs: the oldest CPython, the newest, the free-threaded one.
once_per_kind = pytest.mark.skipif(
    (3, 11) < sys.version_info[:2] < (3, 14)
    or os.environ.get("FREETHREADING_BACKEND") == "threading"
    or os.environ.get("PYTHON_GIL") == "1",
    reason="another configuration does the same",
)
only_processes = pytest.mark.skipif(not PROCESSES, reason="threads can't be killed one by one")
only_threads = pytest.mark.skipif(PROCESSES, reason="needs workers that are threads")


def start(target: Callable[..., object], *args: object, **kwargs: object) -> Worker:
    """Start a worker; a daemon, so that a failing test doesn't keep the test run from ending."""
    worker = Worker(target=target, args=args, kwargs=kwargs, daemon=True)
    worker.start()
    return worker


def start_thread(target: Callable[..., object], *args: object) -> threading.Thread:
    """Start a thread of this process, which on the multiprocessing backend is no worker."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


# What takes part: workers, and on processes also threads that share one of them.
launchers = pytest.mark.parametrize(
    "launch",
    [pytest.param(start, id="workers"), *([pytest.param(start_thread, id="threads")] * PROCESSES)],
)
Launcher = Callable[..., "Worker | threading.Thread"]


def finish(*workers: Worker | threading.Thread) -> None:
    """Join the workers; fail for one that hangs or ended with an error."""
    for worker in workers:
        worker.join(DEADLINE)
        assert not worker.is_alive(), f"{worker!r} hangs"
        assert getattr(worker, "exitcode", 0) == 0, f"{worker!r} failed"


def kill(worker: Worker) -> None:
    """End a worker process as the OOM killer does."""
    assert worker.ident is not None
    os.kill(worker.ident, signal.SIGKILL)
    worker.join(DEADLINE)
    assert not worker.is_alive()


def wait_until_asleep(*workers: Worker) -> None:
    """Wait until each worker sleeps in the kernel, as one does that waits for a lock."""
    for worker in workers:
        thread = getattr(worker, "native_id", None)
        pid = worker.ident if thread is None else os.getpid()
        wait_until_task_sleeps(Path(f"/proc/{pid}/task/{thread or pid}"))


def wait_until_task_sleeps(task: Path) -> None:
    """Wait until a thread (a folder of /proc) sleeps, and has not woken between three looks."""
    looks: list[tuple[str, str]] = []

    def is_asleep() -> bool:
        status = (task / "status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        looks.append((fields["State"][0], fields["voluntary_ctxt_switches"]))
        return len(looks) >= 3 and looks[-1][0] == "S" and len(set(looks[-3:])) == 1

    wait_until(is_asleep, f"{task} sleeps")


@contextlib.contextmanager
def misuse(*classes: type[Exception]) -> Iterator[None]:
    """Require one exception that is an instance of every class given, and that says something."""
    with pytest.raises(classes[0]) as caught:
        yield
    assert all(isinstance(caught.value, each) for each in classes), caught.type.__mro__
    assert str(caught.value)


def signature_of(call: Callable[..., object]) -> str:
    """Return names, kinds and defaults of the parameters, without annotations."""
    signature = inspect.signature(call)
    empty = inspect.Parameter.empty
    bare = [each.replace(annotation=empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=empty))


def lasts_at_least(seconds: float, call: Callable[[], object]) -> object:
    """Return what the call returns, which must not come before its timeout has passed."""
    began = time.monotonic()
    result = call()
    assert time.monotonic() - began >= seconds * 0.999
    return result


def survives_odd_timeout(call: Callable[[], object]) -> object:
    """Call with a timeout that no clock can reach; return the result, or that it was refused."""
    with contextlib.suppress(OverflowError, ValueError):
        return call()
    return "refused"


# --- the class ------------------------------------------------------------------------------


def test_signatures_are_the_documented_ones() -> None:
    assert signature_of(Worker) == (
        "(group=None, target=None, name=None, args=(), kwargs=None, *, daemon=None)"
    )
    worker = Worker()
    assert signature_of(worker.start) == "()"
    assert signature_of(worker.join) == "(timeout=None)"
    assert signature_of(worker.is_alive) == "()"
    for function in (
        get_backend,
        current_worker,
        active_children,
        freethreading.enumerate,
        active_count,
        get_ident,
    ):
        assert signature_of(function) == "()"


def test_a_worker_is_a_real_thread_or_process() -> None:
    base = multiprocessing.process.BaseProcess if PROCESSES else threading.Thread
    assert issubclass(Worker, base)
    assert isinstance(Worker(), base)


def report(results: Queue[Any], *args: object, **kwargs: object) -> None:
    results.put((args, kwargs))


def test_target_is_called_with_args_and_kwargs() -> None:
    results: Queue[Any] = Queue()
    finish(start(report, results, 1, "two", three=[3]))
    assert results.get(timeout=DEADLINE) == ((1, "two"), {"three": [3]})


def test_args_may_be_any_iterable_as_in_the_stdlib() -> None:
    results: Queue[Any] = Queue()
    worker = Worker(target=report, args=[results, 1])
    worker.start()
    finish(worker)
    assert results.get(timeout=DEADLINE) == ((1,), {})


def test_a_worker_without_target_does_nothing() -> None:
    worker = Worker()
    worker.start()
    finish(worker)


def test_is_alive_tells_whether_it_runs() -> None:
    go = Event()
    worker = Worker(target=go.wait, daemon=True)
    assert worker.is_alive() is False
    worker.start()
    assert worker.is_alive() is True
    go.set()
    finish(worker)
    assert worker.is_alive() is False


def test_join_gives_up_after_its_timeout() -> None:
    go = Event()
    worker = start(go.wait)
    lasts_at_least(SHORT, lambda: worker.join(SHORT))
    assert worker.is_alive()
    worker.join(0)
    worker.join(-1)
    assert worker.is_alive()
    go.set()
    worker.join()
    worker.join()
    assert not worker.is_alive()


def join_all(workers: list[threading.Thread]) -> None:
    for worker in workers:
        worker.join(DEADLINE)


def test_many_threads_start_workers_at_once() -> None:
    """One launcher serves all threads of a program."""
    results: Queue[Any] = Queue()
    starters = [
        threading.Thread(target=lambda index=index: finish(start(report, results, index)))
        for index in range(4)
    ]
    for starter in starters:
        starter.start()
    join_all(starters)
    got = sorted(results.get(timeout=DEADLINE)[0][0] for _ in starters)
    assert got == [0, 1, 2, 3]


# --- misuse ---------------------------------------------------------------------------------


def test_starting_twice_is_an_error() -> None:
    worker = Worker()
    worker.start()
    with misuse(RuntimeError, AssertionError):
        worker.start()
    finish(worker)
    with misuse(RuntimeError, AssertionError):
        worker.start()


def test_starting_from_several_threads_at_once_starts_one_worker() -> None:
    """A process ran twice; a thread never ran, and who had started it waited for ever."""
    for _ in range(20):
        worker = Worker()
        meeting, outcomes = threading.Barrier(4), SimpleQueue[str]()

        def begin(
            worker: Worker = worker,
            meeting: threading.Barrier = meeting,
            outcomes: SimpleQueue[str] = outcomes,
        ) -> None:
            meeting.wait()
            try:
                worker.start()
            except RuntimeError as error:
                outcomes.put("refused" if isinstance(error, AssertionError) else repr(error))
            else:
                outcomes.put("started")

        threads = [start_thread(begin) for _ in range(4)]
        finish(*threads)
        assert sorted(outcomes.get() for _ in threads) == ["refused"] * 3 + ["started"]
        finish(worker)


def test_a_worker_that_could_not_be_started_can_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()

    def refuse(_: object) -> NoReturn:
        raise BlockingIOError

    with monkeypatch.context() as patches:
        patches.setattr(Worker.__base__, "start", refuse)
        with pytest.raises(BlockingIOError):
            worker.start()
    worker.start()
    finish(worker)


def test_joining_before_the_start_is_an_error() -> None:
    with misuse(RuntimeError, AssertionError):
        Worker().join()
    with misuse(RuntimeError, AssertionError):
        Worker().join(timeout=0)


def join_oneself(results: Queue[str]) -> None:
    with misuse(RuntimeError, AssertionError):
        current_worker().join()
    results.put("refused")


def test_joining_itself_is_an_error() -> None:
    results: Queue[str] = Queue()
    finish(start(join_oneself, results))
    assert results.get(timeout=DEADLINE) == "refused"


def test_daemon_can_not_be_changed_after_the_start() -> None:
    go = Event()
    worker = start(go.wait)
    with misuse(RuntimeError, AssertionError):
        worker.daemon = False
    assert worker.daemon is True
    go.set()
    finish(worker)


def test_group_must_be_none() -> None:
    with misuse(AssertionError):
        Worker(group=1)  # type: ignore[arg-type]


def test_arguments_of_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match="target"):
        Worker(target=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\bargs"):
        Worker(target=report, args=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="kwargs"):
        Worker(target=report, kwargs=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Worker(unknown=1)  # type: ignore[call-arg]


def test_a_target_that_can_not_be_pickled_is_refused_at_once() -> None:
    """A6: found when the worker is made, not as a traceback from a half-started process."""
    with pytest.raises(ValueError, match="target") as caught:
        Worker(target=lambda: None)
    assert "lambda" in str(caught.value)
    assert "module" in str(caught.value), "say what to do instead"


def test_a_local_function_is_refused_at_once() -> None:
    def local() -> None:
        pass

    with pytest.raises(ValueError, match=r"target.*local"):
        Worker(target=local)


@pytest.mark.parametrize(
    "make",
    [lambda: threading.Lock(), lambda: (number for number in range(3)), lambda: lambda: None],  # noqa: PLW0108
    ids=["lock", "generator", "lambda"],
)
def test_arguments_that_can_not_be_pickled_are_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\bargs"):
        Worker(target=report, args=(1, make()))
    with pytest.raises(ValueError, match=r"\bargs"):
        Worker(target=report, args=(1, {"deep": [make()]}))
    with pytest.raises(ValueError, match=r"kwargs") as caught:
        Worker(target=report, kwargs={"fine": 1, "culprit": make()})
    assert "culprit" in str(caught.value)


class Unpicklable:
    def __reduce__(self) -> str:
        """Refuse, as objects do that know why they can't be pickled."""
        message = "my own reason"
        raise KeyError(message)


def test_the_reason_that_pickling_gave_is_told() -> None:
    with pytest.raises(ValueError, match="my own reason"):
        Worker(target=report, args=(Unpicklable(),))


class Interrupting:
    def __reduce__(self) -> str:
        """Act as if somebody pressed Ctrl-C at this moment."""
        raise KeyboardInterrupt


def test_ctrl_c_during_the_check_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        Worker(target=report, args=(Interrupting(),))


def use_stdlib_objects(
    queue: multiprocessing.Queue[int], connection: Connection[int, int], lock: StdlibLock
) -> None:
    with lock:
        connection.send(queue.get(timeout=DEADLINE) + 1)


@only_processes
def test_objects_that_the_stdlib_pickles_only_for_children_are_accepted() -> None:
    context = multiprocessing.get_context("forkserver")
    queue: multiprocessing.Queue[int] = context.Queue()
    receiving, sending = context.Pipe(duplex=False)
    lock = context.Lock()  # gone for the worker, too, if we dropped it: ours outlive that
    worker = start(use_stdlib_objects, queue, sending, lock)
    queue.put(41)
    assert receiving.poll(DEADLINE)
    assert receiving.recv() == 42
    finish(worker)
    queue.close()
    queue.join_thread()
    receiving.close()
    sending.close()


# --- names, daemons, subclasses -------------------------------------------------------------


DEFAULT_NAME = r"ForkServerProcess-[\d:]+" if PROCESSES else r"Thread-\d+( \(\w+\))?"


def test_default_names_are_the_stdlibs() -> None:
    first, second = Worker(), Worker(target=report)
    for worker in (first, second):
        assert re.fullmatch(DEFAULT_NAME, worker.name)
    counts = [re.findall(r"\d+", worker.name)[-1] for worker in (first, second)]
    assert int(counts[1]) == int(counts[0]) + 1


def tell_name(results: Queue[Any]) -> None:
    results.put((current_worker().name, isinstance(current_worker(), Worker), get_ident()))


def test_a_name_can_be_given_and_changed() -> None:
    results: Queue[Any] = Queue()
    worker = Worker(target=tell_name, name="first", args=(results,))
    assert worker.name == "first"
    worker.name = "second"
    assert worker.name == "second"
    worker.start()
    finish(worker)
    assert results.get(timeout=DEADLINE)[0] == "second"


def test_a_worker_knows_itself() -> None:
    results: Queue[Any] = Queue()
    worker = Worker(target=tell_name, args=(results,))
    worker.start()
    name, is_worker, ident = results.get(timeout=DEADLINE)
    assert (name, is_worker, ident) == (worker.name, True, worker.ident)
    finish(worker)


def nest(results: Queue[Any]) -> None:
    inner = Worker(target=tell_name, args=(results,))
    inner.start()
    finish(inner)
    results.put(inner.name)


def test_a_workers_own_workers_are_made_alike() -> None:
    """Before 3.14 multiprocessing tells workers its own default, fork, as if the user chose it."""
    results: Queue[Any] = Queue()
    worker = Worker(target=nest, args=(results,))
    worker.start()
    finish(worker)
    inside, is_worker, _ident = results.get(timeout=DEADLINE)
    assert is_worker
    assert results.get(timeout=DEADLINE) == inside
    assert re.fullmatch(DEFAULT_NAME, inside)


def test_daemon_is_settable_before_the_start() -> None:
    assert Worker().daemon is False
    assert Worker(daemon=False).daemon is False
    worker = Worker(daemon=True)
    assert worker.daemon is True
    worker.daemon = False
    assert worker.daemon is False


def tell_daemon(results: Queue[bool]) -> None:
    results.put(Worker().daemon)


def test_daemon_is_inherited() -> None:
    results: Queue[bool] = Queue()
    finish(start(tell_daemon, results))
    assert results.get(timeout=DEADLINE) is True


class Summing(Worker):
    def __init__(self, numbers: list[int], results: Queue[Any]) -> None:
        """Take what `run` will use instead of a target."""
        super().__init__(name="summing")
        self.numbers = numbers
        self.results = results

    def run(self) -> None:
        current = current_worker()
        self.results.put((sum(self.numbers), type(current).__name__, current.name))


def test_a_subclass_may_override_run() -> None:
    results: Queue[Any] = Queue()
    worker = Summing([1, 2, 3], results)
    worker.start()
    finish(worker)
    assert results.get(timeout=DEADLINE) == (6, "Summing", "summing")


class Calling(Worker):
    def run(self) -> None:
        super().run()
        super_done.append(1)


super_done: list[int] = []


def test_a_subclass_may_extend_run() -> None:
    results: Queue[Any] = Queue()
    worker = Calling(target=report, args=(results, "from the target"))
    worker.start()
    finish(worker)
    assert results.get(timeout=DEADLINE) == (("from the target",), {})


# --- exits ----------------------------------------------------------------------------------


@only_processes
def test_the_exit_code_is_right_whichever_thread_asks_first() -> None:
    """Who was second read nothing, and took that for an exit code: 255."""
    is_over = threading.Event()
    codes: list[int | None] = []

    def run_workers() -> None:
        for _ in range(8):
            worker: Any = Worker(target=sys.exit, args=(7,))
            worker.start()
            worker.join(DEADLINE)
            codes.append(worker.exitcode)

    def ask() -> None:
        while not is_over.wait(SHORT / 1000):
            active_children()

    asking = [start_thread(ask) for _ in range(3)]
    finish(*[start_thread(run_workers) for _ in range(3)])
    is_over.set()
    finish(*asking)
    assert codes == [7] * 24


def leave(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "_exit":
        os._exit(4)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


@only_processes
@pytest.mark.parametrize(
    ("how", "code"), [("return", 0), ("exit", 3), ("_exit", 4), ("kill", -signal.SIGKILL)]
)
def test_the_exit_code_tells_how_a_process_ended(how: str, code: int) -> None:
    worker = start(leave, how)
    worker.join(DEADLINE)
    assert getattr(worker, "exitcode", None) == code


FAILING = """
    import sys
    from freethreading import Worker

    def fail():
        raise LookupError("the reason")

    if __name__ == "__main__":
        worker = Worker(target=sys.exit)
        worker.start()
        worker.join()
        worker = Worker(target=fail)
        worker.start()
        worker.join()
        print("went on", worker.is_alive(), getattr(worker, "exitcode", 1))
"""


def test_an_exception_in_a_worker_is_printed_and_the_program_goes_on() -> None:
    finished = run_python(FAILING).check()
    assert finished.stdout == "went on False 1\n"
    assert "LookupError: the reason" in finished.stderr
    assert "in fail" in finished.stderr


DAEMONS = """
    from freethreading import Event, Worker

    if __name__ == "__main__":
        started = Event()
        worker = Worker(target=started.wait, daemon=True)
        worker.start()
        print("main ends")
"""


def test_the_program_does_not_wait_for_daemons() -> None:
    assert run_python(DAEMONS).check().stdout == "main ends\n"


ENDS_RIGHT_AFTER_START = """
    import sys, time
    from freethreading import (
        Barrier, BoundedSemaphore, Condition, Event, Lock, Queue, RLock, Semaphore, SimpleQueue,
        Worker,
    )

    def work(lock, rlock, semaphore, bounded, condition, event, barrier, queue, simple):
        time.sleep(0.2)  # not an order: it only gives the main program time to be gone
        with lock, rlock, semaphore, bounded, condition:
            condition.notify_all()
        event.set()
        assert event.wait(1) and barrier.wait() == 0
        queue.put(1)
        simple.put(queue.get())
        queue.task_done()
        queue.join()
        print("worker done", simple.get(), flush=True)

    if __name__ == "__main__":
        Worker(
            target=work,
            args=(Lock(), RLock(), Semaphore(), BoundedSemaphore(), Condition(), Event(),
                  Barrier(1), Queue(), SimpleQueue()),
        ).start()
        print("main ends", flush=True)
"""


def test_the_main_program_may_end_right_after_start() -> None:
    assert run_python(ENDS_RIGHT_AFTER_START).check().stdout == "main ends\nworker done 1\n"


UNGUARDED = """
    from freethreading import Worker

    worker = Worker(target=print, args=("from the worker",))
    worker.start()
    worker.join()
"""


def test_a_main_module_without_guard_does_not_hang() -> None:
    """A6: since forkserver is the default such programs hung silently."""
    finished = run_python(UNGUARDED)
    assert not finished.timed_out
    if PROCESSES:
        assert "__name__" in finished.stderr
    else:
        assert finished.check().stdout == "from the worker\n"


ORPHANS = """
    import os, signal, sys, time
    from freethreading import (
        Barrier, Condition, Event, Lock, Queue, RLock, Semaphore, SimpleQueue, Worker,
    )

    def wait_in(condition):
        with condition:
            condition.wait()

    def put_twice(queue):
        queue.put(1)
        queue.put(2)

    def spin():
        while True:
            pass

    def work(announce, target, args):
        announce.put(os.getpid())
        target(*args)

    def parent(announce, event):
        worker = Worker(target=work, args=(announce, event.wait, ()))
        worker.start()
        worker.join()

    if __name__ == "__main__":
        announce = Queue()
        lock, rlock, unfinished = Lock(), RLock(), Queue()
        lock.acquire(), rlock.acquire(), unfinished.put(1)
        waits = [
            (lock.acquire, ()), (rlock.acquire, ()), (Semaphore(0).acquire, ()),
            (Event().wait, ()), (wait_in, (Condition(),)), (Barrier(2).wait, ()),
            (Queue().get, ()), (put_twice, (Queue(1),)), (unfinished.join, ()),
            (SimpleQueue().get, ()), (time.sleep, (1000,)), (spin, ()),
        ]
        for target, args in waits:
            Worker(target=work, args=(announce, target, args)).start()
        Worker(target=parent, args=(announce, Event())).start()
        for _ in range(len(waits) + 1):
            announce.get()
        print("all wait", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@only_processes
def test_workers_end_when_their_parent_is_killed_whatever_they_wait_for() -> None:
    """A11: children of a SIGKILLed parent ran on for ever; here each holds our stdout open."""
    finished = run_python(ORPHANS, timeout=15)
    assert finished.stdout == "all wait\n"
    assert not finished.timed_out, str(finished)
    assert finished.returncode == -signal.SIGKILL


# --- the six functions ----------------------------------------------------------------------


def test_the_main_worker_has_the_stdlibs_name() -> None:
    finished = run_python(
        "import freethreading; print(freethreading.current_worker().name)",
    ).check()
    assert finished.stdout.strip() == ("MainProcess" if PROCESSES else "MainThread")


def test_current_worker_is_the_stdlibs_object() -> None:
    expected = multiprocessing.current_process() if PROCESSES else threading.current_thread()
    assert current_worker() is expected


def test_get_ident_is_the_stdlibs() -> None:
    assert get_ident() == (os.getpid() if PROCESSES else threading.get_ident())


def test_live_workers_are_listed() -> None:
    go = Event()
    before = active_count()
    workers = [start(go.wait) for _ in range(3)]
    children = active_children()
    assert set(workers) <= set(children)
    assert current_worker() not in children
    assert set(freethreading.enumerate()) == {*children, current_worker()}
    assert active_count() == len(freethreading.enumerate()) == before + 3
    go.set()
    finish(*workers)
    assert not set(workers) & set(active_children())
    assert active_count() == before


def test_a_worker_that_was_not_started_is_not_listed() -> None:
    assert Worker() not in freethreading.enumerate()


def look_around(results: Queue[Any]) -> None:
    names = [worker.name for worker in freethreading.enumerate()]
    children = [worker.name for worker in active_children()]
    results.put((current_worker().name, names, children, active_count()))


def test_a_worker_sees_itself_among_the_live_ones() -> None:
    results: Queue[Any] = Queue()
    worker = Worker(target=look_around, args=(results,), name="looking")
    worker.start()
    finish(worker)
    current, names, children, count = results.get(timeout=DEADLINE)
    assert current == "looking"
    assert "looking" in names
    assert "looking" not in children
    assert count == len(names)


# --- backends -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bogus", "Threading", "threads", "process"])
def test_an_unknown_backend_is_refused_at_import(name: str) -> None:
    finished = run_python("import freethreading", env={"FREETHREADING_BACKEND": name})
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ")
    for expected in ("FREETHREADING_BACKEND", name, "threading", "multiprocessing"):
        assert expected in last


INHERITS = """
    import os, sys
    from freethreading import Event, Queue, Worker, get_backend

    def tell(results, event):
        event.set()
        results.put((get_backend(), os.getpid()))

    if __name__ == "__main__":
        os.environ.pop("FREETHREADING_BACKEND", None)
        results, event = Queue(), Event()
        worker = Worker(target=tell, args=(results, event))
        worker.start()
        inside, pid = results.get(timeout=20)
        worker.join()
        assert event.is_set()
        print(get_backend(), inside, pid == os.getpid())
"""


@pytest.mark.parametrize("name", ["threading", "multiprocessing"])
def test_the_environment_chooses_the_backend_and_workers_inherit_it(name: str) -> None:
    """They inherit the choice, not the variable: the program has removed that."""
    finished = run_python(INHERITS, env={"FREETHREADING_BACKEND": name}).check()
    assert finished.stdout.split() == [name, name, str(name == "threading")]


@pytest.mark.parametrize("gil", [None, "1", "0"])
def test_without_override_the_interpreter_chooses(gil: str | None) -> None:
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if gil == "0" and not free:
        pytest.skip("a standard build refuses PYTHON_GIL=0")
    if not free and sys.version_info < (3, 13):
        gil = None
    finished = run_python(INHERITS, env={"FREETHREADING_BACKEND": None, "PYTHON_GIL": gil}).check()
    name = "threading" if free and gil != "1" else "multiprocessing"
    assert finished.stdout.split() == [name, name, str(name == "threading")]


GIL_COMES_BACK = """
    import warnings
    import freethreading

    def nothing():
        pass

    if __name__ == "__main__":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import _testmultiphase_nonmodule
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                worker = freethreading.Worker(target=nothing)
                worker.start()
                worker.join()
        for warning in caught:
            print(warning.category.__name__, str(warning.message).replace(chr(10), " "))
"""


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded build"
)
def test_a_gil_that_came_back_is_warned_of_once(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("_testmultiphase")
    if spec is None or spec.origin is None:
        pytest.skip("this interpreter was installed without CPython's test extensions")
    # One of the modules in that file doesn't support free threading; by this name it is found.
    original = Path(spec.origin)
    suffix = "".join(original.suffixes)
    (tmp_path / f"_testmultiphase_nonmodule{suffix}").symlink_to(original)
    environment = {"FREETHREADING_BACKEND": None, "PYTHON_GIL": None, "PYTHONPATH": str(tmp_path)}
    finished = run_python(GIL_COMES_BACK, env=environment).check()
    warned = finished.stdout.splitlines()
    assert len(warned) == 1
    assert warned[0].startswith("RuntimeWarning")
    assert "GIL" in warned[0]
    assert "_testmultiphase_nonmodule" in warned[0], "name the likely cause"


START_METHOD = """
    import multiprocessing, sys

    def work(results, lock, event):
        results.put(lock.acquire(blocking=False))
        event.set()

    if __name__ == "__main__":
        multiprocessing.set_start_method(sys.argv[1])

    from freethreading import Event, Lock, Queue, Worker

    if __name__ == "__main__":
        results, lock, event = Queue(), Lock(), Event()
        lock.acquire()
        worker = Worker(target=work, args=(results, lock, event))
        worker.start()
        print(worker.name, results.get(timeout=20), event.wait(20))
        worker.join()
"""


@only_processes
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_start_method_that_the_user_set_is_honoured(method: str) -> None:
    finished = run_python(
        START_METHOD, method, options=("-W", "ignore::DeprecationWarning")
    ).check()
    prefix = {"fork": "Fork", "forkserver": "ForkServer", "spawn": "Spawn"}[method]
    assert finished.stdout == f"{prefix}Process-1 False True\n"


# --- what a worker is given -----------------------------------------------------------------


@dataclass
class Kind:
    """One class of objects: `mark` leaves a trace in one; `is_marked` sees it from elsewhere."""

    make: Callable[[], Any]
    mark: Callable[[Any], object]
    is_marked: Callable[[Any], bool]

    def __repr__(self) -> str:
        """Return the name of the class, for the tests' ids."""
        return type(self.make()).__name__


KINDS = [
    Kind(Lock, lambda it: it.acquire(), lambda it: it.locked()),
    Kind(RLock, lambda it: it.acquire(), lambda it: not it.acquire(blocking=False)),
    Kind(Semaphore, lambda it: it.acquire(), lambda it: not it.acquire(blocking=False)),
    Kind(BoundedSemaphore, lambda it: it.acquire(), lambda it: not it.acquire(blocking=False)),
    Kind(Condition, lambda it: it.acquire(), lambda it: not it.acquire(blocking=False)),
    Kind(Event, lambda it: it.set(), lambda it: it.is_set()),
    Kind(lambda: Barrier(2), lambda it: it.abort(), lambda it: it.broken),
    Kind(Queue, lambda it: it.put(1), lambda it: not it.empty()),
    Kind(SimpleQueue, lambda it: it.put(1), lambda it: not it.empty()),
]
INDEX = {repr(kind): index for index, kind in enumerate(KINDS)}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


@dataclass
class Bundle:
    """Something of the user's that has one of our objects deep inside."""

    thing: Any
    others: dict[str, list[Any]] = field(default_factory=dict)


def look(index: int, results: Queue[Any], *things: object, **named: object) -> None:
    """Report for each object received, wherever it is, whether its mark is seen."""
    found: list[Any] = []
    for thing in (*things, *named.values()):
        match thing:
            case Bundle():
                found += [thing.thing, *thing.others["list"]]
            case dict() | list() | tuple():
                found += thing.values() if isinstance(thing, dict) else thing
            case _:
                found.append(thing)
    results.put([KINDS[index].is_marked(each) for each in found])


def give_everywhere(thing: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments that have the object in seven places."""
    return (
        (thing, [thing], {"key": thing}, (thing,), Bundle(thing, {"list": [thing]})),
        {"named": thing},
    )


@every_kind
def test_an_object_reaches_a_worker_wherever_its_arguments_hold_it(kind: Kind) -> None:
    thing, results = kind.make(), Queue[Any]()
    kind.mark(thing)
    args, kwargs = give_everywhere(thing)
    worker = start(look, INDEX[repr(kind)], results, *args, **kwargs)
    assert results.get(timeout=DEADLINE) == [True] * 7
    finish(worker)


def look_repeatedly(requests: Queue[Any], results: Queue[Any]) -> None:
    while (request := requests.get()) is not None:
        index, args = request
        look(index, results, *args)


def test_objects_reach_a_running_worker_through_a_queue() -> None:
    requests: Queue[Any] = Queue()
    results: Queue[Any] = Queue()
    worker = start(look_repeatedly, requests, results)
    for index, kind in enumerate(KINDS):
        thing = kind.make()
        kind.mark(thing)
        requests.put((index, give_everywhere(thing)[0]))
        assert results.get(timeout=DEADLINE) == [True] * 6, kind
    requests.put(None)
    finish(worker)


def test_objects_reach_a_running_worker_through_a_simple_queue() -> None:
    requests: SimpleQueue[Any] = SimpleQueue()
    results: Queue[Any] = Queue()
    worker = start(look_repeatedly, requests, results)
    for index, kind in enumerate(KINDS):
        thing = kind.make()
        kind.mark(thing)
        requests.put((index, [thing]))
        assert results.get(timeout=DEADLINE) == [True], kind
    requests.put(None)
    finish(worker)


@every_kind
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_copy_is_the_same_object(kind: Kind, protocol: int) -> None:
    thing = kind.make()
    copy = pickle.loads(pickle.dumps(thing, protocol))
    kind.mark(thing)
    if kind.make is RLock or kind.make is Condition:
        copy.release()  # an error, were it another lock
    else:
        assert kind.is_marked(copy)


@every_kind
def test_a_copy_outlives_the_original(kind: Kind) -> None:
    thing = kind.make()
    kind.mark(thing)
    copy = pickle.loads(pickle.dumps(thing))
    del thing
    gc.collect()
    others = [kind.make() for _ in range(10)]
    if kind.make is RLock or kind.make is Condition:
        copy.release()
    else:
        assert kind.is_marked(copy)
    assert not any(map(kind.is_marked, others))


@every_kind
def test_a_queue_keeps_what_is_in_transit(kind: Kind) -> None:
    """The sender may drop its reference as soon as `put` has returned."""
    queue: Queue[Any] = Queue()
    thing = kind.make()
    kind.mark(thing)
    queue.put([thing])
    del thing
    gc.collect()
    others = [kind.make() for _ in range(10)]
    [copy] = queue.get(timeout=DEADLINE)
    if kind.make is RLock or kind.make is Condition:
        copy.release()
    else:
        assert kind.is_marked(copy)
    assert not any(map(kind.is_marked, others))


def look_later(go: Event, index: int, results: Queue[Any], thing: object) -> None:
    go.wait()
    results.put(KINDS[index].is_marked(thing))


@every_kind
def test_an_object_stays_usable_when_the_main_program_drops_it(kind: Kind) -> None:
    go, results, thing = Event(), Queue[Any](), kind.make()
    kind.mark(thing)
    worker = start(look_later, go, INDEX[repr(kind)], results, thing)
    if kind.make is RLock or kind.make is Condition:
        # Dropping a held lock isn't what this is about: only the handle goes.
        held = pickle.loads(pickle.dumps(thing))
    else:
        held = None
    del thing
    gc.collect()
    others = [kind.make() for _ in range(10)]  # would take over a place that was freed too early
    go.set()
    assert results.get(timeout=DEADLINE) is True
    finish(worker)
    assert not any(map(kind.is_marked, others))
    del held


def test_a_worker_outlives_the_references_to_it() -> None:
    go = Event()
    results: Queue[Any] = Queue()
    worker = start(look_later, go, INDEX["Event"], results, go)
    reference = weakref.ref(worker)
    del worker
    gc.collect()
    go.set()
    assert results.get(timeout=DEADLINE) is True
    wait_until(lambda: (each := reference()) is None or not each.is_alive(), "it has ended")


@pytest.mark.parametrize("make", [*(kind.make for kind in KINDS), Worker], ids=[*INDEX, "Worker"])
def test_every_object_can_be_weakly_referenced(make: Callable[[], Any]) -> None:
    thing = make()
    died: list[object] = []
    reference = weakref.ref(thing, died.append)
    assert reference() is thing
    assert weakref.WeakKeyDictionary({thing: 1})[thing] == 1
    del thing
    gc.collect()
    assert reference() is None
    assert died == [reference]


@every_kind
def test_repr_names_the_class(kind: Kind) -> None:
    thing = kind.make()
    assert repr(kind) in repr(thing)
    kind.mark(thing)
    assert repr(kind) in repr(thing)
    assert isinstance(str(thing), str)


@every_kind
def test_objects_are_hashable_and_equal_to_themselves_only(kind: Kind) -> None:
    first, second = kind.make(), kind.make()
    assert len({first, second, first}) == 2
    assert first == first  # noqa: PLR0124
    assert first != second


def test_many_objects_cost_no_descriptors() -> None:
    folder = Path("/proc/self/fd")
    kept = [kind.make() for kind in KINDS]
    before = len(list(folder.iterdir()))
    kept += [kind.make() for kind in KINDS for _ in range(100)]
    assert len(list(folder.iterdir())) <= before + 1
    del kept


def make_and_drop(kinds: list[int], rounds: int) -> None:
    for turn in range(rounds):
        for index in kinds:
            kind = KINDS[index]
            thing, other = kind.make(), kind.make()
            copies = [pickle.loads(pickle.dumps(thing)) for _ in range(3)]
            kind.mark(copies[turn % 3])
            del copies[1:]
            gone = pickle.dumps(other)
            del other
            with contextlib.suppress(Exception):  # gone, or the same again: but no crash
                pickle.loads(gone)
            assert repr(thing)


def test_threads_make_pickle_and_drop_objects_at_the_same_time() -> None:
    everything = list(range(len(KINDS)))
    finish(*[start_thread(make_and_drop, everything, 40) for _ in range(4)])


FORKED = """
    import os, signal, threading
    from freethreading import (
        Barrier, BoundedSemaphore, Condition, Event, Lock, OwnerDiedError, Queue, RLock, Semaphore,
        SimpleQueue, get_backend,
    )

    lock, rlock, queue, simple = Lock(), RLock(), Queue(), SimpleQueue()
    held, stop = threading.Event(), threading.Event()

    def hold():
        with lock, rlock:
            held.set()
            stop.wait()

    def be_busy():
        busy, simple_busy = Queue(), SimpleQueue()
        while not stop.is_set():
            busy.put([Lock(), b"x" * 5000])
            busy.get()
            simple_busy.put(Event())
            simple_busy.get()

    def cannot_take(lock):
        try:
            return not lock.acquire(timeout=0.01)
        except OwnerDiedError:
            return get_backend() == "threading"  # where the owner has no counterpart here

    def use_everything():
        with Lock(), RLock(), Semaphore(), BoundedSemaphore(), Condition() as condition:
            pass
        event, fresh, fresh_simple = Event(), Queue(), SimpleQueue()
        event.set()
        assert event.wait(0) and Barrier(1).wait() == 0
        fresh.put([1, Lock()])
        assert fresh.get()[0] == 1
        fresh_simple.put(b"x" * 100_000)
        assert len(fresh_simple.get()) == 100_000
        assert cannot_take(lock) and cannot_take(rlock)
        assert repr(lock) and repr(rlock)
        assert queue.get_nowait() == "before the fork"

    if __name__ == "__main__":
        threads = [threading.Thread(target=each) for each in (hold, be_busy, be_busy)]
        for thread in threads:
            thread.start()
        held.wait()
        codes = []
        for _ in range(20):
            queue.put("before the fork")
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                try:
                    use_everything()
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            if get_backend() == "threading":
                assert queue.get_nowait() == "before the fork"
        stop.set()
        for thread in threads:
            thread.join()
        assert queue.empty() and lock.acquire(timeout=10) and rlock.acquire(timeout=10)
        print(set(codes))
"""


def test_fork_while_other_threads_hold_locks_does_not_break_the_child() -> None:
    """A8: what is locked inside us when somebody forks must not stay locked in the child."""
    finished = run_python(FORKED, options=("-W", "ignore::DeprecationWarning"), timeout=40).check()
    assert finished.stdout == "{0}\n", str(finished)


# Not the pickle's bytes are changed (pickle itself doesn't stand that), but what they call.
CORRUPTED = """
    import sys
    import freethreading

    classes = [getattr(freethreading, name) for name in sys.argv[1:]]
    make = classes[0]
    thing = make(2) if make is freethreading.Barrier else make()
    function, arguments = thing.__reduce_ex__(2)[:2]

    def changes_of(value):
        if isinstance(value, tuple):
            for index, part in enumerate(value):
                for changed in changes_of(part):
                    yield *value[:index], changed, *value[index + 1:]
            yield value[:-1]
            yield *value, None
        elif isinstance(value, bytes):
            for index in range(len(value)):
                for change in (1, 0x80, 0xFF):
                    changed = bytearray(value)
                    changed[index] ^= change
                    yield bytes(changed)
            yield from (value[:-1], value + value, b"", bytes(len(value)), None)
        elif isinstance(value, int):
            yield from (value + 1, -1, 2**31, 2**64, value ^ 1 << 40, "text")
        elif isinstance(value, type):
            yield from (int, None, *classes[1:])
        elif isinstance(value, str):
            yield from ("", value + "x", None)
        else:
            yield from (5, b"bytes")

    refused = 0
    for changed in changes_of(arguments):
        try:
            copy = function(*changed)
        except Exception as refusal:
            assert str(refusal), repr(refusal)
            refused += 1
        else:
            repr(copy)
    print("refused some:", refused > 5)
"""


@every_kind
def test_a_corrupted_handle_is_an_exception(kind: Kind) -> None:
    finished = run_python(CORRUPTED, repr(kind), *INDEX).check()
    assert finished.stdout == "refused some: True\n"


DUMP = """
    import pickle, sys
    import freethreading

    things = [
        freethreading.Lock(), freethreading.RLock(), freethreading.Semaphore(),
        freethreading.Condition(), freethreading.Event(), freethreading.Barrier(2),
        freethreading.Queue(), freethreading.SimpleQueue(),
    ]
    print(*(pickle.dumps(thing).hex() for thing in things))
"""
LOAD = """
    import pickle, sys
    import freethreading

    own = [freethreading.Lock() for _ in range(100)]
    for text in sys.argv[1:]:
        try:
            print("accepted", pickle.loads(bytes.fromhex(text)))
        except Exception as refusal:
            print("refused" if str(refusal) else "silent")
"""


def test_a_handle_from_a_dead_family_is_an_exception() -> None:
    handles = run_python(DUMP).check().stdout.split()
    finished = run_python(LOAD, *handles).check()
    assert finished.stdout.splitlines() == ["refused"] * len(handles)


class Unready(Worker):
    """A worker whose attributes can't be pickled."""

    def __init__(self) -> None:
        """Add one after the check."""
        super().__init__(args=(Lock(),))
        self.attribute = threading.Lock()


@only_processes
def test_a_start_that_fails_gives_its_place_back() -> None:
    """After 831 of them no worker could be started any more."""
    from freethreading import _native  # noqa: PLC0415  # for its statistics

    Lock()
    before = _native.family_statistics()
    for _ in range(20):
        with pytest.raises(TypeError, match="pickle"):
            Unready().start()
    gc.collect()
    assert _native.family_statistics() == before


def test_pickling_beside_an_import_of_multiprocessing() -> None:
    """Another thread may have imported one half of it."""
    finished = run_python(
        """
        import pickle, sys, types
        import freethreading

        sys.modules["multiprocessing.context"] = types.ModuleType("half imported")
        lock = freethreading.Lock()
        print(pickle.loads(pickle.dumps(lock)) == lock)
        """
    ).check()
    assert finished.stdout == "True\n"


def use(*things: object, **named: object) -> None:
    """Take arguments."""
    assert things
    assert named


@pytest.mark.skipif(
    sys.version_info < (3, 14) or not sysconfig.get_config_var("Py_GIL_DISABLED"),
    reason="needs a free-threaded build that can do it",
)
def test_references_to_what_threads_share_are_not_counted() -> None:
    """A17: counting those to a lock took most of its time. The garbage collector frees it."""
    gc.disable()
    try:
        lock, event, semaphore = Lock(), Event(), Semaphore()
        lasting = [weakref.ref(each) for each in (lock, event, semaphore)]
        barrier, unshared = Barrier(1), Lock()
        counted = [weakref.ref(each) for each in (barrier, unshared)]
        finish(start(use, lock, [event], barrier, each=semaphore))
        del lock, event, semaphore, barrier, unshared
        assert all(each() is None for each in counted)
        assert all(each() is not None for each in lasting)
        gc.collect()
        assert all(each() is None for each in lasting)
    finally:
        gc.enable()


def test_a_name_that_is_no_utf8_is_taken_as_by_the_stdlib() -> None:
    lock = Lock()
    worker = Worker(target=use, args=(lock,), kwargs={"each": lock}, name="a\udcff")
    worker.start()
    finish(worker)
    assert getattr(worker, "exitcode", 0) == 0
