"""Block nodes in the words of query-named-block-nodes.

A node without a plain file name is described by the options that decide what data it shows,
as QEMU does: ``json:{"driver": "null-co", "size": 1048576}``.
"""

from typing import Any, Final

from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.node import Node
from qmpfleece.qapi.encode import encode
from qmpfleece.qapi.nodes import BlockdevCacheInfo, BlockDeviceInfo, BlockDirtyInfo, ImageInfo
from qmpfleece.qapi.order import ordered

#: Drivers that know about their image themselves (QEMU: those that implement get_info).
_INFORMED: Final = frozenset({"file", "host_device", "qcow2"})
#: Drivers that take over the name of their child although they are no filters.
_NAMED_AS_CHILD: Final = frozenset({"snapshot-access"})

#: Options that a plain file name tells.
_SAID_IN_FILENAME: Final = frozenset({"filename", "config"})


def filename(node: Node) -> str:
    """Return what QEMU calls the file name of a node. Source: QAPI ``BlockDeviceInfo.file``."""
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
    for name, child in node.children.items():
        # A plain name tells which backing file is below.
        if name != "backing" or not node.exact_filename:
            options[name] = full_options(child.node)
    if "backing" in node.given.model_fields_set and "backing" not in node.children:
        options["backing"] = None
    return options


def filtered_or_backing(node: Node) -> Node | None:
    """Return the node whose data shows through ``node``: a filter's child, a backing file."""
    child = node.driver.filtered_child or node.children.get("backing")
    return None if child is None else child.node


def is_informed(node: Node) -> bool:
    """Tell whether a node can say how it is laid out."""
    driver = node.driver
    below = driver.filtered_child or node.children.get("file")
    if below is not None and (driver.is_filter or driver.driver_name == "raw"):
        return is_informed(below.node)
    return driver.driver_name in _INFORMED


async def image_info(node: Node, *, flat: bool) -> ImageInfo:
    """Describe the image that a node shows; not ``flat`` with those that show through."""
    driver = node.driver
    info = ImageInfo(
        filename=filename(node),
        format=driver.driver_name,
        dirty_flag=False if is_informed(node) else None,
        virtual_size=node.length,
        cluster_size=driver.cluster_size or None,
    )
    below = filtered_or_backing(node)
    if known := driver.image_info():
        info = info.model_copy(update=known)
    # Last, as it waits: the node may be gone afterwards.
    info.actual_size = await driver.allocated_size()
    if below is not None and not flat:
        info.backing_image = await image_info(below, flat=False)
    return info


def _bitmap_info(bitmap: DirtyBitmap) -> BlockDirtyInfo:
    return BlockDirtyInfo(
        name=bitmap.name,
        count=bitmap.count,
        granularity=bitmap.granularity,
        recording=bitmap.recording,
        busy=bitmap.busy,
        persistent=bitmap.persistent,
        inconsistent=True if bitmap.inconsistent else None,
    )


def _depth(node: Node) -> int:
    below = filtered_or_backing(node)
    return 0 if below is None else 1 + _depth(below)


async def device_info(node: Node, *, flat: bool) -> BlockDeviceInfo:
    """Describe a node."""
    options = node.options
    backing = node.children.get("backing")
    return BlockDeviceInfo(
        file=filename(node),
        node_name=node.name,
        ro=node.read_only,
        drv=node.driver.driver_name,
        backing_file=None if backing is None else filename(backing.node),
        backing_file_depth=0 if flat else _depth(node),
        encrypted=False,
        detect_zeroes=options.detect_zeroes,
        bps=0,
        bps_rd=0,
        bps_wr=0,
        iops=0,
        iops_rd=0,
        iops_wr=0,
        cache=BlockdevCacheInfo(
            writeback=True, direct=options.cache_direct, no_flush=options.cache_no_flush
        ),
        write_threshold=0,
        dirty_bitmaps=[_bitmap_info(bitmap) for bitmap in node.bitmaps] or None,
        image=await image_info(node, flat=flat),
    )
