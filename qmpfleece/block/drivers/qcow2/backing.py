"""The backing file: what the image names, or what the options say instead."""

import json
import os.path
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from pydantic import ValidationError

from qmpfleece.base.errors import QmpError
from qmpfleece.block.child import Child
from qmpfleece.block.driver import DRIVERS, Opener
from qmpfleece.block.drivers.qcow2 import extensions
from qmpfleece.block.drivers.qcow2.header import Header
from qmpfleece.block.drivers.qcow2.layout import named
from qmpfleece.block.drivers.qcow2.options import Qcow2Options
from qmpfleece.block.hostfile import probing
from qmpfleece.block.hostfile.names import file_definition, innermost_filename
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Role
from qmpfleece.qapi.blockdev import BlockdevOptions, validate_blockdev

_JSON: Final = "json:"
#: Images whose backing files are being opened, topmost first: a chain must not come back.
_CHAIN: Final[ContextVar[tuple[str, ...]]] = ContextVar("chain", default=())
#: Opening goes down by recursion, six calls an image; names that links make longer and longer
#: end here, too.
_MAX_DEPTH: Final = 500


async def open_backing(
    opener: Opener, options: Qcow2Options, header: Header, file: Node
) -> Child | None:
    """Open the backing file and attach it.

    Args:
        opener: What opens nodes.
        options: The image's options; ``backing`` may name another node, or none.
        header: What the image says.
        file: Where the image lies; relative names begin there.

    Raises:
        QmpError: It can't be opened.
    """
    ref: str | BlockdevOptions
    if "backing" in options.model_fields_set:
        if not options.backing:
            return None
        ref = options.backing
        if isinstance(ref, BlockdevOptions) and ref.read_only is None:
            ref = ref.model_copy(update={"read_only": True})
        return await _open_child(opener, ref)
    if not header.backing_name:
        return None
    above = _CHAIN.get()
    name = _place(file)
    if name in above:
        raise QmpError(f"Backing file '{header.backing_name}' creates an infinite loop.")
    if len(above) >= _MAX_DEPTH:
        raise QmpError(f"Backing file '{header.backing_name}' has more than {_MAX_DEPTH} overlays")
    chain = _CHAIN.set((*above, name))
    try:
        with _said_of_backing():
            ref = await _from_header(opener, header, file)
        return await _open_child(opener, ref)
    finally:
        _CHAIN.reset(chain)


async def _open_child(opener: Opener, ref: str | BlockdevOptions) -> Child:
    with _said_of_backing():
        await opener.open_node("backing", ref)
    return await opener.open_child("backing", ref, Role.COW)  # fails without these words


@contextmanager
def _said_of_backing() -> Iterator[None]:
    try:
        yield
    except QmpError as error:
        raise QmpError(f"Could not open backing file: {error.desc}", error.error_class) from error


async def _from_header(opener: Opener, header: Header, file: Node) -> BlockdevOptions:
    name = header.backing_name
    raw_format = header.extension(extensions.BACKING_FORMAT)
    image_format = named(raw_format).decode(errors="replace") if raw_format else ""
    if image_format:
        _check_driver(image_format)
    if name.startswith(_JSON):
        return _validate(_from_json(name, image_format))
    below = file_definition(name)
    if below["driver"] == "file" and not os.path.isabs(below["filename"]):
        if not (base := name_below(file)):
            raise QmpError(f"Cannot use relative backing file names for '{file.name}'")
        below["filename"] = os.path.join(os.path.dirname(base), below["filename"])
    if not image_format:
        path = innermost_filename(below)
        image_format = await opener.workers.queue(limit=1).submit(
            lambda: probing.probe(opener.fdsets, path, path, reading=True)
        )
        _check_driver(image_format)
    return _validate({"driver": image_format, "file": below, "read-only": True})


def _check_driver(name: str) -> None:
    if name not in DRIVERS:
        raise QmpError(f"Unknown driver '{name}'")


def name_below(node: Node) -> str:
    """Return the name of the file that a node leads to, empty if to none.

    Relative names in an image begin where that file is, whatever lies between the two.
    """
    while (child := node.primary_child) is not None:
        node = child.node
    return node.exact_filename


def _place(file: Node) -> str:
    """Return where an image lies, so that it is known again."""
    name = name_below(file)
    return os.path.abspath(name) if name else f"#{file.name}"


def _from_json(name: str, image_format: str) -> dict[str, Any]:
    try:
        given = json.loads(name.removeprefix(_JSON))
    except ValueError as error:
        raise QmpError("Could not parse the JSON options") from error
    if not isinstance(given, dict):
        raise QmpError("Invalid JSON object given")
    tree: dict[str, Any] = {}
    for key, value in given.items():
        *path, last = key.split(".")
        into = tree
        for step in path:
            into = into.setdefault(step, {})
            if not isinstance(into, dict):
                raise QmpError(f"Cannot flatten JSON member '{key}'")
        into[last] = value
    _name_drivers(tree)
    if image_format:
        tree.setdefault("driver", image_format)
    tree.setdefault("read-only", True)
    return tree


def _name_drivers(tree: dict[str, Any]) -> None:
    """Let a nested definition without a driver be what its file name means."""
    for key, below in tree.items():
        if isinstance(below, dict):
            _name_drivers(below)
            if "driver" not in below and isinstance(name := below.get("filename"), str):
                tree[key] = below | file_definition(name)


def _validate(tree: dict[str, Any]) -> BlockdevOptions:
    try:
        return validate_blockdev(tree)
    except ValidationError as error:
        raise QmpError(str(error.errors(include_url=False)[0]["msg"])) from error
