"""qemu-io's ``reopen``: some options of an open node change, the others stay.

Source: QEMU 7.2, observed.
"""

import re
from typing import Any, Final

from pydantic import ValidationError

from qmpfleece.base.errors import QmpError
from qmpfleece.block import reopen
from qmpfleece.block.drain import drained
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.control.option_text import value_of
from qmpfleece.control.qemu_io.command import Call, IoCommand, RefusedError, register
from qmpfleece.control.shape import Alternate, Shape, Struct, struct_of
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS

#: What the cache modes mean for a node; whether writes go through is its users' affair.
_CACHE_MODES: Final = {
    "none": (True, False),
    "off": (True, False),
    "directsync": (True, False),
    "writeback": (False, False),
    "writethrough": (False, False),
    "unsafe": (False, True),
}
_OPTION: Final = re.compile(r"([^=,]*)(?:=((?:[^,]|,,)*))?(?:,|$)", re.DOTALL)


async def _reopen(call: Call) -> str:
    backend = call.backend
    node = backend.node
    if node is None:  # QEMU crashes
        raise QmpError("no medium")
    try:
        options, said = _given(call, node)
        perm, writes = backend.perm, Perm.WRITE | Perm.WRITE_UNCHANGED
        # Source: QEMU does not give it back, not even when the reopening fails. Its guest can't
        # write from then on: there it crashes, here it gets EPERM.
        if options.get("read-only") is True and perm & writes:
            async with drained(node):
                backend.set_perm(perm & ~writes, backend.shared)
        await reopen.change(backend.graph, node, options, said)
    except ValidationError as error:
        raise RefusedError(str(error.errors(include_url=False)[0]["msg"])) from error
    except QmpError as error:
        raise RefusedError("".join(call.replies) + error.desc) from error
    return ""


def _given(call: Call, node: Node) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options by their dotted names, and those that are said as text.

    Raises:
        QmpError: They contradict each other.
    """
    if call.has("c") and call.options["c"] not in _CACHE_MODES:
        raise QmpError(f"Invalid cache option: {call.options['c']}")
    if call.has("r") and call.has("w"):
        raise QmpError("Only one -r/-w option may be given")
    options: dict[str, Any] = {}
    said = _said(call)
    for name, text in said.items():
        shape = _shape(struct_of(BLOCKDEV_MODELS[node.driver.driver_name]), name.split("."))
        try:
            options[name] = text if shape is None else value_of(shape, name, text)
        except QmpError:
            if name in reopen.changeable(node) or name == "force-share":
                raise
            options[name] = text  # whatever it is, it can't be changed
    if call.has("r") or call.has("w"):
        if "read-only" in options:
            raise QmpError("Cannot set both -r/-w and 'read-only'")
        options["read-only"] = call.has("r")
    if call.has("c"):
        if options.keys() & {"cache.direct", "cache.no-flush"}:
            raise QmpError("Cannot set both -c and the cache options")
        direct, no_flush = _CACHE_MODES[call.options["c"]]
        options |= {"cache.direct": direct, "cache.no-flush": no_flush}
    return options, said


def _said(call: Call) -> dict[str, str]:
    """Return the texts of the options; one without a value is switched on, or off by a ``no``."""
    found: dict[str, str] = {}
    text, start = call.options.get("o", ""), 0
    while start < len(text):
        match = _OPTION.match(text, start)
        assert match is not None
        name, value = match.groups()
        start = match.end()
        if value is None:
            given, value = name, "off" if name.startswith("no") else "on"
            name = name.removeprefix("no")
            call.replies.append(
                f"warning: short-form boolean option '{given}' deprecated\n"
                f"Please use {name}={value} instead\n"
            )
        found[name] = value.replace(",,", ",")
    return found


def _shape(struct: Struct, path: list[str]) -> Shape | None:
    """Return what an option takes, None if there is no such option."""
    member = struct.by_wire.get(path[0])
    shape = None if member is None else member.shape
    if len(path) == 1 or shape is None:
        return shape
    arms = shape.arms if isinstance(shape, Alternate) else (shape,)
    below = next((arm for arm in arms if isinstance(arm, Struct)), None)
    return None if below is None else _shape(below, path[1:])


register(
    IoCommand(
        "reopen",
        _reopen,
        "[(-r|-w)] [-c cache] [-o options] -- reopens an image with new options",
        "c:o:rw",
        least=0,
        most=None,
        words=(0, 0),
    )
)
