"""`os.fork()` beside everything else."""

from __future__ import annotations

from support import run_python

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
