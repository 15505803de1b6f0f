"""The order in which QEMU visits and prints the members of an object.

QEMU keeps an object in a hash table of 512 buckets; members of one bucket come newest first.
Clients compare texts, so the order is part of the behaviour.
"""

from collections.abc import Iterable
from functools import lru_cache

_BUCKETS = 512
_U32 = 0xFFFFFFFF
#: After so many bytes a byte is shifted as far again.
_PERIOD = 24
#: What is longer, in characters, is not kept: clients choose the names.
_KEPT = 1024


def is_brief(keys: Iterable[str]) -> bool:
    """Tell whether what was found out about member names may be remembered."""
    return sum(map(len, keys)) <= _KEPT


def bucket(key: str) -> int:
    """Return the hash bucket of a member name."""
    raw = key.encode("utf-8", "surrogatepass")
    value = 0x238F13AF * len(raw)
    for start in range(min(_PERIOD, len(raw))):
        value += sum(raw[start::_PERIOD]) << (start * 5 % _PERIOD)
    return (1103515243 * (value & _U32) + 12345 & _U32) % _BUCKETS


def _order(keys: tuple[str, ...]) -> tuple[str, ...]:
    newest_first = keys[::-1]
    return tuple(sorted(newest_first, key=bucket))


_order_of_brief = lru_cache(maxsize=1024)(_order)


def ordered(members: Iterable[str]) -> tuple[str, ...]:
    """Return member names, given in the order of insertion, in the order that QEMU prints."""
    keys = tuple(members)
    return _order_of_brief(keys) if is_brief(keys) else _order(keys)
