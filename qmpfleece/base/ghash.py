"""The hash table of GLib, by which QEMU decides in which order it tells many things.

Where names lie in it depends on their hashes, on what was in the way, and on how the table has
grown since.

Source: observed on QEMU 7.2 with GLib 2.74, whose ``GHashTable`` this follows.
"""

from typing import Final

_U32: Final = 0xFFFFFFFF
_MIN_SHIFT: Final = 3
#: The largest prime below each power of two; it decides where the search for a place begins.
_PRIMES: Final = (
    *(1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071),
    *(262139, 524287, 1048573, 2097143, 4194301, 8388593, 16777213, 33554393, 67108859),
    *(134217689, 268435399, 536870909, 1073741789, 2147483647),
)


class _Place:
    """A place that is or was taken; ``name`` is None once its name was removed."""

    __slots__ = ("hash", "name")

    def __init__(self, name: str, value: int) -> None:
        self.name: str | None = name
        self.hash: Final = value


class HashTable:
    """Names by their hashes; collisions go further in growing steps."""

    def __init__(self) -> None:
        self._shift = _MIN_SHIFT
        self._places: list[_Place | None] = [None] * (1 << _MIN_SHIFT)
        self._count = 0
        self._taken = 0

    def insert(self, name: str) -> None:
        """Add a name that is not there yet. Nothing has been removed so far."""
        place = _Place(name, _hash(name))
        self._places[self._search(name, place.hash)] = place
        self._count += 1
        self._taken += 1
        self._fit()

    def remove(self, name: str) -> None:
        """Take out a name that is there."""
        place = self._places[self._search(name, _hash(name))]
        assert place is not None
        place.name = None
        self._count -= 1
        self._fit()

    def names(self) -> list[str]:
        """Return the names in the order of their places."""
        names = [place.name for place in self._places if place is not None]
        return [name for name in names if name is not None]

    def _search(self, name: str, value: int) -> int:
        """Return where a name is, or where it is to be."""
        at, step = self._begin(value), 0
        while (place := self._places[at]) is not None and place.name != name:
            step += 1
            at = (at + step) % len(self._places)
        return at

    def _begin(self, value: int) -> int:
        return (value * 11 & _U32) % _PRIMES[self._shift]

    def _fit(self) -> None:
        size = len(self._places)
        too_large = size > self._count * 4 and self._shift > _MIN_SHIFT
        if too_large or size <= self._taken + self._taken // 16:
            self._resize()

    def _resize(self) -> None:
        """Go to the size that fits, in place: a name may drive out one that has not moved yet."""
        self._shift = max(int(self._count * 1.333).bit_length(), _MIN_SHIFT)
        size = 1 << self._shift
        old = [
            place if place is not None and place.name is not None else None
            for place in self._places
        ]
        old += [None] * (size - len(old))
        new: list[_Place | None] = [None] * size
        for at in range(len(old)):
            moving, old[at] = old[at], None
            while moving is not None:
                to, step = self._begin(moving.hash), 0
                while new[to] is not None:
                    step += 1
                    to = (to + step) % size
                new[to] = moving
                moving, old[to] = old[to], None
        self._places = new
        self._taken = self._count


def _hash(name: str) -> int:
    """Return ``g_str_hash`` of a name."""
    value = 5381
    for byte in name.encode("utf-8", "surrogatepass"):
        value = value * 33 + (byte - 256 if byte > 127 else byte) & _U32
    return value if value > 1 else 2
