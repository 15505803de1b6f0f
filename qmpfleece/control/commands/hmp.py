"""human-monitor-command: the few commands of the human monitor that tests of disks need."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.node import Node
from qmpfleece.control import qom
from qmpfleece.control.command import command
from qmpfleece.control.commands.misc import cont, stop
from qmpfleece.control.commands.resize import block_resize
from qmpfleece.control.monitor import info
from qmpfleece.control.monitor.lines import SPACE, BadLineError, Line
from qmpfleece.control.monitor.output import print_err, print_out
from qmpfleece.control.qemu_io.run import run_line
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64

Handler = Callable[[System, str], Awaitable[str]]

#: The name of a command; a slash ends it, too, as in QEMU's ``p/x``.
_name_in: Final = re.compile(f"[{SPACE}]*([^/{SPACE}]*)").match


class _UnknownError(Exception):
    """There is no such command.

    Args:
        rest: What follows its name.
    """

    def __init__(self, rest: str) -> None:
        super().__init__()
        self.rest = rest


def _split(text: str) -> tuple[str, str]:
    """Return the name of a command, which is "" if there is none, and the rest."""
    found = _name_in(text)
    assert found is not None  # it may be empty
    return found[1], text[found.end() :]


async def _unknown(_system: System, text: str) -> str:
    raise _UnknownError(text)


async def _qemu_io(system: System, text: str) -> str:
    line = Line("qemu-io", text)
    by_device = line.option("d")
    name = line.word("block device name")
    words = line.word("string")
    line.end()
    try:
        target = _device(system, name) if by_device else _drive_or_node(system, name)
    except QmpError as error:
        return f"Error: {error.desc}\n"
    try:
        holder = system.devices.holder(target) if isinstance(target, Backend) else None
        tray_open = holder is not None and holder.tray_open
        said = await run_line(system.graph, target, words, system.background, tray_open=tray_open)
    except QmpError as error:
        return f"{error.desc}\n"
    await print_err(system.graph.workers, said.err)
    await print_out(system.graph.workers, said.out)
    return said.reply


def _device(system: System, name: str) -> Backend:
    """Return the handle of a device that has a disk.

    Raises:
        QmpError: There is none of that id or path.
    """
    qom.check_device(system, name)
    device = system.devices.find(name)
    if device is None:
        raise QmpError(f"Device '{name}' not found")
    if device.backend is None or (device.model.inner and name != device.inner_path):
        raise QmpError("Device does not have a block device backend")
    return device.backend


def _drive_or_node(system: System, name: str) -> Backend | Node:
    """Return what is called so, a drive before a node.

    Raises:
        QmpError: There is neither.
    """
    found = system.drives.get(name) or system.graph.get(name)
    if found is None:
        raise QmpError(f"Cannot find device='' nor node-name='{name}'")
    return found


async def _block_resize(system: System, text: str) -> str:
    line = Line("block_resize", text)
    device = line.word("block device name")
    size = line.mebibytes()
    line.end()
    try:
        await block_resize(system, device=device, size=size)
    except QmpError as error:
        return f"Error: {error.desc}\n"
    return ""


def _status(system: System) -> str:
    state = system.run_state
    more = f" ({state})" if state not in {"running", "paused"} else ""
    return f"VM status: {'running' if state == 'running' else 'paused'}{more}\n"


async def _info(system: System, text: str) -> str:
    if not text.strip(SPACE):
        return _usage("info")
    name, rest = _split(text)
    line = Line(name, rest, f"info {name}")
    if name == "status":
        line.end()
        return _status(system)
    if name == "block-jobs":
        line.end()
        return await info.block_jobs(system)
    if name == "block":
        nodes = line.option("n", later="v")
        verbose = line.option("v")
        wanted = line.optional()
        line.end()
        if wanted is None and not nodes:
            return await info.disks(system, None, verbose=verbose)
        text = "" if nodes else await info.disks(system, wanted, verbose=verbose)
        return text or await info.named_nodes(system, wanted, verbose=verbose)
    raise _UnknownError(rest)


async def _quit(system: System, text: str, called: str = "quit") -> str:
    Line("quit|q", text, called).end()
    system.quit()
    return ""


async def _stop(system: System, text: str, called: str = "stop") -> str:
    Line("stop|s", text, called).end()
    await stop(system)
    return ""


async def _cont(system: System, text: str, called: str = "cont") -> str:
    Line("cont|c", text, called).end()
    await cont(system)
    return ""


async def _help(system: System, text: str) -> str:
    del system
    line = Line("help", text)
    try:
        words = [word for _ in range(2) if (word := line.optional()) is not None]
    except BadLineError as error:
        raise BadLineError("", error.output) from error
    if not words:
        return "".join(_usage(name) for name in sorted(_USAGE))
    name = {"?": "help", "q": "quit", "s": "stop", "c": "cont"}.get(words[0], words[0])
    if name != "info":
        words = words[:1]
    elif len(words) > 1:
        name = " ".join(words)
    known = name in _USAGE or name in _INFO
    return _usage(name) if known else f"unknown command: '{' '.join(words)}'\n"


def _usage(name: str) -> str:
    """Return how a command is used, ``info`` with all that it can tell."""
    if name == "info":
        return "".join(_INFO.values())
    return _USAGE.get(name) or _INFO[name]


_HANDLERS: Final[dict[str, Handler]] = {
    "qemu-io": _qemu_io,
    "block_resize": _block_resize,
    "info": _info,
    "help": _help,
    "?": _help,
    "quit": _quit,
    "q": partial(_quit, called="q"),
    "stop": _stop,
    "s": partial(_stop, called="s"),
    "cont": _cont,
    "c": partial(_cont, called="c"),
}
_USAGE: Final = {
    "qemu-io": 'qemu-io [-d] [device] "[command]" -- run a qemu-io command on a block device\n'
    "\t\t\t-d: [device] is a device ID rather than a drive ID or node name\n",
    "block_resize": "block_resize device size -- resize a block image\n",
    "info": "",
    "help": "help|? [cmd] -- show the help\n",
    "quit": "quit|q  -- quit the emulator\n",
    "stop": "stop|s  -- stop emulation\n",
    "cont": "cont|c  -- resume emulation\n",
}
_INFO: Final = {
    "info block": "info block [-n] [-v] [device] -- show info of one block device or all"
    " block devices (-n: show named nodes; -v: show details)\n",
    "info block-jobs": "info block-jobs  -- show progress of ongoing block device operations\n",
    "info status": "info status  -- show the current VM status (running|paused)\n",
}


@command("human-monitor-command")
async def human_monitor_command(
    system: System, *, command_line: str, cpu_index: Int64 | None = None
) -> str:
    """Run a command of the human monitor and return what it says.

    Args:
        system: What to work on.
        command_line: The command with its arguments.
        cpu_index: The processor that the command would be about.

    Raises:
        QmpError: There is no such processor.
    """
    if cpu_index is not None and not 0 <= cpu_index < system.devices.board.processors:
        raise QmpError("Parameter 'cpu-index' expects a CPU number")
    if not command_line.strip(SPACE):
        return ""
    name, rest = _split(command_line)
    try:
        text = await _HANDLERS.get(name, _unknown)(system, rest)
    except _UnknownError as error:
        text = f"unknown command: '{command_line[: len(command_line) - len(error.rest)]}'\n"
    except BadLineError as error:
        await print_out(system.graph.workers, error.output)
        text = error.desc
    return text.replace("\n", "\r\n")
