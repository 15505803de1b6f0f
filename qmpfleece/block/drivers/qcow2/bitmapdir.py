"""The directory of persistent bitmaps: what the image says about each of them.

Source: qcow2 specification, "Bitmaps"; QEMU 7.2 for limits and texts.
"""

import struct
from dataclasses import dataclass
from typing import Final

from qmpfleece.base import utf8
from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import MAX_NAME_SIZE
from qmpfleece.block.drivers.qcow2.extensions import BITMAPS_DATA, bitmaps_extension
from qmpfleece.block.drivers.qcow2.layout import Autoclear, named

_ENTRY: Final = struct.Struct(">QIIBBHI")
IN_USE: Final = 1
AUTO: Final = 2
_RESERVED_FLAGS: Final = ~(IN_USE | AUTO)
_DIRTY_TRACKING: Final = 1
MAX_BITMAPS: Final = 65535
#: Bytes that an entry has at most, so also of the whole directory.
MAX_DIRECTORY: Final = MAX_BITMAPS * 1024
MAX_TABLE: Final = 0x8000000
MAX_BYTES: Final = 0x20000000
MIN_GRANULARITY_BITS: Final = 9
MAX_GRANULARITY_BITS: Final = 31


@dataclass
class Entry:
    """A bitmap in the directory.

    Attributes:
        table_offset: Where its table lies.
        table_size: Entries of the table.
        flags: ``IN_USE`` and ``AUTO``.
        granularity_bits: Log2 of the granularity.
        name: Its name.
    """

    table_offset: int
    table_size: int
    flags: int
    granularity_bits: int
    name: str

    def encode(self) -> bytes:
        """Return the entry as it is stored."""
        name = utf8.pack(self.name)
        head = _ENTRY.pack(
            self.table_offset,
            self.table_size,
            self.flags,
            _DIRTY_TRACKING,
            self.granularity_bits,
            len(name),
            0,
        )
        return head + name + bytes(-(len(head) + len(name)) % 8)


def entry_size(name: str) -> int:
    """Return how many bytes a bitmap of that name takes in the directory."""
    return _ENTRY.size + len(utf8.pack(name)) + 7 & ~7


def parse(data: bytes, count: int, *, cluster_size: int, disk_size: int) -> list[Entry]:
    """Return the entries of a directory.

    Raises:
        QmpError: It is damaged. QEMU's texts.
    """
    found: list[Entry] = []
    offset = 0
    while offset < len(data):
        if offset + _ENTRY.size > len(data):
            raise QmpError("Broken bitmap directory")
        table, size, flags, kind, bits, name_size, extra = _ENTRY.unpack_from(data, offset)
        if len(found) >= count:
            raise QmpError("More bitmaps found than specified in header extension")
        length = _ENTRY.size + extra + name_size + 7 & ~7
        if offset + length > len(data):
            raise QmpError("Broken bitmap directory")
        if extra:
            raise QmpError("Bitmap extra data is not supported")
        start = offset + _ENTRY.size
        name = utf8.unpack(named(data[start : start + name_size]))
        stored = size * cluster_size
        if (
            not size
            or not table
            or table % cluster_size
            or size > MAX_TABLE
            or not MIN_GRANULARITY_BITS <= bits <= MAX_GRANULARITY_BITS
            or flags & _RESERVED_FLAGS
            or name_size > MAX_NAME_SIZE
            or kind != _DIRTY_TRACKING
            or stored > MAX_BYTES
            or (not flags & IN_USE and disk_size > stored * 8 << bits)
        ):
            raise QmpError(f"Bitmap '{name}' doesn't satisfy the constraints")
        found.append(Entry(table, size, flags, bits, name))
        offset += length
    if len(found) != count:
        raise QmpError("Less bitmaps found than specified in header extension")
    return found


def encode(entries: list[Entry]) -> bytes:
    """Return the directory as it is stored."""
    return b"".join(entry.encode() for entry in entries)


def constraint(name: str, granularity: int, disk_size: int, cluster_size: int) -> str | None:
    """Return why a bitmap can't be stored, None if it can."""
    bits = granularity.bit_length() - 1
    if bits > MAX_GRANULARITY_BITS:
        return f"Granularity exceeds maximum ({1 << MAX_GRANULARITY_BITS} bytes)"
    if bits < MIN_GRANULARITY_BITS:
        return f"Granularity is under minimum ({1 << MIN_GRANULARITY_BITS} bytes)"
    if len(utf8.pack(name)) > MAX_NAME_SIZE:
        return f"Name length exceeds maximum ({MAX_NAME_SIZE} characters)"
    stored = -(-(disk_size >> bits) // 8)
    if stored > MAX_BYTES or stored > MAX_TABLE * cluster_size:
        return "Too much space will be occupied by the bitmap. Use larger granularity"
    return None


def check_extension(autoclear: int, raw: bytes, cluster_size: int) -> bool:
    """Check a bitmaps extension; False when it is to be dropped as out of date.

    Raises:
        QmpError: It is damaged. QEMU's texts.
    """
    if len(raw) != BITMAPS_DATA.size:
        raise QmpError("bitmaps_ext: Invalid extension length")
    if not autoclear & Autoclear.BITMAPS:
        return False
    extension = bitmaps_extension(raw)
    if extension.bitmaps > MAX_BITMAPS:
        raise QmpError(
            f"bitmaps_ext: Image has {extension.bitmaps} bitmaps, exceeding the QEMU supported"
            f" maximum of {MAX_BITMAPS}"
        )
    if not extension.bitmaps:
        raise QmpError("found bitmaps extension with zero bitmaps")
    if extension.offset % cluster_size:
        raise QmpError("bitmaps_ext: invalid bitmap directory offset")
    if not extension.size:
        raise QmpError("Requested bitmap directory size is zero")
    if extension.size > MAX_DIRECTORY:
        raise QmpError(
            f"bitmaps_ext: bitmap directory size ({extension.size}) exceeds the maximum supported"
            f" size ({MAX_DIRECTORY})"
        )
    return True
