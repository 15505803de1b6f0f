"""query-block and query-blockstats: the disks, as the guest's devices and the user know them.

Source: QAPI, block-core.json; which members there are is as QEMU 7.2 has it.
"""

from dataclasses import dataclass

from qmpfleece.block.backend import Backend
from qmpfleece.control.command import command
from qmpfleece.control.describe import device_info
from qmpfleece.control.devices.device import Device
from qmpfleece.control.system import System
from qmpfleece.qapi.nodes import BlockInfo


@dataclass(frozen=True, slots=True)
class Disk:
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


async def describe(disk: Disk) -> BlockInfo:
    """Return what query-block says of a disk."""
    device, node = disk.device, disk.backend.node
    info = BlockInfo(
        device=disk.backend.name,
        qdev=device.name if device is not None else None,
        type="unknown",
        removable=disk.removable,
        locked=False,
        tray_open=device.tray_open if device is not None and device.model.tray else None,
        io_status="ok" if device is not None and device.model.has_status else None,
    )
    if node is not None:
        info.inserted = await device_info(node, flat=False)
        info.inserted.cache.writeback = not disk.writethrough
    return info


@command("query-block")
async def query_block(system: System) -> list[BlockInfo]:
    """List the disks."""
    return [await describe(disk) for disk in disks(system)]
