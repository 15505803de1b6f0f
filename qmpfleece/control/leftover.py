"""Which of several unexpected members QEMU tells.

QEMU's visitor puts the names of an object's members into a GLib hash table, takes out those that
are visited, and complains of the one that then comes first. So the choice depends on where names
lie in that table.

Source: observed on qemu-storage-daemon 7.2.
"""

from collections.abc import Collection, Iterable

from qmpfleece.base.ghash import HashTable
from qmpfleece.qapi.order import ordered


def first_unexpected(members: Iterable[str], expected: Collection[str]) -> str | None:
    """Return the member that QEMU complains of, None if all are expected.

    Args:
        members: The names in an object, in the order in which they came.
        expected: The names that may be there, in the order in which they are visited.
    """
    names = tuple(members)
    left = [name for name in names if name not in expected]
    if len(left) < 2:
        return left[0] if left else None
    table = HashTable()
    for name in ordered(names):
        table.insert(name)
    given = frozenset(names)
    for name in expected:
        if name in given:
            table.remove(name)
    return next(iter(table.names()), None)
