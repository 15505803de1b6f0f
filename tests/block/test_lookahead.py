"""Lookahead against asking each time."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block import lookahead
from qmpfleece.block.driver import Extent

UNIT = 512


class Disk:
    """A node with a status of its own for each unit, and who asks for it."""

    def __init__(self, units) -> None:
        self.units = units
        self.asked = 0

    async def status(self, node, offset, length, limit):
        assert node is self
        self.asked += 1
        extents = []
        end = min(offset + length, len(self.units) * UNIT)
        while offset < end and len(extents) < limit:
            stop = offset - offset % UNIT + UNIT
            extents.append(Extent(min(stop, end) - offset, self.units[offset // UNIT]))
            offset = stop
        return extents


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=400),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 3000)), max_size=40),
)
def test_it_tells_what_asking_would_wherever_it_is_asked(units, places):
    async def run():
        disk = Disk(units)
        ahead = lookahead.Lookahead(disk, disk.status)
        for place, length in places:
            offset = place % (len(units) * UNIT)
            got, flags, *_ = await ahead.get(offset, length)
            assert flags == units[offset // UNIT]
            assert 0 < got <= length
            assert (offset + got - 1) // UNIT == offset // UNIT

    asyncio.run(run())


async def test_rising_offsets_are_asked_for_once_a_stretch():
    disk = Disk([index % 2 for index in range(lookahead._EXTENTS * 3)])
    ahead = lookahead.Lookahead(disk, disk.status)
    for index in range(len(disk.units)):
        assert await ahead.get(index * UNIT, UNIT) == Extent(UNIT, index % 2)
    assert disk.asked == 3
