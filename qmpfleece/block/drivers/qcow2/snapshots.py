"""Internal snapshots: the list of them; ``snapshotting`` changes it.

What a snapshot refers to has refcounts above 1, so writes go elsewhere by themselves.
Source: qcow2 specification, "Snapshots".
"""

import struct
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from qmpfleece.base import utf8
from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import align_up
from qmpfleece.block.drivers.qcow2.layout import MAX_L1_SIZE, OFFSET_MASK, named
from qmpfleece.block.drivers.qcow2.tables import WORD64

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_FIXED: Final = struct.Struct(">QIHHIIQII")
_EXTRA: Final = struct.Struct(">QQq")
_MAX_SHORT_STATE: Final = (1 << 32) - 1
MAX_SNAPSHOTS: Final = 65536
_MAX_EXTRA: Final = 1024
_MAX_TABLE: Final = 16 * MAX_SNAPSHOTS * 64


class Snapshot(NamedTuple):
    """An entry of the snapshot table.

    Attributes:
        l1_offset: Where its L1 table lies.
        l1_size: Entries of that table.
        snapshot_id: The unique ID.
        name: The name.
        date_s: When it was taken, seconds since the epoch.
        date_ns: The rest of that time.
        vm_clock_ns: How long the guest had run.
        vm_state_size: Bytes of the guest's state.
        disk_size: Bytes of the disk.
        icount: Instructions the guest had run, -1 if unknown.
        unknown: What follows in the entry that is not known; kept as it is.
    """

    l1_offset: int
    l1_size: int
    snapshot_id: str
    name: str
    date_s: int
    date_ns: int
    vm_clock_ns: int
    vm_state_size: int
    disk_size: int
    icount: int = -1
    unknown: bytes = b""


async def read_snapshots(image: "Image") -> tuple[list[Snapshot], int]:
    """Return the snapshots of an image and the bytes of their table.

    Raises:
        QmpError: The table is damaged, or can't be read. QEMU's texts.
    """
    offset = start = image.header.snapshots_offset
    found: list[Snapshot] = []
    for number in range(image.header.snapshots):
        offset = align_up(offset, 8)
        head = await _read(image, offset, _FIXED.size)
        fields = _FIXED.unpack(head)
        l1_offset, l1_size, id_size, name_size, date_s, date_ns, clock, state, extra_size = fields
        if extra_size > _MAX_EXTRA:
            raise QmpError(f"Too much extra metadata in snapshot table entry {number}")
        rest = await _read(image, offset + _FIXED.size, extra_size + id_size + name_size)
        size, icount = image.header.size, -1
        if extra_size >= 8:
            state = struct.unpack_from(">Q", rest, 0)[0]
        if extra_size >= 16:
            size = struct.unpack_from(">Q", rest, 8)[0]
        if extra_size >= 24:
            icount = struct.unpack_from(">q", rest, 16)[0]
        text = rest[extra_size:]
        found.append(
            Snapshot(
                l1_offset,
                l1_size,
                utf8.unpack(named(text[:id_size])),
                utf8.unpack(named(text[id_size:])),
                date_s,
                date_ns,
                clock,
                state,
                size,
                icount,
                bytes(rest[_EXTRA.size : extra_size]),
            )
        )
        offset += _FIXED.size + len(rest)
        if offset - start > _MAX_TABLE:
            raise QmpError("Snapshot table is too big")
    return found, offset - start


def encode_snapshots(snapshots: list[Snapshot]) -> bytes:
    """Return the list as it is stored."""
    content = bytearray()
    for item in snapshots:
        content += bytes(-len(content) % 8)
        ident, name = (utf8.pack(text) for text in (item.snapshot_id, item.name))
        content += _FIXED.pack(
            item.l1_offset,
            item.l1_size,
            len(ident),
            len(name),
            item.date_s,
            item.date_ns,
            item.vm_clock_ns,
            min(item.vm_state_size, _MAX_SHORT_STATE),
            _EXTRA.size + len(item.unknown),
        )
        content += _EXTRA.pack(item.vm_state_size, item.disk_size, item.icount) + item.unknown
        content += ident + name
    return bytes(content)


async def _read(image: "Image", offset: int, length: int) -> bytearray:
    data = bytearray(length)
    try:
        await image.read(offset, memoryview(data))
    except OSError as error:
        raise QmpError(f"Failed to read snapshot table: {error.strerror}") from error
    return data


async def read_l1(image: "Image", snapshot: Snapshot) -> "array[int]":
    """Return the L1 table of a snapshot.

    Raises:
        QmpError: It is too large or misplaced.
        OSError: It can't be read.
    """
    size = snapshot.l1_size * 8
    if size > MAX_L1_SIZE:
        raise QmpError("Snapshot L1 table too large")
    if snapshot.l1_offset % image.geometry.cluster_size:
        raise QmpError("Snapshot L1 table offset invalid")
    raw = bytearray(size)
    await image.read(snapshot.l1_offset, memoryview(raw))
    return WORD64.decode(raw)


def tables_of(l1: "array[int]") -> list[int]:
    """Return the offsets of the L2 tables that an L1 table leads to."""
    return [word & OFFSET_MASK for word in l1 if word & OFFSET_MASK]
