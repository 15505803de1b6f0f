"""Tables of the file in memory: how they are coded, and a bounded write-back cache of them.

A table is decoded once when it is read and encoded once when it is written; in between it is
an array of machine integers. A table may be changed only in a function that got it from
``peek`` and has not awaited since, because what is clean may be dropped at any await.

The cache never writes: what is dirty is written by ``journal``, which knows the order.
"""

import asyncio
import sys
from array import array
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

_SWAP: Final = sys.byteorder == "little"
_TYPES: Final = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Codec:
    """Converts between a table on disk and its words.

    Args:
        bits: The width of a word. Less than 8: words are packed, lowest bits first.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._type = _TYPES[max(bits, 8)]
        if bits < 8:
            mask = (1 << bits) - 1
            self._pick = [
                bytes(byte >> shift & mask for byte in range(256)) for shift in range(0, 8, bits)
            ]

    def blank(self, entries: int) -> "array[int]":
        """Return words that are all 0."""
        return array(self._type, bytes(entries * max(self._bits, 8) // 8))

    def decode(self, raw: bytearray) -> "array[int]":
        """Return the words that ``raw`` holds."""
        if self._bits < 8:
            unpacked = bytearray(len(raw) * 8 // self._bits)
            for place, table in enumerate(self._pick):
                unpacked[place :: len(self._pick)] = raw.translate(table)
            return array("B", unpacked)
        words = array(self._type, raw)
        if _SWAP:
            words.byteswap()
        return words

    def encode(self, words: "array[int]") -> memoryview:
        """Return the words as they are stored, in memory of their own."""
        if self._bits < 8:
            packed = 0
            raw = words.tobytes()
            step = 8 // self._bits
            for place in range(step):
                part = int.from_bytes(raw[place::step], "little")
                packed |= part << place * self._bits
            return memoryview(packed.to_bytes(len(raw) // step, "little"))
        copy = words[:]
        if _SWAP:
            copy.byteswap()
        return memoryview(copy).cast("B")


WORD64: Final = Codec(64)


class Table:
    """A table, or a slice of one.

    Attributes:
        offset: Where it lies in the file.
        words: Its content.
        dirty: Changed since it was last handed to be written.
        writing: Being written: must not be dropped.
        checked: Known not to lie on other metadata.
        hot: Used since the cache last looked for something to drop, or for what is unused.
    """

    __slots__ = ("checked", "dirty", "hot", "offset", "words", "writing")

    def __init__(self, offset: int, words: "array[int]", *, dirty: bool = False) -> None:
        self.offset = offset
        self.words = words
        self.dirty = dirty
        self.writing = False
        self.checked = False
        self.hot = True


class TableCache:
    """Tables by their offset, at most ``capacity`` of them, but for those just being made.

    Args:
        codec: How the tables are stored.
        table_bytes: Bytes of a table.
        capacity: How many are kept.
        read: Fills a buffer from the file.
        clean: Writes all that is dirty.
    """

    def __init__(
        self,
        codec: Codec,
        table_bytes: int,
        capacity: int,
        read: Callable[[int, memoryview], Awaitable[None]],
        clean: Callable[[], Awaitable[None]],
    ) -> None:
        self.codec = codec
        self.table_bytes = table_bytes
        self.capacity = capacity
        self._read = read
        self._clean = clean
        self._tables: dict[int, Table] = {}
        self._loading: dict[int, asyncio.Future[None]] = {}
        #: How often tables were dropped that are no tables any more.
        self._drops = 0

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def __len__(self) -> int:
        return len(self._tables)

    def peek(self, offset: int) -> Table | None:
        """Return the table at ``offset`` if it is in memory."""
        table = self._tables.get(offset)
        if table is not None:
            table.hot = True
        return table

    def insert(self, table: Table) -> None:
        """Add a table that has just been made."""
        self._tables[table.offset] = table

    def drop_unused(self) -> None:
        """Drop what is clean and was not used since the last call; no await inside."""
        for offset, table in list(self._tables.items()):
            if not (table.dirty or table.writing or table.hot):
                del self._tables[offset]
            table.hot = False

    def drop_clean(self) -> None:
        """Drop all that need not be written first; no await inside."""
        for offset, table in list(self._tables.items()):
            if not (table.dirty or table.writing):
                del self._tables[offset]

    def drop(self, offset: int) -> None:
        """Forget the table at ``offset``, dirty or not, also if it is just being loaded."""
        self._tables.pop(offset, None)
        self._drops += 1

    async def load(self, offset: int) -> None:
        """Bring the table at ``offset`` into memory; it may be gone again when this returns.

        Raises:
            OSError: It can't be read, or others could not be written to make room.
        """
        drops = self._drops
        # Any drop ends it, as this one may be meant: who wants the table asks for its place again.
        while offset not in self._tables and drops == self._drops:
            if (loading := self._loading.get(offset)) is not None:
                await asyncio.shield(loading)
                continue
            done = asyncio.get_running_loop().create_future()
            self._loading[offset] = done
            try:
                await self.make_room()
                raw = bytearray(self.table_bytes)
                await self._read(offset, memoryview(raw))
                if offset not in self._tables and drops == self._drops:
                    self._tables[offset] = Table(offset, self.codec.decode(raw))
            finally:
                del self._loading[offset]
                done.set_result(None)
            return

    @property
    def overfull(self) -> bool:
        """Whether tables that were just made have pushed the cache over its limit."""
        return len(self._tables) > self.capacity

    async def make_room(self) -> None:
        """Drop tables until there is room for those being loaded.

        Raises:
            OSError: What is dirty could not be written.
        """
        while len(self._tables) + len(self._loading) > self.capacity and self._tables:
            if not self._evict():
                await self._clean()
                if not self._evict():
                    return  # all in use again: rather exceed the limit than spin

    def _evict(self) -> bool:
        """Drop the first table that is clean and has not been used lately."""
        for _ in range(2 * len(self._tables)):
            offset, table = next(iter(self._tables.items()))
            del self._tables[offset]
            if not (table.dirty or table.writing or table.hot):
                return True
            table.hot = False
            self._tables[offset] = table
        return False
