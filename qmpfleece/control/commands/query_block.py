"""query-block and query-blockstats: the disks, as the guest's devices and the user know them.

Source: QAPI, block-core.json; which members there are is as QEMU 7.2 has it.
"""

from typing import Final, NamedTuple

from qmpfleece.block.backend import Backend
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.control.command import command
from qmpfleece.control.describe import Wire, device_info
from qmpfleece.control.devices.device import Device
from qmpfleece.control.system import System
from qmpfleece.qapi.io_limits import LIMITS
from qmpfleece.qapi.nodes import BlockInfo

_BEHIND_LIMITS: Final = ("cache", "write_threshold", "dirty-bitmaps")


class Disk(NamedTuple):
    """A backend that a user knows of: by its name, or by the device that has it."""

    backend: Backend
    device: Device | None

    @property
    def removable(self) -> bool:
        """Whether it takes media."""
        return self.device is None or self.device.model.removable

    @property
    def writethrough(self) -> bool:
        """Whether each write is stable before it is acknowledged."""
        return self.device is not None and self.device.value("write-cache") == "off"


def disks(system: System) -> list[Disk]:
    """Return all of them, the oldest first: those with a name, then those without."""
    devices = system.devices
    named = [Disk(backend, devices.holder(backend)) for backend in system.drives.all()]
    return named + [
        Disk(device.backend, device)
        for device in devices.all()
        if device.backend is not None and not device.backend.name
    ]


async def describe(disk: Disk) -> Wire:
    """Return QAPI ``BlockInfo``: what query-block says of a disk.

    Raises:
        QmpError: An image that shows through that of the disk was given up as corrupt.
    """
    device, node = disk.device, disk.backend.node
    info: Wire = {"device": disk.backend.name}
    if device is not None:
        info["qdev"] = device.name
    info |= {"type": "unknown", "removable": disk.removable, "locked": False}
    if node is not None and node.driver.has_medium:
        info["inserted"] = await device_info(node, flat=False, writethrough=disk.writethrough)
        if (group := disk.backend.throttle_group) is not None:
            _tell_limits(info["inserted"], group)
    if device is not None:
        if device.model.tray:
            info["tray_open"] = device.tray_open
        if device.model.has_status:
            info["io-status"] = "ok"
    return info


def _tell_limits(info: Wire, group: ThrottleGroup) -> None:
    """Say what I/O limits a disk has; bursts where there are some."""
    limits = group.limits
    named = list(zip(LIMITS, limits.each, strict=True))
    info |= {name: limit.rate for name, limit in named}
    # In the order of the schema, on which the order of printing depends.
    later: Wire = {name: info.pop(name) for name in _BEHIND_LIMITS if name in info}
    info |= {f"{name}_max": limit.burst for name, limit in named if limit.burst}
    info |= {f"{name}_max_length": limit.burst_s for name, limit in named if limit.burst}
    if limits.iops_size:
        info["iops_size"] = limits.iops_size
    info["group"] = group.name
    info |= later


@command("query-block", result=list[BlockInfo])
async def query_block(system: System) -> list[Wire]:
    """List the disks."""
    return [await describe(disk) for disk in disks(system)]
