"""The commands of qemu-io that look at an image, resize it, or set break points."""

import errno
import os
from typing import Final, Protocol, runtime_checkable

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.control import describe
from qmpfleece.control.monitor import specific
from qmpfleece.control.qemu_io.command import IO_COMMANDS, Call, IoCommand, RefusedError, register
from qmpfleece.control.qemu_io.details import DETAILS
from qmpfleece.control.qemu_io.numbers import parse_size, size_text
from qmpfleece.control.resize import resize

_PREALLOCATION: Final = ("off", "metadata", "falloc", "full")
#: Runs asked for in one call.
_LIMIT: Final = 256


class BreakPoints(Protocol):
    """Where requests can be suspended. Each raises OSError when it can't be done."""

    def add_break(self, event: str, tag: str) -> None:
        """Suspend the next request in which the event happens."""

    def remove_break(self, tag: str) -> None:
        """Forget the break points of a tag and resume its requests."""

    def resume(self, tag: str) -> None:
        """Let one suspended request go on."""

    async def wait_suspended(self, tag: str) -> None:
        """Wait until a request is suspended."""


@runtime_checkable
class _HasRules(Protocol):
    """The driver blkdebug."""

    rules: BreakPoints


def _break_points(call: Call) -> BreakPoints | None:
    """Return those of the first blkdebug at or below the node."""
    node = call.backend.node
    while node is not None:
        if node.driver.driver_name == "blkdebug" and isinstance(node.driver, _HasRules):
            return node.driver.rules
        below = node.driver.filtered_child or node.children.get("file")
        node = None if below is None else below.node
    return None


def _points(call: Call, refusal: str) -> BreakPoints:
    points = _break_points(call)
    if points is None:
        raise QmpError(f"{refusal}: {os.strerror(errno.ENOTSUP)}")
    return points


async def _break(call: Call) -> str:
    refusal = "Could not set breakpoint"
    try:
        _points(call, refusal).add_break(*call.words)
    except OSError as error:
        raise QmpError(f"{refusal}: {error.strerror}") from error
    return ""


async def _remove_break(call: Call) -> str:
    refusal = f"Could not remove breakpoint {call.words[0]}"
    try:
        _points(call, refusal).remove_break(call.words[0])
    except OSError as error:
        raise QmpError(f"{refusal}: {error.strerror}") from error
    return ""


async def _resume(call: Call) -> str:
    refusal = "Could not resume request"
    try:
        _points(call, refusal).resume(call.words[0])
    except OSError as error:
        raise QmpError(f"{refusal}: {error.strerror}") from error
    return ""


async def _wait_break(call: Call) -> str:
    """Wait until a request is suspended.

    Differs: where no break point can be, QEMU waits for ever and answers nothing any more.
    """
    points = _points(call, "Could not wait for breakpoint")
    await points.wait_suspended(call.words[0])
    return ""


async def _runs(call: Call, offset: int, length: int) -> list[tuple[int, bool]]:
    """Return runs of equal allocation in the node itself."""
    found: list[tuple[int, bool]] = []
    end = offset + length
    while offset < end:
        for run, depth in await call.backend.allocation_depth(offset, end - offset, _LIMIT):
            allocated = depth == 1
            if found and found[-1][1] == allocated:
                found[-1] = (found[-1][0] + run, allocated)
            else:
                found.append((run, allocated))
            offset += run
    return found


async def _map(call: Call) -> str:
    if not call.available:
        raise RefusedError(f"Failed to query image length: {os.strerror(errno.ENOMEDIUM)}")
    lines: list[str] = []
    offset = 0
    try:
        runs = await _runs(call, 0, call.backend.length)
    except OSError as error:
        raise QmpError(f"Failed to get allocation status: {error.strerror}") from error
    for length, allocated in runs:
        what = "    allocated" if allocated else "not allocated"
        lines.append(
            f"{size_text(length)} (0x{length:x}) bytes {what} at offset"
            f" {size_text(offset)} (0x{offset:x})\n"
        )
        offset += length
    return "".join(lines)


