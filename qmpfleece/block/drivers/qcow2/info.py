"""What queries tell about an image. Source: QAPI ``ImageInfoSpecificQCow2``, ``SnapshotInfo``."""

import errno
import os.path
from typing import TYPE_CHECKING, Any

from qmpfleece.base import utf8
from qmpfleece.base.errors import BlockError
from qmpfleece.base.files import c_string
from qmpfleece.block.drivers.qcow2 import compression, extensions
from qmpfleece.block.drivers.qcow2.backing import name_below
from qmpfleece.block.drivers.qcow2.bitmapdir import AUTO, IN_USE, Entry
from qmpfleece.block.drivers.qcow2.header import MAX_BACKING_NAME, Header
from qmpfleece.block.drivers.qcow2.layout import Autoclear, Compatible, Incompatible, named
from qmpfleece.block.drivers.qcow2.snapshots import Snapshot
from qmpfleece.block.node import Node

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_NS: int = 1_000_000_000


def format_specific(header: Header, bitmaps: list[Entry]) -> dict[str, Any]:
    """Return ``ImageInfoSpecific`` of an image, as it is on the wire."""
    data: dict[str, Any] = {"compat": "0.10" if header.version < 3 else "1.1"}
    if header.version >= 3:
        if header.data_file:
            data_file = header.extension(extensions.DATA_FILE)
            if data_file is not None:
                data["data-file"] = utf8.unpack(named(data_file))
            data["data-file-raw"] = bool(header.autoclear & Autoclear.DATA_FILE_RAW)
        data["extended-l2"] = header.extended_l2
        data["lazy-refcounts"] = bool(header.compatible & Compatible.LAZY_REFCOUNTS)
        data["corrupt"] = bool(header.incompatible & Incompatible.CORRUPT)
    data["refcount-bits"] = 1 << header.refcount_order
    if header.version >= 3 and bitmaps:
        data["bitmaps"] = [_bitmap(entry) for entry in bitmaps]
    data["compression-type"] = compression.NAMES[header.compression]
    return {"type": "qcow2", "data": data}


def _bitmap(entry: Entry) -> dict[str, Any]:
    flags = [name for bit, name in ((IN_USE, "in-use"), (AUTO, "auto")) if entry.flags & bit]
    return {"name": entry.name, "granularity": 1 << entry.granularity_bits, "flags": flags}


def snapshot_info(snapshot: Snapshot) -> dict[str, Any]:
    """Return ``SnapshotInfo`` of a snapshot, as it is on the wire."""
    info: dict[str, Any] = {
        "id": snapshot.snapshot_id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_s,
        "date-nsec": snapshot.date_ns,
        "vm-clock-sec": snapshot.vm_clock_ns // _NS,
        "vm-clock-nsec": snapshot.vm_clock_ns % _NS,
    }
    if snapshot.icount != -1:
        info["icount"] = snapshot.icount
    return info


def full_backing_name(header: Header, file: Node) -> str:
    """Return the backing file's name, from where the image lies if it is a relative one."""
    name = header.backing_name
    if not name or os.path.isabs(name) or ":" in name.split("/")[0]:
        return name
    return os.path.join(os.path.dirname(name_below(file)), name)


async def change_backing(image: "Image", name: str, backing_format: str) -> None:
    """Write other backing file names into the header; on failure it stays as it was.

    Raises:
        OSError: EINVAL: the name is too long, or the data file must be all of the disk; ENOSPC:
            it does not fit into the header.
    """
    header = image.header
    raw = bool(header.autoclear & Autoclear.DATA_FILE_RAW)
    if len(c_string(name)) > MAX_BACKING_NAME or (name and raw):
        raise BlockError(errno.EINVAL)
    told = header.extensions_with(extensions.BACKING_FORMAT, backing_format.encode())
    await image.header_writer.change(whole=True, backing_name=name, extensions=told)


def image_info(image: "Image", bitmaps: list[Entry]) -> dict[str, Any]:
    """Return members of ``ImageInfo`` by their Python names."""
    header = image.header
    found: dict[str, Any] = {
        "dirty_flag": bool(header.incompatible & Incompatible.DIRTY),
        "format_specific": format_specific(header, bitmaps),
    }
    if header.backing_name:
        found["backing_filename"] = header.backing_name
        found["full_backing_filename"] = full_backing_name(header, image.file.node)
        backing_format = header.extension(extensions.BACKING_FORMAT)
        if backing_format:
            found["backing_filename_format"] = named(backing_format).decode(errors="replace")
    if image.snapshots:
        found["snapshots"] = [snapshot_info(snapshot) for snapshot in image.snapshots]
    return found
