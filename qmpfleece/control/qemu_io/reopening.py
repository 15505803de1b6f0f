"""qemu-io's ``reopen``: some options of an open node change, the others stay.

Source: QEMU 7.2, observed.
"""

from typing import Any, Final

from pydantic import ValidationError

from qmpfleece.base.errors import QmpError
from qmpfleece.block import reopen
from qmpfleece.block.perm import Perm
from qmpfleece.control.qemu_io.command import Call, IoCommand, RefusedError, register

#: What the cache modes mean for a node; whether writes go through is its users' affair.
_CACHE_MODES: Final = {
    "none": (True, False),
    "off": (True, False),
    "directsync": (True, False),
    "writeback": (False, False),
    "writethrough": (False, False),
    "unsafe": (False, True),
}
#: Options of which ``on`` and ``off`` are words.
_WORDS: Final = ("detect-zeroes", "discard", "overlap-check")


async def _reopen(call: Call) -> str:
    backend = call.backend
    node = backend.node
    assert node is not None, "commands have a node to act on"
    try:
        options = _given(call)
        perm, writes = backend.perm, Perm.WRITE | Perm.WRITE_UNCHANGED
        if options.get("read-only") is True and perm & writes:
            backend.set_perm(perm & ~writes, backend.shared)
        await reopen.change(backend.graph, node, options)
    except ValidationError as error:
        raise RefusedError(str(error.errors(include_url=False)[0]["msg"])) from error
    except QmpError as error:
        raise RefusedError(error.desc) from error
    return ""


def _given(call: Call) -> dict[str, Any]:
    """Return the options by their dotted names.

    Raises:
        QmpError: They contradict each other.
    """
    if call.has("c") and call.options["c"] not in _CACHE_MODES:
        raise QmpError(f"Invalid cache option: {call.options['c']}")
    if call.has("r") and call.has("w"):
        raise QmpError("Only one -r/-w option may be given")
    options: dict[str, Any] = {}
    for word in filter(None, call.options.get("o", "").split(",")):
        name, _, value = word.partition("=")
        options[name] = value if name in _WORDS else _value(value)
    if call.has("r") or call.has("w"):
        if "read-only" in options:
            raise QmpError("Cannot set both -r/-w and 'read-only'")
        options["read-only"] = call.has("r")
    if call.has("c"):
        if options.keys() & {"cache.direct", "cache.no-flush"}:
            raise QmpError("Cannot set both -c and the cache options")
        direct, no_flush = _CACHE_MODES[call.options["c"]]
        options |= {"cache.direct": direct, "cache.no-flush": no_flush}
    return options


def _value(text: str) -> Any:
    """Return what is meant, as JSON would have it."""
    if text in {"on", "off"}:
        return text == "on"
    return int(text) if text.isdecimal() else text


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
