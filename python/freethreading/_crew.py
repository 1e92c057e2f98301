"""The workers of a pool: starting them, looking after them, and ending them.

The engine (`_native._Engine`) sends tasks and takes outcomes in; it asks for a worker with `hire`
when there are more tasks than workers. The collector is one thread that makes callbacks, takes in
outcomes that nobody waits for, and looks whether a worker has ended. One thread at a time looks
after the workers: the collector, or who waits for the pool's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from freethreading._backend import get_backend, warn_if_gil_returned
from freethreading._native import _Engine
from freethreading._tasks import broken_by
from freethreading._threads import PoolThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

    from freethreading._native import _Link
    from freethreading._tasks import Task

# How often, in seconds, workers are looked after: while there are tasks, and else.
_BUSY = 0.1
_IDLE = 0.5
# So many workers in a row may end before they are ready; then the pool is broken.
_FALSE_STARTS = 3
# So many seconds may it be impossible to start any worker.
_NO_START = 5.0
# What workers get to end by themselves once they were told to: less than a second in all.
_GRACE = 0.5


class Crew:
    """The workers of a pool, and its collector."""

    def __init__(self, workers: int, *, waits_at_exit: bool) -> None:
        """Prepare for at most so many workers; they are started as tasks come."""
        warn_if_gil_returned()
        self.engine = _Engine(workers, self._hire)
        self.waits_at_exit = waits_at_exit
        self.pid = os.getpid()
        # Guards the table of workers; held for moments.
        self._lock = threading.RLock()
        # Held by the one who looks after the workers: a process may only be asked by one thread at
        # a time whether it has ended (its status can be read once).
        self._care = threading.RLock()
        # Whose it is: a signal handler or a finalizer may come in the middle of it.
        self._carer: int | None = None
        self._workers: dict[_Link, Any] = {}
        self.collector: PoolThread | None = None
        self._false_starts = 0
        self._no_start_since: float | None = None
        self._is_ending = False
        # Whether it takes no more calls: by its owner's word, or because the program ends.
        self.is_closed = False
        _end_at_exit(self)

    # What differs between threads and processes.

    def _start(self, link: _Link) -> Any:  # noqa: ANN401  # a thread or a process
        """Start a worker and return it."""
        raise NotImplementedError

    def _bury(self, link: _Link, worker: Any, /) -> None:  # noqa: ANN401  # as above
        """See to a worker that has ended."""
        raise NotImplementedError

    def _kill(self, workers: list[Any]) -> None:
        """End workers, whatever they do."""

    def _await(self, workers: list[Any]) -> None:
        """Wait a moment for one of the workers to end."""
        raise NotImplementedError

    # Whether a worker can be ended, whatever it does.
    can_kill = False

    def _hire(self) -> None:
        """Start one more worker."""
        link = self.engine.link()
        with self._lock:
            self._workers[link] = None
        try:
            worker = self._start(link)
        except BaseException:
            with self._lock:
                del self._workers[link]
            raise
        with self._lock:
            self._workers[link] = worker
        if self._is_ending:
            self.end()

    def collect(self) -> None:
        """Have a collector from now on."""
        if self.collector is None and self.pid == os.getpid():
            with self._lock:
                if self.collector is None:
                    # Known before it is started: a finalizer that comes in between needs no other.
                    self.collector = PoolThread(_collect, (self,), "freethreading-collector")
                    try:
                        self.collector.start()
                    except BaseException:
                        self.collector = None
                        raise

    def look(self) -> None:
        """Look after the workers, unless somebody is at it."""
        if self._care.acquire(blocking=False):
            try:
                self._care_for(self._look)
            finally:
                self._care.release()

    def _care_for(self, action: Callable[[], object], *, must_be_now: bool = False) -> None:
        """Do what one thread at a time may do, and only if it `must_be_now` amidst the same."""
        is_amidst = self._carer == threading.get_ident()
        if is_amidst and not must_be_now:
            return
        with self._care:
            self._carer = threading.get_ident()
            try:
                action()
            finally:
                if not is_amidst:
                    self._carer = None

    def _look(self) -> None:
        """Bury the workers that have ended, and start others if there are tasks for them."""
        self._bury_the_dead()
        if self._is_ending:
            workers = self._present()
            if workers and self.can_kill:
                self._kill(workers)
                self._bury_the_dead()
            return
        if self.engine.broken() is not None:
            self._is_ending = True
            self._look()
            return
        self._start_others()
        self.engine.stop_if_done()

    def _bury_the_dead(self) -> None:
        with self._lock:
            workers = list(self._workers.items())
        for link, worker in workers:
            if worker is None or _if_open(worker.is_alive):
                continue
            with self._lock:
                if self._workers.pop(link, None) is None:
                    continue  # a signal handler of this thread has seen to it in between
            try:
                self._bury(link, worker)
            except BaseException:
                # A Ctrl-C, or no memory: somebody goes on with it.
                with self._lock:
                    self._workers[link] = worker
                raise
            self.engine.left()

    def _start_others(self) -> None:
        try:
            self.engine.hire()
        except Exception as error:  # noqa: BLE001  # whatever starting a worker raises
            now = time.monotonic()
            self._no_start_since = self._no_start_since or now
            if now - self._no_start_since > _NO_START:
                self.engine.break_with(broken_by(error, "no worker can be started"))
        else:
            self._no_start_since = None

    def close(self) -> None:
        """Take no more calls; workers end when all is done."""
        self.is_closed = True
        if self.pid == os.getpid():
            self.engine.close()

    def terminate(self, error: BaseException) -> None:
        """End all that is waited for with `error`, and the workers."""
        if self.pid != os.getpid():
            return  # a forked child has no part in its parent's pools
        self.is_closed = True
        try:
            self.engine.terminate(error)
        finally:
            self.end()

    def end(self) -> None:
        """End the workers; amidst a look at them, that look does it, or the next one."""
        self._is_ending = True
        self._care_for(self._look)
        self.engine.nudge()

    def drop(self, error: BaseException) -> None:
        """Do as `terminate`, but have the collector end the workers.

        For finalizers, which come in the middle of anything, and must not wait.
        """
        self.is_closed = True
        self.engine.terminate(error)
        self._is_ending = True
        self.engine.nudge()

    def finish(self) -> None:
        """End the workers of a pool that was dropped or terminated, if that isn't done."""
        if self._is_ending:
            self._care_for(self._look)

    def join(self, owner: str) -> None:
        """Wait until all is done and all workers have ended; to be called when closed.

        Raises:
            RuntimeError: A task of the pool itself waits for its end.
        """
        if self.pid != os.getpid():
            return
        if self.engine.has_this_thread():
            message = f"{owner}: a task can't wait for the end of the pool that runs it"
            raise RuntimeError(message)
        while True:
            # Again and again: a call that was under way when the pool was closed sends later.
            if not self._is_ending:
                self.engine.wait_idle()
            self.engine.stop_if_done()
            with self._lock:
                if not self._workers:
                    break
            self._care_for(self._await_and_look, must_be_now=True)
        self.engine.nudge()
        if self._carer == threading.get_ident():
            return  # the collector may have to wait for what a signal handler has interrupted
        if self.collector is not None:
            self.collector.join()

    def _await_and_look(self) -> None:
        self._await(self._present())
        self._look()

    def _present(self) -> list[Any]:
        """Return the workers, without those who are being started."""
        with self._lock:
            # Copied at once: a signal handler of this thread may change the table.
            workers = list(self._workers.values())
        return [worker for worker in workers if worker is not None]


