"""Permissions of child edges: what a user needs and what it lets others do.

A node's users are its parent edges. Two users are compatible when each shares what the
other needs. What a node needs of its children follows from what is needed of it.

Source: QEMU's documentation of ``BlockPermission`` (QAPI) and of child roles.
"""

import enum
from functools import cache
from typing import Final


class Perm(enum.IntFlag):
    """QAPI ``BlockPermission``."""

    NONE = 0
    CONSISTENT_READ = 1
    WRITE = 2
    WRITE_UNCHANGED = 4
    RESIZE = 8
    ALL = 15


_NAMES: Final = (
    (Perm.CONSISTENT_READ, "consistent read"),
    (Perm.WRITE, "write"),
    (Perm.WRITE_UNCHANGED, "write unchanged"),
    (Perm.RESIZE, "resize"),
)


def perm_names(perm: Perm) -> str:
    """Return the permissions as QEMU lists them in messages."""
    return ", ".join(name for bit, name in _NAMES if perm & bit)


class Role(enum.IntFlag):
    """What a child is for. Source: QEMU, the BDRV_CHILD_* roles."""

    NONE = 0
    DATA = 1
    METADATA = 2
    FILTERED = 4
    COW = 8
    PRIMARY = 16
    IMAGE = DATA | METADATA | PRIMARY


@cache  # few can be asked for, but for every node below one that changes
def default_perms(role: Role, perm: Perm, shared: Perm, *, writable: bool) -> tuple[Perm, Perm]:
    """Return what a node needs of and shares on a child of ``role``.

    Args:
        role: The child's role.
        perm: What is needed of the node itself.
        shared: What the node's users share.
        writable: Whether the node was opened for writing.
    """
    if role & Role.FILTERED:
        return perm, shared
    if role & Role.COW:
        # Of a backing file only reading is needed. Where the users can live with changing
        # data, so can we.
        others = Perm.WRITE | Perm.RESIZE if shared & Perm.WRITE else Perm.NONE
        return perm & Perm.CONSISTENT_READ, others | Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
    if role & Role.METADATA:
        # A format driver may write metadata although nobody writes data, and could not
        # cope with somebody else doing so.
        perm |= Perm.CONSISTENT_READ
        if writable:
            perm |= Perm.WRITE | Perm.RESIZE
        return perm, shared & ~(Perm.WRITE | Perm.RESIZE)
    if perm & Perm.WRITE:
        perm |= Perm.RESIZE
    return perm, shared & ~Perm.RESIZE
