"""add-fd and what goes with it: descriptors that a client sends beside its commands.

Source: QAPI, misc.json; checks and texts as QEMU 7.2 has them.
"""

from qmpfleece.base import fdsets
from qmpfleece.base.errors import QmpError
from qmpfleece.control.command import command
from qmpfleece.control.system import RECEIVED, System
from qmpfleece.qapi.model import Int64, Model


class AddfdInfo(Model):
    """QAPI ``AddfdInfo``."""

    fdset_id: Int64
    fd: Int64


class FdsetFdInfo(Model):
    """QAPI ``FdsetFdInfo``."""

    fd: Int64
    opaque: str | None = None


class FdsetInfo(Model):
    """QAPI ``FdsetInfo``."""

    fdset_id: Int64
    fds: list[FdsetFdInfo]


def _take() -> int:
    """Return the descriptor that came with the command; the caller owns it.

    Raises:
        QmpError: None came.
    """
    received = RECEIVED.get()
    if not received:
        raise QmpError("No file descriptor supplied via SCM_RIGHTS")
    fd = received.pop(0)
    while received:
        fdsets.close(received.pop())
    return fd


@command("add-fd")
async def add_fd(
    system: System, fdset_id: Int64 | None = None, opaque: str | None = None
) -> AddfdInfo:
    """Put the descriptor that came with the command into a set."""
    fd = _take()
    if fdset_id is not None and fdset_id < 0:
        fdsets.close(fd)
        raise QmpError("Parameter 'fdset-id' expects a non-negative value")
    return AddfdInfo(fdset_id=system.fdsets.add(fd, fdset_id, opaque), fd=fd)


@command("remove-fd")
async def remove_fd(system: System, fdset_id: Int64, fd: Int64 | None = None) -> None:
    """Let go of a descriptor, or of all of a set."""
    system.fdsets.remove(fdset_id, fd)


@command("query-fdsets")
async def query_fdsets(system: System) -> list[FdsetInfo]:
    """List the sets."""
    return [
        FdsetInfo(
            fdset_id=number,
            fds=[FdsetFdInfo(fd=item.number, opaque=item.opaque) for item in fdset.members],
        )
        for number, fdset in system.fdsets.all()
    ]


@command("getfd")
async def getfd(system: System, fdname: str) -> None:
    """Keep the descriptor that came with the command under a name."""
    fd = _take()
    if fdname.startswith(tuple("0123456789")):
        fdsets.close(fd)
        raise QmpError("Parameter 'fdname' expects a name not starting with a digit")
    before = system.named_fds.pop(fdname, None)
    if before is not None:
        fdsets.close(before)
    system.named_fds[fdname] = fd


@command("closefd")
async def closefd(system: System, fdname: str) -> None:
    """Close a descriptor that has a name."""
    fd = system.named_fds.pop(fdname, None)
    if fd is None:
        raise QmpError(f"File descriptor named '{fdname}' not found")
    fdsets.close(fd)
