"""block_set_io_throttle: I/O limits of a disk, alone or in a group with others.

Source: QAPI ``BlockIOThrottle``; checks and texts as QEMU 7.2 has them.
"""

import asyncio
from functools import partial
from typing import Annotated

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.block.throttling import KINDS, Limits
from qmpfleece.control.command import Boxed, command
from qmpfleece.control.commands.media import find_disk
from qmpfleece.control.system import System
from qmpfleece.qapi.io_limits import LIMITS, IoBursts, IoRates
from qmpfleece.qapi.model import Model


class _Disk(Model):
    """The members of ``BlockIOThrottle`` before the rates."""

    device: str | None = None
    id: str | None = None


class BlockIOThrottle(IoBursts, IoRates, _Disk):
    """QAPI ``BlockIOThrottle``; the members of the last base come first."""

    group: str | None = None

    def limits(self) -> Limits:
        """Return what they come to.

        Raises:
            QmpError: They make no sense.
        """
        values = {}
        for kind, name in zip(KINDS, LIMITS, strict=True):
            for suffix, wire in (("", ""), ("_max", "-max"), ("_max_length", "-max-length")):
                value = getattr(self, name + suffix)
                if value is not None:
                    values[kind + wire] = value
        if self.iops_size is not None:
            values["iops-size"] = self.iops_size
        limits = Limits().changed(values)
        limits.check()
        return limits


@command("block_set_io_throttle", machine=True)
async def block_set_io_throttle(
    system: System, options: Annotated[BlockIOThrottle, Boxed]
) -> None:
    """Limit the I/O of a disk, or no longer. All in a group have the limits set last."""
    backend = find_disk(system, options.device, options.id).backend
    if backend.node is None:
        raise QmpError("Device has no medium")
    limits = options.limits()
    if not limits.any:
        move(system, backend, None)
        return
    name = options.group
    if name is None and backend.throttle_group is None:
        name = options.device or options.id
    if name is not None:
        move(system, backend, name)
    assert backend.throttle_group is not None
    backend.throttle_group.configure(limits)


def move(system: System, backend: Backend, name: str | None) -> None:
    """Put a disk into the group of that name, which is made if there is none, or into none.

    A group that commands have made goes with its last member.
    """
    groups, old = system.graph.throttle_groups, backend.throttle_group
    if old is not None and old.name == name:
        return
    if name is not None and name not in groups:
        loop = asyncio.get_running_loop()
        groups[name] = ThrottleGroup(name, Limits(), loop, partial(_forget, groups))
    backend.join(groups[name] if name is not None else None)


def _forget(groups: dict[str, ThrottleGroup], group: ThrottleGroup) -> None:
    """Drop a group that is empty, unless its name is another's by now."""
    if groups.get(group.name) is group:
        del groups[group.name]
