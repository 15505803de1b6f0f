"""Running one line of qemu-io on a node."""

from qmpfleece.base.errors import QmpError
from qmpfleece.base.registry import import_siblings
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.control.qemu_io.background import Background
from qmpfleece.control.qemu_io.command import IO_COMMANDS, IoCommand, RefusedError, call, find


async def run_line(
    graph: Graph,
    target: Node | Backend,
    line: str,
    background: Background | None = None,
    replies: list[str] | None = None,
) -> str:
    """Run a command and return its output, which may be what went wrong.

    Args:
        graph: Where the node lives.
        target: What to act on: a node, held with the command's permissions meanwhile, or a
            handle on one, which keeps what the command needs.
        line: The command with its arguments.
        background: Takes the requests of aio_read and aio_write through a handle that stays:
            they go on after the command. Without it they end before.
        replies: Takes what is to be said to whoever asks, besides the output.

    Raises:
        QmpError: The node can't be used so, or not resized: to be told to whoever asks.
    """
    if not IO_COMMANDS:
        import_siblings("qmpfleece.control.qemu_io")
    try:
        found = find(line)
    except QmpError as error:
        return f"{error.desc}\n"
    if found is None:
        return ""
    command, arguments = found
    if isinstance(target, Backend):
        target.set_perm(target.perm | command.perm, target.shared)
        return await _run(command, arguments, target, background, replies)
    backend = Backend(graph, perm=command.perm)
    try:
        backend.attach(target)
        return await _run(command, arguments, backend, None, replies)
    finally:
        await backend.let_go()


async def _run(
    command: IoCommand,
    arguments: list[str],
    backend: Backend,
    background: Background | None,
    replies: list[str] | None,
) -> str:
    try:
        made = call(command, arguments, backend, background)
        text = await command.handler(made)
    except RefusedError:
        raise
    except QmpError as error:
        return f"{error.desc}\n"
    if replies is not None:
        replies += made.replies
    return text