class ThreadCrew(Crew):
    """Workers that are threads."""

    def __init__(
        self,
        workers: int,
        initializer: Task | None,
        *,
        waits_at_exit: bool,
        thread_name_prefix: str | None = None,
    ) -> None:
        """Prepare; without a prefix, threads are named as any other."""
        self._initializer = initializer
        self._prefix = thread_name_prefix
        self._started = 0
        super().__init__(workers, waits_at_exit=waits_at_exit)

    def _start(self, link: _Link) -> PoolThread:
        name = None if self._prefix is None else f"{self._prefix}_{self._started}"
        self._started += 1
        thread = PoolThread(worker, (link, self._initializer), name)
        thread.start()
        return thread

    def _bury(self, _link: _Link, worker: Any, /) -> None:  # noqa: ANN401  # a thread
        """Let it be gone for good; it ends only when it was told to."""
        worker.join()

    def _await(self, workers: list[Any]) -> None:
        for thread in workers[:1]:
            thread.join(_BUSY)


class ProcessCrew(Crew):
    """Workers that are processes."""

    can_kill = True

    def __init__(
        self,
        workers: int,
        initializer: Task | None,
        *,
        waits_at_exit: bool,
        mp_context: BaseContext | None = None,
        most_tasks: int | None = None,
        is_pool: bool = False,
    ) -> None:
        """Prepare; each worker is replaced when it has run `most_tasks`."""
        from freethreading._bootstrap import process_context  # noqa: PLC0415  # not for threads

        # Settled though it may not be used, lest the first process that is started settles another.
        settled = process_context()
        self._context = mp_context or settled
        self._initializer = initializer
        self._most_tasks = most_tasks
        self._is_pool = is_pool
        # The workers that were ready at the last false start.
        self._proven: weakref.WeakSet[_Link] = weakref.WeakSet()
        super().__init__(workers, waits_at_exit=waits_at_exit)

    def _start(self, link: _Link) -> Any:  # noqa: ANN401  # a process
        from freethreading._bootstrap import Ticket  # noqa: PLC0415  # not for threads
        from freethreading._orphans import guard, keep  # noqa: PLC0415  # likewise

        self.collect()
        process: Any = self._context.Process(  # type: ignore[attr-defined]  # of every context
            target=work, args=(Ticket(), link, self._initializer, self._most_tasks)
        )
        if self._is_pool:
            process.name = process.name.replace("Process", "PoolWorker")
        process.start()
        keep(process._popen)  # noqa: SLF001  # of every process
        guard(process._popen)  # noqa: SLF001  # likewise
        return process

    def _bury(self, link: _Link, worker: Any, /) -> None:  # noqa: ANN401  # a process
        from freethreading._orphans import is_orphan  # noqa: PLC0415  # not for threads

        try:
            code, pid = worker.exitcode, worker.pid
        except (ValueError, AttributeError):
            return  # it is closed: an interrupt came right after that
        code = None if is_orphan(worker._popen) else code  # noqa: SLF001  # of every process
        is_lost = self.engine.bury(link, lambda name: _died(code, pid, name))
        ticket = getattr(worker._popen, "_freethreading_ticket", None)  # noqa: SLF001  # ours
        if ticket is not None and ticket.token is not None:
            from freethreading._native import family_reap  # noqa: PLC0415  # not for threads

            family_reap(ticket.token)
        worker.join()
        worker.close()
        if link.is_ready():
            self._false_starts = 0
        elif not is_lost and not self._is_ending and self.engine.broken() is None:
            self._note_false_start(_died(code, pid, None))

    def _note_false_start(self, error: BaseException) -> None:
        """Count a worker that ended before it was ready; too many in a row break the pool."""
        with self._lock:
            links = list(self._workers)
        ready = [link for link in links if link.is_ready()]
        if not self._proven.issuperset(ready):
            self._false_starts = 0  # others have started well since the last one
        self._proven = weakref.WeakSet(ready)
        self._false_starts += 1
        if self._false_starts >= _FALSE_STARTS:
            self.engine.break_with(error)

    def _await(self, workers: list[Any]) -> None:
        from multiprocessing.connection import wait  # noqa: PLC0415  # not for threads

        # Not the process's own attribute, which stays what it was at first.
        popens = [process._popen for process in workers]  # noqa: SLF001  # of every process
        sentinels = [getattr(popen, "sentinel", None) for popen in popens]
        wait([sentinel for sentinel in sentinels if sentinel is not None], _BUSY)

    def _kill(self, workers: list[Any]) -> None:
        for process in workers:
            _if_open(process.terminate)
        deadline = time.monotonic() + _GRACE
        for process in workers:
            _if_open(process.join, max(0.0, deadline - time.monotonic()))
            if _if_open(process.is_alive):
                _if_open(process.kill)
                _if_open(process.join)


