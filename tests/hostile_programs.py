"""Programs that overwrite the shared memory they use; `test_hostile.py` runs them.

    python hostile_programs.py PROGRAM SEED SECONDS

Whatever the memory says, each call must return or raise an `Exception`: a crash, a panic (which is
a `BaseException`), or a call that does not come back ends the program with another status than 0.

One thing isn't written: the number of a living process, where a lock may be. Such a lock is held by
that process, and waited for as long as it lives.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import freethreading
from freethreading import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Nobody may make very much of nonsense: so much more than at the beginning.
ADDRESS_SPACE = 2 << 30
# Not a bound on speed: a call that takes longer is ended by a signal, and one that lets no signal
# through hangs.
PATIENCE = 2.0
LAST_RESORT = 30
WORD = 8
PAGE = 4096
# Where the process table begins, how long a slot is, how many there are; states of those in use.
TABLE, SLOT, SLOTS = 4096, 128, 832
RESERVED, ALIVE = 2, 3
LARGE = 70_000


class Memory:
    """The memory file, read and written behind the back of those who map it."""

    def __init__(self, source: random.Random) -> None:
        _, self.file = _native.family_id()
        self.random = source

    def read(self) -> bytes:
        return os.pread(self.file, os.fstat(self.file).st_size, 0)

    def word(self, at: int) -> int:
        return int.from_bytes(os.pread(self.file, WORD, at), "little")

    def write(self, at: int, value: int) -> None:
        os.pwrite(self.file, (value % 2**64).to_bytes(WORD, "little"), at)

    def living(self) -> set[int]:
        """Return the tokens of the processes that live, or are about to."""
        tokens = set()
        for slot in range(1, SLOTS):
            life = self.word(TABLE + slot * SLOT)
            if life >> 56 in {RESERVED, ALIVE}:
                tokens.add((life >> 32 & 0x1F_FFFF) << 10 | slot)
        return tokens

    def used(self) -> list[int]:
        """Return where words are that aren't zero."""
        return self.changed(b"")

    def changed(self, before: bytes) -> list[int]:
        """Return where words are that were others (or zero) before."""
        now = self.read()
        before = before.ljust(len(now), b"\0")
        pages = [
            at for at in range(0, len(now), PAGE) if now[at : at + PAGE] != before[at : at + PAGE]
        ]
        return [
            at
            for page in pages
            for at in range(page, page + PAGE, WORD)
            if now[at : at + WORD] != before[at : at + WORD]
        ]

    def spoil(self, at: int, living: set[int]) -> tuple[int, int]:
        """Overwrite a word; return where it is, and what it was."""
        before = self.word(at)
        size = os.fstat(self.file).st_size
        value = self.random.choice(
            (
                self.random.choice((0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)),
                before ^ 1 << self.random.randrange(64),
                before ^ self.random.randrange(256) << 8 * self.random.randrange(8),
                before + self.random.randrange(-8, 9),
                self.random.randrange(size) // 64 * 64,
                self.random.randrange(2**64),
                self.random.randrange(100),
            )
        )
        if self.random.random() < 1 / 3:
            value = before & 0xFFFF_FFFF | value << 32
        value %= 2**64
        halves = value & 0xFFFF_FFFF, value >> 32
        if not any(half in living or half >> 1 in living for half in halves):
            self.write(at, value)
        return at, before


class Expired(Exception):  # noqa: N818 - no error
    """A call took so long that it was ended from outside."""


def expire(_number: int, _frame: object) -> NoReturn:
    raise Expired


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Let a call end by itself, with an exception of whatever kind, or by the signal."""
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    except Exception as error:  # noqa: BLE001 - all that is asked for is that it is one
        str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def begin() -> None:
    """Prepare a process for calls that may never end, or want too much."""
    signal.signal(signal.SIGALRM, expire)
    faulthandler.dump_traceback_later(LAST_RESORT + float(sys.argv[3]), exit=True)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = used * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


class Parcel:
    """Something whose bytes travel out of band."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __reduce_ex__(self, _protocol: object) -> tuple[type, tuple[object]]:
        return Parcel, (pickle.PickleBuffer(self.content),)  # type: ignore[arg-type]


ITEMS: Sequence[Any] = (
    *(None, True, 1, -(2**63), 2.5, "text", b"bytes", bytearray(b"array")),
    ((1, "two", 3.0), [None, False], {"a": (b"b", [])}),
    list(range(40)),
    {"key": "value", "other": 2**70},
    range(7),
    "x" * LARGE,
    b"x" * LARGE,
    bytearray(LARGE),
    Parcel(bytearray(LARGE)),
    [Parcel(b"x" * LARGE), "and", Parcel(bytearray(2 * LARGE))],
    ["long" * 20_000, list(range(9_000))],
)


