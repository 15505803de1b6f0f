"""human-monitor-command: the few commands of the human monitor that tests of disks need."""

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
from qmpfleece.control.monitor.lines import BadLineError, Line
from qmpfleece.control.monitor.output import print_err, print_out
from qmpfleece.control.qemu_io.run import run_line
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64

Handler = Callable[[System, str], Awaitable[str]]


def _split(text: str) -> tuple[str, str]:
    """Return the first word, which is "" if there is none, and the rest."""
    name, *rest = text.split(maxsplit=1) or [""]
    return name, rest[0] if rest else ""


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
        said = await run_line(system.graph, target, words, system.background)
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
    name, rest = _split(text)
    line = Line(name, rest, f"info {name}")
    if name == "status":
        line.end()
        return _status(system)
    if name == "block-jobs":
        line.end()
        return info.block_jobs(system)
    if name == "block":
        nodes = line.option("n", later="v")
        verbose = line.option("v")
        wanted = line.optional()
        line.end()
        if wanted is None and not nodes:
            return await info.disks(system, None, verbose=verbose)
        text = "" if nodes else await info.disks(system, wanted, verbose=verbose)
        return text or await info.named_nodes(system, wanted, verbose=verbose)
    return f"unknown command: 'info {name}'\n" if name else _USAGE["info"]


async def _quit(system: System, text: str, called: str = "quit") -> str:
    Line("quit|q", text, called).end()
    system.quit()
    return ""


async def _stop(system: System, text: str) -> str:
    Line("stop|s", text, "stop").end()
    await stop(system)
    return ""


async def _cont(system: System, text: str) -> str:
    Line("cont|c", text, "cont").end()
    await cont(system)
    return ""


async def _help(system: System, text: str) -> str:
    del system
    name, _ = _split(text)
    if not name:
        return "".join(_USAGE[key] for key in sorted(_USAGE))
    name = {"q": "quit", "s": "stop", "c": "cont"}.get(name, name)
    return _USAGE.get(name, f"unknown command: '{name}'\n")


_HANDLERS: Final[dict[str, Handler]] = {
    "qemu-io": _qemu_io,
    "block_resize": _block_resize,
    "info": _info,
    "help": _help,
    "quit": _quit,
    "q": partial(_quit, called="q"),
    "stop": _stop,
    "s": _stop,
    "cont": _cont,
    "c": _cont,
}
_USAGE: Final = {
    "qemu-io": 'qemu-io [-d] [device] "[command]" -- run a qemu-io command on a block device\n'
    "\t\t\t-d: [device] is a device ID rather than a drive ID or node name\n",
    "block_resize": "block_resize device size -- resize a block image\n",
    "info": "info block [-n] [-v] [device] -- show info of one block device or all block devices"
    " (-n: show named nodes; -v: show details)\n"
    "info block-jobs  -- show progress of ongoing block device operations\n",
    "help": "help [cmd] -- show the help\n",
    "quit": "quit|q  -- quit the emulator\n",
    "stop": "stop|s  -- stop emulation\n",
    "cont": "cont|c  -- resume emulation\n",
}


@command("human-monitor-command")
async def human_monitor_command(
    system: System, *, command_line: str, cpu_index: Int64 | None = None
) -> str:
    """Run a command of the human monitor and return what it says.

    Args:
        system: What to work on.
        command_line: The command with its arguments.
        cpu_index: Taken, as QEMU does; there are no processors.
    """
    del cpu_index
    name, rest = _split(command_line)
    if not name:
        return ""
    handler = _HANDLERS.get(name)
    if handler is None:
        return f"unknown command: '{name}'\r\n"
    try:
        text = await handler(system, rest)
    except BadLineError as error:
        await print_out(system.graph.workers, error.output)
        text = error.desc
    return text.replace("\n", "\r\n")
