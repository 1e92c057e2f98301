"""`os.fork()` beside everything else."""

from __future__ import annotations

import pytest

from support import run_python
from test_worker import only_processes

FORKING_THREADS = """
    import logging  # registers hooks of its own, which let other threads run between ours
    import os
    import threading
    import freethreading

    lock = freethreading.Lock()

    def fork():
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                with lock:
                    pass
                os._exit(0)
            codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    codes = set()
    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(codes)
"""


def test_threads_may_fork_at_the_same_time() -> None:
    """A lock held from the hook before a fork to the one after it deadlocked the process."""
    finished = run_python(
        FORKING_THREADS, options=("-W", "ignore::DeprecationWarning"), timeout=50
    ).check()
    assert finished.stdout == "{0}\n", str(finished)


# A thread forks that `threading` doesn't know, and the engine only if it has used something of
# ours; in the child it is the only one.
FORKING_FROM_A_RAW_THREAD = """
    import _thread
    import os
    import signal
    import sys
    import traceback
    from freethreading import *

    PROCESSES = get_backend() == "multiprocessing"
    DEADLINE = 20.0

    def is_refused(call):
        try:
            call()
        except RuntimeError:
            return True
        return False

    def use(lock, rlock, semaphore, bounded, condition, event, barrier):
        assert lock.acquire(timeout=DEADLINE) and lock.locked() and not lock.acquire(False)
        lock.release()
        with rlock, rlock:
            assert rlock.acquire(timeout=DEADLINE) and ", depth 3>" in repr(rlock)
            rlock.release()
        assert not rlock.locked() and is_refused(rlock.release)
        for each in (semaphore, bounded):
            with each:
                assert each.acquire(timeout=DEADLINE)
                assert not each.acquire(False) and not each.acquire(timeout=0.001)
                each.release()
            assert repr(each).endswith(" value=2>")

        def come():
            barrier.wait(DEADLINE)
            with condition:
                condition.notify()
            event.set()

        with condition:
            _thread.start_new_thread(come, ())
            barrier.wait(DEADLINE)
            assert condition.wait(DEADLINE)
        assert event.wait(DEADLINE)

    def new():
        semaphores = Semaphore(2), BoundedSemaphore(2)
        return Lock(), RLock(), *semaphores, Condition(), Event(), Barrier(2)

    def fork(check):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)  # ends it if it hangs
            code = 1
            try:
                check()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def in_raw_thread(call):
        done = _thread.allocate_lock()
        results = []

        def run():
            try:
                results.append(call())
            except BaseException:
                traceback.print_exc()
            finally:
                done.release()

        done.acquire()
        _thread.start_new_thread(run, ())
        assert done.acquire(timeout=2 * DEADLINE)
        return results

    {body}
"""

FORKS = {
    "before anything was made": """
    assert in_raw_thread(lambda: fork(lambda: use(*new()))) == [0]
    use(*new())
""",
    "what was made before is used": """
    made = new()

    def check():
        use(*made)
        use(*new())

    assert in_raw_thread(lambda: fork(check)) == [0]
    # One event for all processes, or one for each copy of a thread's.
    assert made[5].is_set() is PROCESSES
    use(*made)
""",
    "the main thread holds it": """
    lock, rlock = Lock(), RLock()
    lock.acquire()
    rlock.acquire()

    def check():
        assert not rlock._is_owned() and is_refused(rlock.release)
        if PROCESSES:  # its owner lives
            assert not lock.acquire(timeout=0.001) and not rlock.acquire(timeout=0.001)
            assert lock.locked() and rlock.locked()
            lock.release()  # anybody may
            assert lock.acquire(False)
        else:
            for each in (lock, rlock):
                try:
                    each.acquire(timeout=DEADLINE)
                except OwnerDiedError:
                    assert each.acquire(timeout=DEADLINE)
                    each.release()
                else:
                    raise AssertionError(each)

    assert in_raw_thread(lambda: fork(check)) == [0]
    assert rlock._is_owned() and rlock.acquire(False)
    rlock.release()
    rlock.release()
    assert not rlock.locked() and lock.locked()
""",
    "it holds it itself": """
    lock, rlock = Lock(), RLock()

    def check():
        # Its copy of the lock, or the lock, which is the parent's.
        assert rlock._is_owned() is not PROCESSES
        if PROCESSES:
            assert is_refused(rlock.release) and not rlock.acquire(timeout=0.001)
            return
        # To other threads of the child the owner is this one, which lives.
        others = lambda: lock.acquire(timeout=0.001) or rlock.acquire(timeout=0.001)
        assert in_raw_thread(others) == [False]
        assert rlock.acquire(False) and ", depth 3>" in repr(rlock)
        for _ in range(3):
            rlock.release()
        assert is_refused(rlock.release) and not rlock.locked()
        with rlock:
            pass

    def hold():
        with lock, rlock, rlock:
            code = fork(check)
            assert rlock._is_owned() and ", depth 2>" in repr(rlock)
        return code

    assert in_raw_thread(hold) == [0]
    assert not rlock.locked() and not lock.locked()
""",
    "the child forks again": """
    made = new()

    def check():
        assert in_raw_thread(lambda: fork(lambda: use(*made))) == [0]
        made[5].clear()
        use(*made)

    assert in_raw_thread(lambda: fork(check)) == [0]
    use(*made)
""",
}


@pytest.mark.parametrize("body", FORKS.values(), ids=FORKS.keys())
def test_a_thread_that_nobody_knows_may_fork(body: str) -> None:
    """In the child, it is the one thread that lives on, and everything works."""
    program = FORKING_FROM_A_RAW_THREAD.replace("{body}", body.strip() + '\n    print("works")')
    finished = run_python(program, options=("-W", "ignore::DeprecationWarning"), timeout=50).check()
    # An error in a hook of a fork is only shown.
    assert (finished.stdout, finished.stderr) == ("works\n", ""), str(finished)


FORKING_BESIDE_WORKERS = """
    import multiprocessing
    import os
    import signal
    import sys
    import threading
    import time
    from freethreading import Event, Worker, active_children

    def end(go):
        go.wait()
        sys.exit(7)

    def fork():
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # for who waits for a lock of its parent's
            active_children()
            multiprocessing.active_children()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def ask(is_over):
        while not is_over.is_set():
            active_children()

    if __name__ == "__main__":
        go, is_over = Event(), threading.Event()
        worker = Worker(target=end, args=(go,))
        worker.start()
        asking = [threading.Thread(target=ask, args=(is_over,)) for _ in range(3)]
        for thread in asking:
            thread.start()
        codes = {fork() for _ in range(50)}
        is_over.set()
        for thread in asking:
            thread.join()
        go.set()
        # Ended, and nobody has asked.
        while os.path.exists(f"/proc/{worker.pid}"):
            time.sleep(0.01)
        codes.add(fork())
        worker.join()
        print(codes, worker.exitcode)
"""


@only_processes
def test_a_forked_child_may_ask_for_the_workers_of_its_parent() -> None:
    """It mustn't wait for a thread that it has not, nor take the exit code from its parent."""
    finished = run_python(
        FORKING_BESIDE_WORKERS, options=("-W", "ignore::DeprecationWarning"), timeout=50
    ).check()
    assert finished.stdout == "{0} 7\n", str(finished)
