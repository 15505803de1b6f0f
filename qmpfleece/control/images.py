"""Images by file name and format, as the older commands say it: made, probed, opened.

Source: QEMU's ``bdrv_img_create`` and ``bdrv_open``.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from qmpfleece.base.errors import QmpError
from qmpfleece.block.creating import CREATE_MODELS
from qmpfleece.block.driver import DRIVERS
from qmpfleece.block.graph import Graph
from qmpfleece.block.hostfile import probing
from qmpfleece.block.hostfile.names import file_definition, innermost_filename
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.control import describe
from qmpfleece.control.monitor.output import print_out
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS, BlockdevOptions, validate_blockdev

#: Formats in which an image can be made from nothing but a size and a backing file.
_CREATABLE: Final = ("file", "raw", "qcow2")
_TAKEN_FOR_RAW: Final = """\
WARNING: Image format was not specified for '{}' and probing guessed raw.
         Automatically detecting the format is dangerous for raw images, \
write operations on block 0 will be restricted.
         Specify the 'raw' format explicitly to remove the restrictions.
"""


async def create_image(
    graph: Graph,
    filename: str,
    image_format: str,
    size: int,
    backing: tuple[str, str] | None = None,
) -> None:
    """Make an image with the format's default options.

    Args:
        graph: Where nodes live while the image is made.
        filename: What the user calls it.
        image_format: The name of its driver.
        size: Bytes of the disk.
        backing: File name and format of the backing file, None for none.

    Raises:
        QmpError: It can't be made.
        OSError: The same.
    """
    if image_format not in DRIVERS:
        raise QmpError(f"Unknown file format '{image_format}'")
    definition = file_definition(filename)
    if image_format not in _CREATABLE:
        raise QmpError(f"Format driver '{image_format}' does not support image creation")
    if definition["driver"] != "file":
        raise QmpError(f"Protocol driver '{definition['driver']}' does not support image creation")
    path = definition["filename"]
    if backing is not None and image_format != "qcow2":
        raise QmpError(f"Backing file not supported for file format '{image_format}'")
    text = _announcement(filename, image_format, size, backing)
    await print_out(graph.workers, f"{text}\n")  # before the reply, as with QEMU
    if image_format != "qcow2":
        await _create(graph, driver="file", filename=path, size=size)
        return
    await _create(graph, driver="file", filename=path, size=0)
    file = validate_blockdev({"driver": "file", "filename": path})
    more = {"backing-file": backing[0], "backing-fmt": backing[1]} if backing else {}
    await _create(graph, driver="qcow2", file=file, size=size, **more)


async def _create(graph: Graph, **options: Any) -> None:
    await CREATE_MODELS[options["driver"]].model_validate(options).create(graph)


def _announcement(
    filename: str, image_format: str, size: int, backing: tuple[str, str] | None
) -> str:
    text = f"Formatting '{filename}', fmt={image_format}"
    if image_format != "qcow2":
        return f"{text} size={size}"
    text += f" cluster_size=65536 extended_l2=off compression_type=zlib size={size}"
    if backing is not None:
        name = backing[0].replace(",", ",,")
        text += f" backing_file={name} backing_fmt={backing[1]}"
    return f"{text} lazy_refcounts=off refcount_bits=16"


async def probe(graph: Graph, filename: str, *, reading: bool = False) -> str:
    """Return the format that an image's first bytes tell.

    Args:
        graph: Where the threads are.
        filename: What the user calls it.
        reading: It may turn out to be for reading only; a folder is found out later then.

    Raises:
        QmpError: It can't be opened.
    """
    path = innermost_filename(file_definition(filename))
    return await graph.workers.queue(limit=1).submit(
        lambda: probing.probe(graph.fdsets, path, filename, reading=reading)
    )


async def open_probed(graph: Graph, options: BlockdevOptions) -> Node:
    """Open an image whose format nobody has said; warn if it was taken for raw.

    Raises:
        QmpError: It can't be opened.
    """
    node = await graph.open(options, probed=True)
    if node.driver.driver_name == "raw" and not node.read_only:
        sys.stderr.write(_TAKEN_FOR_RAW.format(describe.filename(node)))
        sys.stderr.flush()
    return node


async def open_image(
    graph: Graph,
    filename: str,
    image_format: str,
    *,
    like: NodeOptions | None,
    options: Mapping[str, Any],
    probed: bool = False,
) -> Node:
    """Open an image without a name, with some options of another node.

    The caller attaches it to something, or releases it.

    Args:
        graph: Where.
        filename: What the user calls it.
        image_format: The name of its driver.
        like: What it takes the cache mode from, and how its file is read, and whether discards
            are passed on; None: the defaults.
        options: More members of the definition.
        probed: Nobody has said the format.

    Raises:
        QmpError: It can't be opened.
    """
    if image_format not in DRIVERS:
        raise QmpError(f"Unknown driver '{image_format}'")
    given: dict[str, Any] = {"driver": image_format}
    if like is not None:
        given["cache"] = {"direct": like.cache_direct, "no-flush": like.cache_no_flush}
        if like.unmap:
            given["discard"] = "unmap"
    given |= options
    definition = file_definition(filename)
    if like is not None and like.aio is not None and definition["driver"] == "file":
        definition["aio"] = like.aio
    members = BLOCKDEV_MODELS[image_format].model_fields
    if image_format == definition["driver"]:
        given |= definition
    elif "filename" in members:
        given["filename"] = filename
    elif "image" in members:
        given["image"] = definition
    elif DRIVERS[image_format].is_protocol:
        raise QmpError(f"The only allowed filename for this driver is '{image_format}://'")
    else:
        given["file"] = definition
    try:
        options_of_node = validate_blockdev(given)
    except ValidationError as error:
        raise QmpError(str(error.errors(include_url=False)[0]["msg"])) from error
    opens = open_probed if probed else Graph.open
    node = await opens(graph, options_of_node)
    if like is not None:
        node.options.aio = like.aio
    return node
