"""query-block and query-blockstats: the disks, as the guest's devices and the user know them.

Source: QAPI, block-core.json; which members there are is as QEMU 7.2 has it.
"""

from typing import NamedTuple

from qmpfleece.block.backend import Backend
from qmpfleece.control.command import command
from qmpfleece.control.describe import Wire, device_info
from qmpfleece.control.devices.device import Device
from qmpfleece.control.system import System
from qmpfleece.qapi.nodes import BlockInfo


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
    """Return QAPI ``BlockInfo``: what query-block says of a disk."""
    device, node = disk.device, disk.backend.node
    info: Wire = {"device": disk.backend.name}
    if device is not None:
        info["qdev"] = device.name
    info |= {"type": "unknown", "removable": disk.removable, "locked": False}
    if node is not None:
        info["inserted"] = await device_info(node, flat=False, writethrough=disk.writethrough)
    if device is not None:
        if device.model.tray:
            info["tray_open"] = device.tray_open
        if device.model.has_status:
            info["io-status"] = "ok"
    return info


@command("query-block", result=list[BlockInfo])
async def query_block(system: System) -> list[Wire]:
    """List the disks."""
    return [await describe(disk) for disk in disks(system)]