def touch(value: Any) -> None:  # noqa: ANN401 - of any type
    """Look at all of a value, and write to it where that is allowed."""
    if isinstance(value, Parcel):
        value = value.content
    if isinstance(value, list | tuple):
        for element in value[:100]:
            touch(element)
        return
    try:
        view = memoryview(value)
    except TypeError:
        zlib.crc32(repr(value).encode(errors="replace"))
        return
    zlib.crc32(view)
    if view and not view.readonly:
        view[-1:] = b"\1"


def clusters(places: list[int]) -> list[list[int]]:
    """Divide places into those that are next to each other."""
    divided: list[list[int]] = []
    for at in places:
        if divided and at - divided[-1][-1] <= 2 * WORD:
            divided[-1].append(at)
        else:
            divided.append([at])
    return divided


def spoil_what_changed(memory: Memory, before: bytes, living: set[int]) -> list[tuple[int, int]]:
    """Overwrite a few of the words that are others than before."""
    parts = clusters(memory.changed(before))
    chosen = [memory.random.choice(parts) for _ in range(memory.random.randrange(1, 4))]
    # The first words of a part are the most interesting.
    places = [part[min(int(memory.random.expovariate(0.3)), len(part) - 1)] for part in chosen]
    return [memory.spoil(at, living) for at in places]


def messages(memory: Memory, end: float) -> None:
    """Overwrite parts of messages, and what leads to them, before they are taken."""
    kinds = freethreading.Queue, freethreading.SimpleQueue
    living = memory.living()
    rounds = 0
    while time.monotonic() < end:
        queue: Any = memory.random.choice(kinds)()
        queue.put(None)
        queue.get()
        before = memory.read()
        for item in memory.random.sample(ITEMS, 2):
            queue.put(item)
        spoilt = spoil_what_changed(memory, before, living)
        for _ in range(3):
            with bounded():
                if not queue.empty():
                    touch(queue.get())
        for at, value in reversed(spoilt):
            memory.write(at, value)
        with bounded():
            del queue
        rounds += 1
    assert rounds


TAG_OF_BYTES, TAG_OF_PICKLES = 6, 7
READ_ONLY, ELSEWHERE = 1 << 63, 1 << 62


def claims(memory: Memory, _end: float) -> None:
    """Have a message say that it is bytes which lie in another blob, and many of them."""
    refused = 0
    for length in (LARGE, 1 << 28, 1 << 40, (1 << 62) - 1):
        queue: Any = freethreading.Queue()
        queue.put(None)
        queue.get()
        before = memory.read()
        queue.put(Parcel(bytearray(LARGE)))
        for at in memory.changed(before):
            word = memory.word(at)
            if word >> 32 == TAG_OF_PICKLES:
                memory.write(at, TAG_OF_BYTES << 32 | word & 0xFFFF_FFFF)
            elif word & ~READ_ONLY == LARGE:
                memory.write(at, ELSEWHERE | length)
        try:
            item = queue.get(timeout=1)
        except (RuntimeError, MemoryError):
            refused += 1
        else:
            refused += item == b""
    assert refused == 4, "one for each length"


def square(number: int) -> int:
    return number * number


def hold(go: Any) -> None:  # noqa: ANN401 - an Event
    go.wait(PATIENCE)


def first(numbers: Any) -> object:  # noqa: ANN401 - of any type
    return numbers[0]


def pools(memory: Memory, end: float) -> None:
    """Overwrite parts of tasks before the worker takes them."""
    while True:
        go = freethreading.Event()
        pool = freethreading.WorkerPool(1)
        results: list[Any] = [pool.apply_async(hold, (go,))]
        time.sleep(0.02)  # so that it is probably the worker's by now; nothing depends on that
        before = memory.read()
        with bounded():
            results += [
                pool.apply_async(square, (3,)),
                pool.map_async(square, range(20), chunksize=3),
                pool.starmap_async(pow, [(2, 3), (3, 4)]),
                pool.apply_async(first, (b"x" * LARGE,)),
                pool.apply_async(len, (Parcel(bytearray(LARGE)),)),
                pool.map_async(lambda_like, [1, 2]),
            ]
        spoil_what_changed(memory, before, memory.living())
        with bounded():
            go.set()
        for result in results:
            with bounded():
                touch(result.get(0.3))
        with bounded():
            pool.terminate()
        pool.terminate()
        pool.join()
        if time.monotonic() >= end:
            return


class LambdaLike:
    """A function with a state, which is pickled for each call."""

    def __call__(self, number: int) -> int:
        return number + len(self.ballast)

    def __init__(self) -> None:
        self.ballast = "x" * 2000


lambda_like = LambdaLike()