async def _alloc(call: Call) -> str:
    offset = parse_size(call.words[0])
    length = parse_size(call.words[1]) if len(call.words) > 1 else SECTOR
    try:
        length = max(0, min(length, call.backend.length - offset))
        runs = await _runs(call, offset, length)
    except OSError as error:
        raise QmpError(f"is_allocated failed: {error.strerror}") from error
    count = sum(run for run, allocated in runs if allocated)
    return f"{count}/{length} bytes allocated at offset {size_text(offset)}\n"


async def _info(call: Call) -> str:
    node = call.backend.node
    if node is None:
        raise RefusedError(f"Failed to query image: {os.strerror(errno.ENOMEDIUM)}")
    driver = node.driver
    lines = [f"format name: {driver.driver_name}"] * (2 if driver.is_protocol else 1)
    if describe.is_informed(node):
        lines.append(f"cluster size: {size_text(driver.cluster_size)}")
        lines.append(f"vm state offset: {size_text(driver.vm_state_offset)}")
        if (found := driver.image_info().get("format_specific")) is not None:
            lines.append(specific.HEADING)
            call.replies.extend(f"{line}\n" for line in specific.lines(found))
    return "".join(f"{line}\n" for line in lines)


async def _length(call: Call) -> str:
    if not call.available:
        raise QmpError(f"getlength: {os.strerror(errno.ENOMEDIUM)}")
    return f"{size_text(call.backend.length)}\n"


def _check_preallocation(_: Backend, mode: str) -> None:
    if mode not in _PREALLOCATION:
        raise RefusedError(f"Invalid preallocation mode '{mode}'")


async def _truncate(call: Call) -> str:
    # Source: QEMU names the first argument, whatever it is.
    length = parse_size(call.words[0], call.first)
    if not call.available:
        raise RefusedError("No medium inserted")
    try:
        await resize(call.backend, length, call.options.get("m", "off"))
    except QmpError as error:
        raise RefusedError(error.desc) from error
    return ""


async def _help(call: Call) -> str:
    if not call.words:
        commands = {command.name: command for command in IO_COMMANDS.values()}
        lines = "".join(_usage(name, commands[name]) for name in sorted(commands))
        return f"{lines}\nUse 'help commandname' for extended help.\n"
    found = IO_COMMANDS.get(call.words[0])
    if found is None:
        raise QmpError(f"command {call.words[0]} not found")
    return _usage(call.words[0], found) + DETAILS.get(found.name, "")


def _usage(name: str, command: IoCommand) -> str:
    return f"{name} {command.usage}\n"


register(
    IoCommand(
        "break",
        _break,
        "event tag -- sets a breakpoint on event and tags the stopped request as tag",
        least=2,
        most=2,
    )
)
register(
    IoCommand(
        "remove_break",
        _remove_break,
        "tag -- remove a breakpoint by tag",
        least=1,
        most=1,
    )
)
register(IoCommand("resume", _resume, "tag -- resumes the request tagged as tag", least=1, most=1))
register(
    IoCommand(
        "wait_break", _wait_break, "tag -- waits for the suspension of a request", least=1, most=1
    )
)
register(IoCommand("map", _map, " -- prints the allocated areas of a file"))
register(
    IoCommand(
        "alloc",
        _alloc,
        "offset [count] -- checks if offset is allocated in the file",
        least=1,
        most=2,
    ),
    "a",
)
register(IoCommand("info", _info, "-- prints information about the current file"), "i")
register(IoCommand("length", _length, "-- gets the length of the current file"), "l")
register(
    IoCommand(
        "truncate",
        _truncate,
        "[-m prealloc_mode] off -- truncates the current file at the given offset",
        "m:",
        least=1,
        most=3,
        words=(1, 3),  # all but the first do nothing
        perm=Perm.WRITE | Perm.RESIZE,
        checks={"m": _check_preallocation},
    ),
    "t",
)
register(IoCommand("help", _help, "[command] -- help for one or all commands", most=1), "?")
