import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.drivers.qcow2.tables import WORD64, Codec, Table, TableCache


@given(st.sampled_from([1, 2, 4]), st.binary(min_size=8, max_size=64))
def test_narrow_words_are_packed_lowest_bits_first(bits, raw):
    codec = Codec(bits)
    words = codec.decode(bytearray(raw))
    mask = (1 << bits) - 1
    expected = [byte >> shift & mask for byte in raw for shift in range(0, 8, bits)]
    assert words.tolist() == expected
    assert bytes(codec.encode(words)) == raw


@given(st.sampled_from([(8, "B"), (16, "H"), (32, "I"), (64, "Q")]), st.data())
def test_wide_words_are_big_endian(width, data):
    bits, letter = width
    values = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=20))
    raw = struct.pack(f">{len(values)}{letter}", *values)
    words = Codec(bits).decode(bytearray(raw))
    assert words.tolist() == values
    assert bytes(Codec(bits).encode(words)) == raw
    assert words.tolist() == values


class Store:
    """A file of tables of one word; reads can be held back."""

    def __init__(self, capacity) -> None:
        self.words = {}
        self.reads = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = TableCache(WORD64, 8, capacity, self.read, self.clean)

    async def read(self, offset, buf):
        self.reads.append(offset)
        await self.gate.wait()
        buf[:] = struct.pack(">Q", self.words.get(offset, 0))

    async def clean(self):
        for table in self.cache:
            self.words[table.offset] = table.words[0]
            table.dirty = False


async def test_table_is_read_once_for_all_who_want_it():
    store = Store(4)
    store.gate.clear()
    loads = [asyncio.create_task(store.cache.load(8)) for _ in range(5)]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(*loads)
    assert store.reads == [8]
    assert store.cache.peek(8) is not None


async def test_cache_stays_within_its_capacity_and_loses_nothing_dirty():
    store = Store(4)
    for offset in range(0, 800, 8):
        await store.cache.load(offset)
        table = store.cache.peek(offset)
        table.words[0] = offset + 1
        table.dirty = True
        assert len(store.cache) <= 4
    for offset in range(0, 800, 8):
        await store.cache.load(offset)
        assert store.cache.peek(offset).words[0] == offset + 1


async def test_table_that_is_being_written_is_not_dropped():
    store = Store(2)
    store.cache.insert(Table(0, WORD64.blank(1)))
    store.cache.peek(0).writing = True
    for offset in range(8, 80, 8):
        await store.cache.load(offset)
    assert store.cache.peek(0) is not None


async def test_table_that_is_in_use_outlives_the_others():
    store = Store(4)
    for offset in range(0, 800, 8):
        await store.cache.load(offset)
        if offset >= 8:
            assert store.cache.peek(8) is not None


async def test_failed_read_fails_for_each_who_wants_the_table():
    store = Store(2)

    async def read(_offset, _buf):
        raise OSError(5, "Input/output error")

    store.cache = TableCache(WORD64, 8, 2, read, store.clean)
    results = await asyncio.gather(
        *(store.cache.load(0) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [OSError] * 3


async def test_cancelled_load_leaves_the_table_to_the_next():
    store = Store(2)
    store.gate.clear()
    first = asyncio.create_task(store.cache.load(0))
    second = asyncio.create_task(store.cache.load(0))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    await second
    assert store.cache.peek(0) is not None


async def test_table_that_is_dropped_while_it_is_loaded_is_not_kept():
    store = Store(4)
    store.gate.clear()
    loads = [asyncio.create_task(store.cache.load(8)) for _ in range(2)]
    await asyncio.sleep(0)
    store.cache.drop(8)
    store.gate.set()
    await asyncio.gather(*loads)
    assert store.reads == [8]
    assert store.cache.peek(8) is None