class Things:
    """One of each."""

    def __init__(self) -> None:
        self.locks: list[Any] = [freethreading.Lock(), freethreading.RLock()]
        self.semaphores: list[Any] = [freethreading.Semaphore(2), freethreading.BoundedSemaphore(1)]
        self.event = freethreading.Event()
        self.condition: Any = freethreading.Condition()
        self.barrier = freethreading.Barrier(2)
        self.queues: list[Any] = [freethreading.Queue(50), freethreading.Queue()]
        self.simple: Any = freethreading.SimpleQueue()

    def calls(self, source: random.Random) -> list[Callable[[], object]]:
        """Return what may be done, each with a timeout."""
        soon = source.choice((0.0, 0.001, 0.004))
        lock, queue = source.choice(self.locks), source.choice(self.queues)
        semaphore = source.choice(self.semaphores)
        item = source.choice(ITEMS)
        return [
            lambda: lock.acquire(timeout=soon),
            lock.release,
            lambda: repr(lock),
            lambda: semaphore.acquire(timeout=soon),
            semaphore.release,
            lambda: repr(semaphore),
            self.event.set,
            self.event.clear,
            lambda: self.event.wait(soon),
            lambda: self.wait(soon),
            self.notify,
            lambda: self.barrier.wait(soon),
            self.barrier.reset,
            lambda: repr((self.barrier, self.condition, self.event)),
            lambda: queue.put(item, timeout=soon),
            lambda: touch(queue.get(timeout=soon)),
            lambda: queue.put_many([item, 2, 3], timeout=soon),
            lambda: queue.get_many(9, timeout=soon),
            lambda: repr((queue, queue.qsize(), queue.full())),
            queue.task_done,
            lambda: self.simple.put(item),
            lambda: touch(self.simple.get()) if not self.simple.empty() else None,
            lambda: pickle.loads(pickle.dumps(lock)).locked(),
            _native.family_statistics,
            lambda: type(queue)().put(item),
            lambda: freethreading.Condition().notify(),
        ]

    def wait(self, soon: float) -> None:
        if self.condition.acquire(timeout=0.01):
            try:
                self.condition.wait(soon)
            finally:
                self.condition.release()

    def notify(self) -> None:
        if self.condition.acquire(timeout=0.01):
            try:
                self.condition.notify_all()
            finally:
                self.condition.release()

    def act(self, source: random.Random) -> None:
        with bounded():
            source.choice(self.calls(source))()


def work(things: Things, there: Any, seed: int, seconds: float) -> None:  # noqa: ANN401
    """Do this and that in a worker."""
    begin()
    there.put(seed)
    source = random.Random(seed)  # noqa: S311 - to be repeated
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        things.act(source)


def beside(memory: Memory, end: float) -> None:
    """Overwrite words while workers use everything."""
    things = Things()
    there: Any = freethreading.SimpleQueue()
    seconds = end - time.monotonic()
    seeds = [memory.random.randrange(2**32) for _ in range(2)]
    workers = [freethreading.Worker(target=work, args=(things, there, it, seconds)) for it in seeds]
    for worker in workers:
        worker.start()
    for _ in workers:
        there.get()
    while time.monotonic() < end:
        living, used = memory.living(), memory.used()
        for _ in range(10):
            memory.spoil(memory.random.choice(used), living)
            things.act(memory.random)
    for worker in workers:
        worker.join(LAST_RESORT)
        code = worker.exitcode
        assert code is not None, "a worker hangs"
        assert code >= 0, f"a worker was killed by signal {-code}"


MAGIC, VERSION = 0xF7, 1


def handle(
    kind: int, process: int, file: int, *, family: tuple[int, int], place: int, serial: int
) -> bytes:
    """Return a handle whose checksum is right."""
    words = process << 32 | file, *family, place, serial
    body = b"".join((word % 2**64).to_bytes(WORD, "little") for word in words)
    begin = bytes((MAGIC, VERSION, kind % 256, 0))
    checksum = 0x811C_9DC5
    for byte in begin + body:
        checksum = (checksum ^ byte) * 0x0100_0193 % 2**32
    return begin + checksum.to_bytes(4, "little") + body


def handle_of(thing: Any) -> bytes:  # noqa: ANN401 - any of ours
    text: bytes = thing.__reduce__()[1][3]
    return text


def restored(text: bytes, cls: type = freethreading.Lock) -> Any:  # noqa: ANN401 - an object of it
    return _native.restore(cls, cls, (), text, None)


