"""Large data in messages: what hands out buffers (`pickle.PickleBuffer`) arrives as it was.

Whether it is copied into a message or lies in shared memory is nobody's business: it is whole, as
writable as it was, lives as long as somebody looks at it, and nobody else sees what is changed.
Between threads nothing is copied, and there is nothing to test.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from test_items import both_ways, copied, passed, queues
from test_queue import EIGHT_MIB, AnyQueue, digest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = copied
# At 64 KiB buffers part from their message.
SIZES = [0, 1, 1000, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, EIGHT_MIB]


class Block:
    """What many packages do for large data: hand out a buffer, and be made anew around one."""

    def __init__(self, data: Any) -> None:  # noqa: ANN401 - any buffer
        """Keep a buffer."""
        self.data = data

    def __reduce_ex__(self, _protocol: Any) -> tuple[type[Block], tuple[Any]]:  # noqa: ANN401
        return Block, (pickle.PickleBuffer(self.data),)


@queues
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_buffer_arrives_whole_and_as_writable_as_it_was(
    make: Callable[[], AnyQueue], kind: Callable[[bytes], Any], size: int
) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    sent = kind(data[:size])
    for got in (passed(make, pickle.PickleBuffer(sent)), *both_ways(make, Block(sent))):
        view = memoryview(got.data if isinstance(got, Block) else got)
        assert view.readonly is (kind is bytes)
        assert view.nbytes == size
        assert digest(view) == digest(sent)


@queues
@pytest.mark.parametrize("size", SIZES)
def test_what_a_bare_buffer_arrives_as_can_be_sent_on(
    make: Callable[[], AnyQueue], size: int
) -> None:
    """It could be up to a size, as what is received then is `bytes`."""
    got = passed(make, pickle.PickleBuffer(b"x" * size))
    assert digest(memoryview(passed(make, got))) == digest(b"x" * size)


@queues
def test_a_change_of_a_buffer_is_seen_by_nobody_else(make: Callable[[], AnyQueue]) -> None:
    sent = bytearray(b"x") * EIGHT_MIB
    source = make()
    source.put(Block(sent))
    source.put(Block(sent))
    sent[0:1] = b"s"
    first, second = memoryview(source.get().data), memoryview(source.get().data)
    first[0:2] = b"12"
    assert [bytes(each[:3]) for each in (sent, first, second)] == [b"sxx", b"12x", b"xxx"]


@queues
def test_a_part_of_a_buffer_outlives_all_else(make: Callable[[], AnyQueue]) -> None:
    source = make()
    for number in range(20):
        source.put(Block(bytearray([number]) * (1 << 20)))
    parts = [memoryview(source.get().data)[1000:2000] for _ in range(20)]
    del source
    later = make()
    for _ in range(20):
        later.put(Block(bytearray(b"\xff") * (1 << 20)))  # what was free is used again
    assert [bytes(part) for part in parts] == [bytes([number]) * 1000 for number in range(20)]


@queues
def test_many_buffers_in_one_message(make: Callable[[], AnyQueue]) -> None:
    kinds = [bytes, bytearray]
    sent = [Block(kinds[size % 2](bytes([size]) * size * 3000)) for size in range(60)]
    for got in both_ways(make, sent):
        assert [bytes(each.data) for each in got] == [bytes(each.data) for each in sent]
        assert [memoryview(each.data).readonly for each in got] == [True, False] * 30


@queues
def test_a_buffer_with_gaps_is_refused_and_the_queue_unharmed(
    make: Callable[[], AnyQueue],
) -> None:
    source = make()
    with pytest.raises((BufferError, pickle.PicklingError)):
        source.put(Block(memoryview(bytearray(EIGHT_MIB))[::2]))
    assert source.empty()
    source.put("usable")
    assert source.get() == "usable"
