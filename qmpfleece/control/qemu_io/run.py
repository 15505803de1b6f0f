"""Running one line of qemu-io on a node."""

from typing import NamedTuple

from qmpfleece.base.errors import QmpError
from qmpfleece.base.registry import import_siblings
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.control.qemu_io.background import Background
from qmpfleece.control.qemu_io.command import (
    IO_COMMANDS,
    ComplaintError,
    IoCommand,
    RefusedError,
    call,
    find,
)


class Said(NamedTuple):
    """What a command has to say.

    Attributes:
        out: To the program's output; also most errors.
        err: To its standard error, before that.
        reply: To whoever has asked.
    """

    out: str = ""
    err: str = ""
    reply: str = ""


async def run_line(
    graph: Graph,
    target: Node | Backend,
    line: str,
    background: Background | None = None,
    *,
    tray_open: bool = False,
) -> Said:
    """Run a command and return what it says, which may be what went wrong.

    Args:
        graph: Where the node lives.
        target: What to act on: a node, held with the command's permissions meanwhile, or a
            handle on one, which keeps what the command needs.
        line: The command with its arguments.
        background: Takes the requests of aio_read and aio_write through a handle that stays:
            they go on after the command. Without it they end before.
        tray_open: The handle is that of a drive whose medium is out.

    Raises:
        QmpError: The node can't be used so, or not resized: to be told to whoever asks.
    """
    if not IO_COMMANDS:
        import_siblings("qmpfleece.control.qemu_io")
    try:
        found = find(line)
    except ComplaintError as error:
        return Said(err=f"{error.desc}\n")
    if found is None:
        return Said()
    command, arguments = found
    if isinstance(target, Backend):
        # Source: QEMU asks for nothing where no medium can be reached.
        if target.node is not None and not tray_open:
            target.set_perm(target.perm | command.perm, target.shared)
        return await _run(command, arguments, target, background, tray_open=tray_open)
    backend = Backend(graph, perm=command.perm)
    try:
        backend.attach(target)
        return await _run(command, arguments, backend, None)
    finally:
        await backend.let_go()


async def _run(
    command: IoCommand,
    arguments: list[str],
    backend: Backend,
    background: Background | None,
    *,
    tray_open: bool = False,
) -> Said:
    try:
        made = call(command, arguments, backend, background, tray_open=tray_open)
        text = await command.handler(made)
    except RefusedError:
        raise
    except ComplaintError as error:
        return Said(f"{error.usage}\n" if error.usage else "", f"{error.desc}\n")
    except QmpError as error:
        return Said(f"{error.desc}\n")
    return Said(text, reply="".join(made.replies))
