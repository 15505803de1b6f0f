"""Media of drives that take some: trays, eject, insert.

Source: QAPI, block.json; checks and texts as QEMU 7.2 has them.
"""

from typing import Any, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.node import Node
from qmpfleece.control import images
from qmpfleece.control.command import command
from qmpfleece.control.commands.query_block import Disk
from qmpfleece.control.devices.disk import take_permissions
from qmpfleece.control.devices.manager import not_found
from qmpfleece.control.system import System
from qmpfleece.qapi.events import Event


class DeviceTrayMoved(Event, name="DEVICE_TRAY_MOVED"):
    """A tray was opened or closed."""

    device: str
    id: str
    tray_open: bool


def find_disk(system: System, device: str | None, ident: str | None) -> Disk:
    """Return the disk of a drive's name, or of a device's id or path.

    Raises:
        QmpError: There is none, or not exactly one of them was given.
    """
    if (device is None) == (ident is None):
        raise QmpError("Need exactly one of 'device' and 'id'")
    if device is not None:
        drive = system.drives.get(device)
        if drive is None:
            raise not_found(device)
        return Disk(drive, system.devices.holder(drive))
    assert ident is not None
    holder = system.devices.find(ident)
    if holder is None:
        raise not_found(ident)
    outside = holder.model.inner and not ident.endswith("/virtio-backend")
    if holder.backend is None or outside:
        raise QmpError("Device does not have a block device backend")
    return Disk(holder.backend, holder)


def _removable(system: System, device: str | None, ident: str | None) -> Disk:
    """Return the same; it takes media.

    Raises:
        QmpError: It does not.
    """
    disk = find_disk(system, device, ident)
    if not disk.removable:
        raise QmpError(f"Device '{device or ident}' is not removable")
    return disk


def _move_tray(system: System, disk: Disk, *, to_open: bool) -> None:
    """Open or close the tray, if there is one and it is not so already."""
    device = disk.device
    if device is None or not device.model.tray or device.tray_open == to_open:
        return
    device.tray_open = to_open
    moved = DeviceTrayMoved(device=disk.backend.name, id=device.name, tray_open=to_open)
    system.bus.emit(moved)


def _closed(disk: Disk) -> bool:
    """Tell whether a tray keeps the medium."""
    return disk.device is not None and disk.device.model.tray and not disk.device.tray_open


async def _remove(disk: Disk, called: str | None) -> None:
    if _closed(disk):
        raise QmpError(f"Tray of device '{called}' is not open")
    if disk.backend.node is not None:
        disk.backend.node.check_free()
    await disk.backend.detach()


def _insert(disk: Disk, node: Node) -> None:
    """Put a medium in; without a tray it decides what the device may do.

    Raises:
        QmpError: Permissions conflict.
    """
    if disk.device is not None and not disk.device.model.tray:
        take_permissions(disk.device, node)
    disk.backend.attach(node)


@command("blockdev-open-tray", machine=True)
async def blockdev_open_tray(
    system: System,
    device: str | None = None,
    id: str | None = None,  # noqa: A002 - the member's name
    force: bool | None = None,  # noqa: FBT001 - members come by name
) -> None:
    """Open a tray; no guest can have locked it, so ``force`` makes no difference."""
    del force
    _move_tray(system, _removable(system, device, id), to_open=True)


@command("blockdev-close-tray", machine=True)
async def blockdev_close_tray(
    system: System,
    device: str | None = None,
    id: str | None = None,  # noqa: A002 - the member's name
) -> None:
    """Close a tray."""
    _move_tray(system, _removable(system, device, id), to_open=False)


@command("blockdev-remove-medium", machine=True)
async def blockdev_remove_medium(system: System, id: str) -> None:  # noqa: A002 - its name
    """Take the medium out of an open tray."""
    disk = _removable(system, None, id)
    await _remove(disk, id)
    await system.exports.delete_of_medium(disk.backend)


@command("blockdev-insert-medium", machine=True)
async def blockdev_insert_medium(system: System, id: str, node_name: str) -> None:  # noqa: A002 - its name
    """Put a node that no disk has into an open tray."""
    disk = find_disk(system, None, id)
    node = system.graph.get(node_name)
    if node is None:
        raise QmpError(f"Node '{node_name}' not found")
    if any(isinstance(edge.parent, Backend) for edge in node.parents):
        raise QmpError(f"Node '{node_name}' is already in use")
    if not disk.removable:
        raise QmpError("Device is not removable")
    if _closed(disk):
        raise QmpError("Tray of the device is not open")
    if disk.backend.node is not None:
        raise QmpError("There already is a medium in the device")
    _insert(disk, node)


@command("blockdev-change-medium", machine=True)
async def blockdev_change_medium(
    system: System,
    filename: str,
    device: str | None = None,
    id: str | None = None,  # noqa: A002 - the member's name
    format: str | None = None,  # noqa: A002 - the member's name
    force: bool | None = None,  # noqa: FBT001 - members come by name
    read_only_mode: Literal["retain", "read-only", "read-write"] | None = None,
) -> None:
    """Open an image, and put it in place of the medium that is in the tray."""
    disk = find_disk(system, device, id)
    old = disk.backend.node.options if disk.backend.node is not None else disk.backend.last
    options: dict[str, Any] = {"read-only": read_only_mode == "read-only"}
    if read_only_mode in {None, "retain"}:
        options["read-only"] = old is None or old.read_only
    if old is not None and old.detect_zeroes != "off":
        options["detect-zeroes"] = "on"  # Source: observed, also for "unmap"
    if not filename:
        raise QmpError("The 'file' block driver requires a file name")
    graph = system.graph
    node = await images.open_image(
        graph,
        filename,
        format or await images.probe(graph, filename),
        like=old,
        options=options,
        probed=format is None,
    )
    try:
        await blockdev_open_tray(system, device, id, force)
        await _remove(_removable(system, device, id), device or id)
        try:
            _insert(disk, node)
            await blockdev_close_tray(system, device, id)
        finally:
            await system.exports.delete_of_medium(disk.backend)
    finally:
        await graph.release(node)


@command("eject", machine=True)
async def eject(
    system: System,
    device: str | None = None,
    id: str | None = None,  # noqa: A002 - the member's name
    force: bool | None = None,  # noqa: FBT001 - members come by name
) -> None:
    """Open the tray and take the medium out."""
    del force
    disk = _removable(system, device, id)
    _move_tray(system, disk, to_open=True)
    await _remove(disk, device or id)
    await system.exports.delete_of_medium(disk.backend)