def handles(memory: Memory, end: float) -> None:
    """Make objects of handles that somebody has made up, and of what isn't one."""
    kept = Things()
    real = [handle_of(it) for it in (*kept.locks, *kept.semaphores, *kept.queues)]
    family, file = _native.family_id()
    places = [int.from_bytes(it[32:40], "little") for it in real]
    serials = [int.from_bytes(it[40:48], "little") for it in real]
    classes = [freethreading.Lock, freethreading.Semaphore, freethreading.Queue, int, Parcel, type]
    pick = memory.random.choice
    anything = (*ITEMS[:12], *classes, *real, kept.locks[0], (), {}, freethreading, -1, 2**70)
    made = refused = 0
    while time.monotonic() < end:
        text: Any = handle(
            memory.random.randrange(12),
            pick((os.getpid(), os.getpid(), os.getppid(), 0, 1, 2**31, 2**32 - 1)),
            pick((file, file, file, 0, 1, 2, 99, 2**32 - 1)),
            family=pick((family, family, family, (0, 0), (family[0], family[1] ^ 1))),
            place=pick(
                (*places, pick(places) + 64, pick(places) + 8, 0, 64, 2**20, 2**63, 2**64 - 64)
            ),
            serial=pick((*serials, 0, 1, pick(serials) + 1, 2**64 - 1)),
        )
        arguments = [pick(classes), pick(classes), pick(((), (1,), (None, 2))), text, None]
        for _ in range(memory.random.randrange(3)):
            arguments[memory.random.randrange(5)] = pick(anything)
        try:
            if memory.random.random() < 0.1:
                _native.restore_link(*memory.random.choices((*real, text, *anything), k=4))
            else:
                repr(_native.restore(*arguments))
            made += 1
        except Exception as error:  # noqa: BLE001 - all that is asked for is that it is one
            str(error)
            refused += 1
    assert made, "none was right"
    assert refused, "none was wrong"
    assert all(repr(it) for it in (*kept.locks, *kept.queues))


def strangers(_memory: Memory, _end: float) -> None:
    """Try to get at a family from outside, with what can be guessed and what can't."""
    lock = freethreading.Lock()
    lock.acquire()
    real = handle_of(lock)
    (low, high), file = _native.family_id()
    place, serial = (int.from_bytes(real[at : at + 8], "little") for at in (32, 40))
    guesses = [
        handle(1, os.getpid(), file, family=family, place=place, serial=serial)
        for family in ((0, 0), (low, high ^ 1), (low ^ 1, high), (high, low))
    ]
    stale = handle(1, os.getpid(), file, family=(low, high), place=place, serial=serial + 1)
    code = (
        "import sys\n"
        "from freethreading import Lock, _native\n"
        "for text in sys.argv[1:]:\n"
        "    try:\n"
        "        lock = _native.restore(Lock, Lock, (), bytes.fromhex(text), None)\n"
        "    except RuntimeError as error:\n"
        "        print('refused:', error)\n"
        "    else:\n"
        "        print(lock.locked())\n"
    )
    texts = [it.hex() for it in (*guesses, stale, real)]
    finished = subprocess.run(
        [sys.executable, "-c", code, *texts], check=True, capture_output=True, text=True
    )
    *refusals, last = finished.stdout.splitlines()
    foreign = "can't be joined, it may have ended (the shared memory belongs to something else)"
    assert all(it.startswith("refused: ") and foreign in it for it in refusals[:4]), refusals
    assert "no longer exists" in refusals[4], refusals
    # Who knows the whole handle, and is the same user, was given it.
    assert last == "True", last


def users(_memory: Memory | None, _end: float) -> None:
    """Try to get at a family as another user."""
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        # It has no family: its parent founds one afterwards.
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            process, file, text = os.read(incoming, 4096).split()
            for path in (b"fd/" + file, b"mem", b"map_files"):
                for attempt in (lambda it: os.open(it, os.O_RDONLY), os.readlink, os.listdir):
                    try:
                        attempt(b"/proc/" + process + b"/" + path)
                    except (PermissionError, NotADirectoryError):
                        continue
                    except OSError as error:
                        if error.errno == errno.EINVAL:  # no link
                            continue
                        raise
                    assert False, (path, attempt)  # noqa: B011, PT015 - nothing may succeed
            try:
                restored(bytes.fromhex(text.decode()))
            except RuntimeError as error:
                status = 0 if "can't be joined" in str(error) else 2
        finally:
            os._exit(status)
    lock = freethreading.Lock()
    _, descriptor = _native.family_id()
    os.write(outgoing, f"{os.getpid()} {descriptor} {handle_of(lock).hex()}".encode())
    _, status = os.waitpid(child, 0)
    assert status == 0, status


def main() -> None:
    """Run what the command line says."""
    begin()
    end = time.monotonic() + float(sys.argv[3])
    if sys.argv[1] == "users":
        users(None, end)
        return
    programs = {it.__name__: it for it in (messages, pools, beside, claims, handles, strangers)}
    memory = Memory(random.Random(int(sys.argv[2])))  # noqa: S311 - to be repeated
    programs[sys.argv[1]](memory, end)


if __name__ == "__main__":
    main()
