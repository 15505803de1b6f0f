from array import array

import pytest

from qmpfleece.block.drivers.qcow2.cleaning import Cleaner
from qmpfleece.block.drivers.qcow2.tables import WORD64, Table, TableCache
from tests.tools.clock import StillClock


@pytest.fixture
def clock():
    return StillClock()


async def test_cleans_at_each_end_of_the_interval_until_stopped(clock):
    calls = []
    cleaner = Cleaner(clock, lambda: calls.append(clock.now))
    cleaner.start(10)
    clock.advance(35)
    cleaner.stop()
    clock.advance(100)
    assert calls == [10, 20, 30]
    assert not clock.armed


async def test_interval_of_zero_never_cleans(clock):
    cleaner = Cleaner(clock, lambda: pytest.fail("cleaned"))
    cleaner.start(5)
    cleaner.start(0)
    clock.advance(1000)


async def test_another_interval_begins_anew(clock):
    calls = []
    cleaner = Cleaner(clock, lambda: calls.append(clock.now))
    cleaner.start(10)
    clock.advance(9)
    cleaner.start(4)
    clock.advance(5)
    assert calls == [13]


async def _nothing(*_: object) -> None:
    pass


def test_drops_what_was_not_used_since_the_last_time_and_is_clean():
    cache = TableCache(WORD64, 8, 10, _nothing, _nothing)
    idle, used, dirty, writing = tables = [Table(number, array("Q", [0])) for number in range(4)]
    for table in tables:
        cache.insert(table)
    dirty.dirty = writing.writing = True
    cache.drop_unused()
    assert list(cache) == tables
    assert cache.peek(used.offset) is used
    cache.drop_unused()
    assert list(cache) == [used, dirty, writing]
    assert cache.peek(idle.offset) is None
