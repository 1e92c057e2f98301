"""What the system refuses is an exception, and what was there before works on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import run_python
from test_worker import only_processes

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = """
    import resource, sys
    from freethreading import Lock, Queue

    def limit(what, beyond):
        resource.setrlimit(what, (beyond, resource.getrlimit(what)[1]))

    queue = Queue()
    queue.put("before")
    queue.put(b"1" * 100_000)
    large = bytes(100 << 20)
"""


ADDRESS_SPACE = """
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, used + (32 << 20))
"""
FILE_SIZE = """
    limit(resource.RLIMIT_FSIZE, 16 << 20)
"""
REFUSED = """
    try:
        queue.put(large)
    except MemoryError as error:
        print("refused:", error)
    queue.put("after")
    print(queue.get(), len(queue.get()), queue.get(), queue.empty())
"""


@only_processes
@pytest.mark.parametrize("limit", [ADDRESS_SPACE, FILE_SIZE], ids=["address space", "file size"])
def test_a_large_item_beyond_a_limit_is_a_memory_error(limit: str) -> None:
    finished = run_python(ITEMS + limit + REFUSED)
    assert "refused: " in finished.stdout
    assert finished.stdout.endswith("before 100000 after True\n")
    assert finished.returncode == 0


# Each is done in mounts of its own, so that nobody else's /dev/shm is touched.
SHM = {
    "absent": "mount -t tmpfs -o size=64k none /dev && mknod -m 666 /dev/null c 1 3"
    " && mknod -m 666 /dev/urandom c 1 9",
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "small": "mount -t tmpfs -o size=64k none /dev/shm",
}


def can_mount() -> bool:
    """Say whether this user may have mounts of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        return False
    command = [unshare, "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


WORK = """
import os
import freethreading as ft

def work(queue, lock, barrier, back):
    with lock:
        data = queue.get()
    barrier.wait()
    back.put((len(data), os.path.exists("/dev/shm")))

if __name__ == "__main__":
    queue, back = ft.Queue(), ft.SimpleQueue()
    lock, barrier = ft.Lock(), ft.Barrier(2)
    worker = ft.Worker(target=work, args=(queue, lock, barrier, back))
    worker.start()
    queue.put(bytes(8 << 20))
    barrier.wait()
    print(back.get())
    worker.join()
    with ft.WorkerPool(2) as pool, ft.WorkerPoolExecutor(2) as executor:
        assert pool.map(len, [bytes(8 << 20)] * 4, 1) == [8 << 20] * 4
        assert executor.submit(bytes, 8 << 20).result() == bytes(8 << 20)
"""


@pytest.mark.skipif(not can_mount(), reason="needs mounts of its own: unshare, as root")
@pytest.mark.parametrize("shm", SHM)
def test_nothing_needs_dev_shm(shm: str, tmp_path: Path) -> None:
    """Docker gives a container 64 MiB, AWS Lambda none."""
    program = tmp_path / "program.py"
    program.write_text(WORK)
    script = SHM[shm] + ' && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, str(program)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"(8388608, {shm != 'absent'})\n"