def _if_open(method: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401  # as the method
    """Call a method of a worker; return None for a process that is closed.

    A signal handler has closed it, or an interrupt came when it was being closed.
    """
    try:
        return method(*args)
    except (ValueError, AttributeError):
        return None


def _died(code: int | None, pid: int | None, name: str | None) -> BaseException:
    from freethreading._died import WorkerDiedError  # noqa: PLC0415  # rarely needed

    return WorkerDiedError.of(code, pid, name)


def _collect(crew: Crew) -> None:
    """Be the collector of a crew, until all is over."""
    engine = crew.engine
    while True:
        try:
            if not engine.collect(_BUSY if engine.is_busy() else _IDLE):
                crew.finish()
                return
            crew.look()
        except BaseException as error:  # noqa: BLE001  # an item's pickling, or lack of memory
            details = type(error), error, error.__traceback__, threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs(details))
            time.sleep(_BUSY)


def worker(link: _Link, initializer: Task | None) -> None:
    """Be a worker thread; as the standard library's, it is named after this function."""
    if initializer is not None:
        try:
            initializer()
        except BaseException as error:  # noqa: BLE001  # told to all who wait
            link.report_broken(error)
            return
    link.run()


def work(ticket: Any, link: _Link, initializer: Task | None, most_tasks: int | None) -> None:  # noqa: ANN401
    """Be a worker process."""
    ticket.join()
    # A Ctrl-C reaches every process of the terminal. It is the main one's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initializer is not None:
        try:
            initializer()
        except BaseException as error:  # noqa: BLE001  # told to all who wait
            link.report_broken(error)
            return
    link.run(most_tasks)


# --- the end of the program ---------------------------------------------------------------------

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_is_registered = 0


def _end_at_exit(crew: Crew) -> None:
    """End a crew with its process, if nobody does before."""
    global _is_registered  # noqa: PLW0603  # once per process
    _crews.add(crew)
    if _is_registered == os.getpid():
        return
    _is_registered = os.getpid()
    if get_backend() == "multiprocessing":
        from multiprocessing import util  # noqa: PLC0415  # not for threads

        util.Finalize(None, _end_all, exitpriority=20)
    register: Callable[..., None] | None = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # it ends already
            register(_end_all)


def _end_all() -> None:
    for crew in list(_crews):
        if crew.pid != os.getpid():
            continue
        if crew.waits_at_exit:
            crew.close()
        else:
            crew.terminate(ValueError("WorkerPool: the program has ended"))
    for crew in list(_crews):
        # A thread that is in the middle of a task ends with the program.
        if crew.pid == os.getpid() and (crew.waits_at_exit or crew.can_kill):
            crew.join("exit")
