"""Block nodes in the words of query-named-block-nodes.

A node without a plain file name is described by the options that decide what data it shows,
as QEMU does: ``json:{"driver": "null-co", "size": 1048576}``.
"""

from typing import Any, Final, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.node import Node
from qmpfleece.qapi.encode import Printed, encode
from qmpfleece.qapi.io_limits import LIMITS
from qmpfleece.qapi.order import ordered

#: An object as it is on the wire. Absent members are left out, the others come in schema order,
#: on which QEMU's order depends. Not models: a client may ask hundreds of times a second.
Wire: TypeAlias = dict[str, Any]

#: Drivers that know about their image themselves (QEMU: those that implement get_info).
_INFORMED: Final = frozenset({"file", "host_device", "qcow2"})
#: Drivers that take over the name of their child although they are no filters.
_NAMED_AS_CHILD: Final = frozenset({"snapshot-access"})

#: What only drivers know of an image: its name in ``BlockDriver.image_info`` and on the wire.
_KNOWN_BY_DRIVERS: Final = tuple(
    (name, name.replace("_", "-"))
    for name in (
        "encrypted",
        "compressed",
        "backing_filename",
        "full_backing_filename",
        "backing_filename_format",
        "snapshots",
    )
)
#: Nothing throttles a node.
_UNTHROTTLED: Final = dict.fromkeys(LIMITS, 0)
#: Options that a plain file name tells.
_SAID_IN_FILENAME: Final = frozenset({"filename", "config"})


def filename(node: Node) -> str:
    """Return what QEMU calls the file name of a node. Source: QAPI ``BlockDeviceInfo.file``."""
    if node.known_filename is None:
        node.known_filename = _filename(node)
    return node.known_filename


def _filename(node: Node) -> str:
    driver = node.driver
    below = node.children.get("file")
    shows_child = driver.is_filter or driver.driver_name in _NAMED_AS_CHILD
    if below is not None and shows_child and not _strong_options(node):
        return filename(below.node)
    exact = node.exact_filename
    if exact and (driver.is_protocol or (below is not None and below.node.driver.is_protocol)):
        decided = set(_strong_options(node)) - _SAID_IN_FILENAME
        if not decided:
            return exact
    return "json:" + encode(full_options(node)).decode("ascii")


def _strong_options(node: Node) -> dict[str, Any]:
    # Not to_wire(): that would print the definitions of all nodes below, too.
    fields = {name.replace("-", "_") for name in node.driver.strong_options}
    found = node.given.given(fields)
    found |= {name: text for name, text in node.said.items() if name in found}
    for name in [name for name, value in found.items() if isinstance(value, list)]:
        for index, item in enumerate(found.pop(name)):
            # Each copy of an object turns members of one bucket round; this is QEMU's last.
            for key in reversed(ordered(item)):
                found[f"{name}.{index}.{key}"] = item[key]
    return found


def full_options(node: Node) -> dict[str, Any]:
    """Return the options that would open a node showing the same data."""
    options = {"driver": node.driver.driver_name} | _strong_options(node)
    chosen = node.driver.overrides_backing
    for name, child in node.children.items():
        if name != "backing" or chosen:
            options[name] = full_options(child.node)
    if chosen:
        options.setdefault("backing", None)
    return options


def filtered_or_backing(node: Node) -> Node | None:
    """Return the node whose data shows through ``node``: a filter's child, a backing file."""
    child = node.driver.filtered_child or node.children.get("backing")
    return None if child is None else child.node


def is_informed(node: Node) -> bool:
    """Tell whether a node can say how it is laid out."""
    return _laid_out_by(node).driver.driver_name in _INFORMED


def _laid_out_by(node: Node) -> Node:
    """Return the node that a node asks how it is laid out: itself, or one below it."""
    driver = node.driver
    below = driver.filtered_child or node.children.get("file")
    if below is not None and (driver.is_filter or driver.driver_name == "raw"):
        return _laid_out_by(below.node)
    return node


async def image_info(node: Node, *, flat: bool) -> Wire:
    """Return QAPI ``ImageInfo``: the image that a node shows.

    Args:
        node: The node.
        flat: Without those that show through.

    Raises:
        QmpError: The image was given up as corrupt.
    """
    driver = node.driver
    if not driver.has_medium:
        raise QmpError(f"Can't get image size '{filename(node)}': No medium found")
    info: Wire = {"filename": filename(node), "format": driver.driver_name}
    known = driver.image_info()
    layout = _laid_out_by(node).driver
    is_dirty = layout.image_info().get("dirty_flag", False)
    length, cluster_size = node.length, driver.cluster_size
    below = filtered_or_backing(node)
    # Last, as it waits: the node may be gone afterwards.
    size = await driver.allocated_size()
    if layout.driver_name in _INFORMED:
        info["dirty-flag"] = is_dirty
    if size is not None:
        info["actual-size"] = size
    info["virtual-size"] = length
    if cluster_size:
        info["cluster-size"] = cluster_size
    if known:
        info |= {wire: known[name] for name, wire in _KNOWN_BY_DRIVERS if name in known}
    if below is not None and not flat:
        info["backing-image"] = await image_info(below, flat=False)
    if "format_specific" in known:
        info["format-specific"] = known["format_specific"]
    return info


def _bitmap_info(bitmap: DirtyBitmap) -> Wire:
    info: Wire = {} if bitmap.name is None else {"name": bitmap.name}
    info |= {
        "count": bitmap.count,
        "granularity": bitmap.granularity,
        "recording": bitmap.recording,
        "busy": bitmap.busy,
        "persistent": bitmap.persistent,
    }
    if bitmap.inconsistent:
        info["inconsistent"] = True
    return info


def _depth(node: Node) -> int:
    below = filtered_or_backing(node)
    return 0 if below is None else 1 + _depth(below)


async def device_info(node: Node, *, flat: bool, writethrough: bool = False) -> Wire:
    """Return QAPI ``BlockDeviceInfo``: a node.

    Args:
        node: The node.
        flat: Without the images that show through.
        writethrough: Whether its user has each write made stable at once.

    Raises:
        QmpError: Its image, or one that shows through, was given up as corrupt.
    """
    if not node.driver.has_medium:
        raise QmpError(f"Block device {node.name} is ejected")
    options = node.options
    backing = node.children.get("backing")
    info: Wire = {
        "file": filename(node),
        "node-name": node.name,
        "ro": node.read_only,
        "drv": node.driver.driver_name,
    }
    if backing is not None:
        info["backing_file"] = filename(backing.node)
    info["backing_file_depth"] = 0 if flat else _depth(node)
    info["encrypted"] = False
    info["detect_zeroes"] = options.detect_zeroes
    info |= _UNTHROTTLED
    cache = {
        "writeback": not writethrough,
        "direct": options.cache_direct,
        "no-flush": options.cache_no_flush,
    }
    bitmaps = [_bitmap_info(bitmap) for bitmap in node.bitmaps]
    info["image"] = await image_info(node, flat=flat)
    info["cache"] = cache
    threshold = node.write_threshold
    info["write_threshold"] = threshold if threshold < 1 << 63 else threshold - (1 << 64)
    if bitmaps:
        info["dirty-bitmaps"] = bitmaps
    return info


async def told(node: Node, *, flat: bool) -> Printed:
    """Return ``device_info``, ready to be sent: clients ask often, and little changes.

    Raises:
        QmpError: The same.
    """
    info = await device_info(node, flat=flat)
    known = node.told
    if isinstance(known, Printed) and known == info:
        return known
    node.told = made = Printed(info)
    return made
