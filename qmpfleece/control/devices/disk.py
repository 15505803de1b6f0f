"""Giving a device its disk: the checks, in QEMU's order and words, and the permissions."""

from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.control.devices.device import Device
from qmpfleece.control.drives import Drives

_MAX_BLOCK: Final = 2 << 20
#: Properties that must be whole blocks.
_MULTIPLES: Final = ("discard_granularity", "min_io_size", "opt_io_size")
#: Properties of a disk's shape with their largest values; all or none of them are given.
_GEOMETRY: Final = (("cyls", 0xFFFF), ("heads", 0xFF), ("secs", 0xFF))


def find_drive(
    graph: Graph, drives: Drives, device: Device, name: str, held: list[Backend]
) -> Backend:
    """Return the backend that ``drive`` names: that of a -drive, or a new one on a node.

    Args:
        graph: Where the nodes are.
        drives: The named backends.
        device: Who is to have it.
        name: What the user said.
        held: The backends that devices have already.

    Raises:
        QmpError: There is nothing of that name, or the backend is in use.
    """
    backend = drives.get(name)
    if backend is None:
        node = graph.get(name)
        if node is None:
            owner = device.model.inner or device.model.name
            raise QmpError(f"Property '{owner}.drive' can't find value '{name}'")
        backend = Backend(graph, perm=Perm.NONE)
        backend.attach(node)
        return backend
    if backend in held:
        raise QmpError(f"Drive '{name}' is already in use by another device")
    return backend


def check_disk(device: Device) -> None:
    """Refuse a device whose disk is missing or does not fit its properties.

    Raises:
        QmpError: The first thing that is wrong.
    """
    backend = device.backend
    if backend is None:
        missing = "No drive specified" if device.model.bus == "IDE" else "drive property not set"
        raise QmpError(missing)
    has_medium = backend.node is not None and backend.node.has_medium
    if not has_medium and not device.model.removable:
        raise QmpError("Device needs media, but drive is empty")
    if device.model.inner:
        _check_queues(device)
    _check_block_sizes(device)
    if "cyls" in device.model.by_name:
        _check_geometry(device)


def check_block_size(device: Device, name: str) -> None:
    """Refuse a block size that no disk has.

    Raises:
        QmpError: It is out of range, or no power of two.
    """
    value = device.values[name]
    # One that is made of two has the property in the inner one, which has no id.
    owner = "" if device.model.inner else device.id or ""
    where = f"Property {owner}.{name} doesn't take value"
    if value and not SECTOR <= value <= _MAX_BLOCK:
        raise QmpError(f"{where} {value} (minimum: {SECTOR}, maximum: {_MAX_BLOCK})")
    if value & (value - 1):
        raise QmpError(f"{where} '{value}', it's not a power of 2")


def take_permissions(device: Device, node: Node | None) -> None:
    """Let the device's handle need and share what a guest's disk does.

    Args:
        device: The device.
        node: What is or will be its medium.

    Raises:
        QmpError: They conflict with those of other users.
    """
    backend, model = device.backend, device.model
    assert backend is not None
    perm = Perm.CONSISTENT_READ
    if model.writes and node is not None and (model.must_write or not node.read_only):
        perm |= Perm.WRITE
    shared = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
    if not model.removable:
        shared |= Perm.RESIZE
    if device.value("share-rw"):
        shared |= Perm.WRITE
    backend.set_perm(perm, shared)


def _check_queues(device: Device) -> None:
    if not device.value("num-queues"):
        raise QmpError("num-queues property must be larger than 0")
    size = device.value("queue-size")
    if size <= 2:
        raise QmpError(f"invalid queue-size property ({size}), must be > 2")
    if size > 1024 or size & (size - 1):
        raise QmpError(f"invalid queue-size property ({size}), must be a power of 2 (max 1024)")


def _check_block_sizes(device: Device) -> None:
    logical = device.value("logical_block_size") or SECTOR
    if logical > (device.value("physical_block_size") or SECTOR):
        raise QmpError("logical_block_size > physical_block_size not supported")
    for name in _MULTIPLES:
        value = device.values.get(name, 0)
        if value % logical:
            raise QmpError(f"{name} must be a multiple of logical_block_size")


def _check_geometry(device: Device) -> None:
    if not any(device.value(name) for name, _ in _GEOMETRY):
        return
    for name, most in _GEOMETRY:
        if not 1 <= device.value(name) <= most:
            raise QmpError(f"{name} must be between 1 and {most}")
