"""What every play of the crowd is made of: sixteen threads, another one that collects garbage.

    python tests/crowd/crowd.py PLAY SEED SECONDS

All do deeds at random until the time is up or one of them fails. Then the play lets those go who
still wait, and its books are checked. Any exception that a deed does not expect is a failure; so is
a thread that does not come back, which ends the program with the stacks of all.
"""

from __future__ import annotations

import faulthandler
import gc
import random
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS = 16
# Not a bound on speed: who isn't back after it hangs.
PATIENCE = 40.0
# Between two collections, which stop all threads.
SECONDS_TO_COLLECT = 0.002
# Where there is a GIL it changes hands as often as this.
SWITCH_INTERVAL = 1e-5


class Member:
    """A thread of the crowd: its number, and its own source of choices."""

    def __init__(self, number: int, seed: str) -> None:
        self.number = number
        self.random = random.Random(f"{seed} {number}")
        self.count = 0

    def next(self) -> int:
        """Return a number that rises with each call."""
        self.count += 1
        return self.count

    def moment(self) -> float:
        """Return a short timeout; often none at all, sometimes less than that."""
        return self.random.choice((0, 0, 1e-6, 1e-4, 1e-3, 5e-3, -1))

    def pause(self) -> None:
        """Let others run, sometimes."""
        if self.random.random() < 0.2:
            time.sleep(0)


class Play(ABC):
    """Objects, what is done with them, and the books about that."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.is_over = threading.Event()

    @abstractmethod
    def deeds(self) -> dict[Callable[[Member], object], int]:
        """Return what a member may do, and how often it is chosen."""

    @abstractmethod
    def objects(self) -> object:
        """Return objects that are in use, for a cycle that is garbage soon."""

    def let_go(self) -> None:  # noqa: B027 - most have nothing to do
        """Let those go who wait; called again and again once the time is up."""

    @abstractmethod
    def check(self) -> None:
        """Check the books, when all members have gone."""


class Slots:
    """Objects in use, with their books; each is replaced by a new one now and then."""

    def __init__(self, makers: list[Callable[[], Any]]) -> None:
        self.makers = makers
        self.slots = [make() for make in makers]
        self.all = list(self.slots)

    def pick(self, member: Member) -> Any:  # noqa: ANN401 - whatever is made here
        return member.random.choice(self.slots)

    def renew(self, member: Member) -> None:
        """Make another one; those who use the old one may be the last to have it."""
        place = member.random.randrange(len(self.slots))
        new = self.makers[place]()
        self.all.append(new)
        self.slots[place] = new

    def __iter__(self) -> Iterator[Any]:
        """Go through all that there ever were."""
        return iter(list(self.all))


class Stage:
    """A play that is being played: its threads, and what failed."""

    def __init__(self, play: Play, seed: str, seconds: float) -> None:
        self.play = play
        self.seed = seed
        self.end = time.monotonic() + seconds
        self.meeting = threading.Barrier(THREADS + 1)
        self.failures: list[str] = []

    def is_over(self) -> bool:
        return self.play.is_over.is_set() or time.monotonic() >= self.end

    def fail(self, what: str) -> None:
        """Note the exception that is being handled, and end the play."""
        self.failures.append(f"{what}:\n{traceback.format_exc()}")
        self.play.is_over.set()

    def act(self, number: int) -> None:
        """Be a thread of the crowd."""
        member = Member(number, self.seed)
        deeds, weights = list(self.play.deeds()), list(self.play.deeds().values())
        doing: Any = None
        try:
            self.meeting.wait()
            while not self.is_over():
                doing = member.random.choices(deeds, weights)[0]
                doing(member)
        except BaseException:  # noqa: BLE001 - a panic is one, too
            self.fail(f"{getattr(doing, '__name__', doing)} of member {number}")

    def collect(self) -> None:
        """Make garbage cycles that hold the objects, and have them collected."""
        try:
            self.meeting.wait()
            while not self.play.is_over.wait(SECONDS_TO_COLLECT):
                cycle: list[object] = [self.play.objects()]
                cycle.append(cycle)
                del cycle
                gc.collect()
        except BaseException:  # noqa: BLE001 - as above
            self.fail("the collector")

    def check(self) -> None:
        if not self.failures:
            try:
                self.play.check()
            except Exception:  # noqa: BLE001 - told as the others
                self.fail("the books")


def perform(play: Play, seed: str, seconds: float) -> list[str]:
    """Have the crowd play; return what failed."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    faulthandler.dump_traceback_later(seconds + PATIENCE, exit=True)
    stage = Stage(play, seed, seconds)
    threads = [threading.Thread(target=stage.act, args=(number,)) for number in range(THREADS)]
    collecting = threading.Thread(target=stage.collect)
    for thread in (*threads, collecting):
        thread.start()
    play.is_over.wait(seconds)
    for thread in threads:
        while thread.is_alive():
            play.let_go()
            thread.join(0.005)
    play.is_over.set()
    collecting.join()
    stage.check()
    faulthandler.cancel_dump_traceback_later()
    return stage.failures
