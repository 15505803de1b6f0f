"""The commands on block exports and the NBD server. Source: QAPI, block-export.json."""

from typing import Annotated

from qmpfleece.base import fdsets, sockets
from qmpfleece.base.errors import QmpError
from qmpfleece.control.command import Boxed, command
from qmpfleece.control.system import System
from qmpfleece.exports.options import (
    AnyExportOptions,
    BlockExportInfo,
    FdSocketAddress,
    NbdServerAddOptions,
    RemoveMode,
    SocketAddressLegacy,
)
from qmpfleece.qapi.model import Uint32


@command("nbd-server-start")
async def nbd_server_start(
    system: System,
    addr: SocketAddressLegacy,
    tls_creds: str | None = None,
    tls_authz: str | None = None,
    max_connections: Uint32 | None = None,
) -> None:
    """Listen for NBD clients.

    Raises:
        QmpError: The server is running already, or the address can't be used.
    """
    if system.exports.nbd_running:
        raise QmpError("NBD server already running")
    del tls_authz  # without credentials there is nobody to be authorized
    if tls_creds is not None:
        raise QmpError(f"No TLS credentials with id '{tls_creds}'")
    data = addr.data
    if isinstance(data, FdSocketAddress):
        data = _handed_over(system, data.str_)
    await system.exports.start_nbd(data, max_connections=max_connections)


def _handed_over(system: System, name: str) -> FdSocketAddress:
    """Return a socket that somebody has handed over under a name, by its number.

    No other number is one to listen on: who knows what has it.
    """
    fd = system.named_fds.pop(name, None)
    if fd is None and not system.has_machine:
        raise QmpError("only QEMU supports file descriptor passing")
    if fd is None:
        raise QmpError(f"File descriptor named '{name}' has not been found")
    if not sockets.is_socket(fd):
        fdsets.close(fd)
        raise QmpError(f"File descriptor '{name}' is not a socket")
    return FdSocketAddress.model_construct(str_=str(fd))


@command("nbd-server-add")
async def nbd_server_add(system: System, options: Annotated[NbdServerAddOptions, Boxed]) -> None:
    """Export a node over NBD, or what a device has: then clients follow qom-set.

    The latter is ours: QEMU knows no devices here.

    Raises:
        QmpError: It can't be exported.
    """
    name = options.device
    device = system.devices.find(name)
    backend = device.backend if device is not None else None
    drive = system.drives.get(name)
    if backend is None or drive is not None or system.graph.get(name):
        await system.exports.add_nbd(options, system.graph.find(name), drive=drive)
        return
    if backend.node is None:
        raise QmpError(f"Device '{name}' has no medium")
    await system.exports.add_nbd(options, backend.node, backend)


@command("nbd-server-remove")
async def nbd_server_remove(system: System, name: str, mode: RemoveMode = "safe") -> None:
    """Remove an NBD export.

    Raises:
        QmpError: There is none, or it is in use.
    """
    await block_export_del(system, name, mode)


@command("nbd-server-stop")
async def nbd_server_stop(system: System) -> None:
    """Stop the NBD server and delete its exports.

    Raises:
        QmpError: It is not running.
    """
    await system.exports.stop_nbd()


@command("block-export-add")
async def block_export_add(system: System, options: Annotated[AnyExportOptions, Boxed]) -> None:
    """Export a node.

    Raises:
        QmpError: It can't be exported.
    """
    await system.exports.add(options)


@command("block-export-del")
async def block_export_del(system: System, id: str, mode: RemoveMode = "safe") -> None:  # noqa: A002 - QAPI's name
    """Remove an export; BLOCK_EXPORT_DELETED follows the reply.

    Raises:
        QmpError: There is none, or it is in use.
    """
    export = system.exports.begin_delete(id, mode)
    system.after_reply(lambda: system.exports.finish_delete(export))


@command("query-block-exports")
async def query_block_exports(system: System) -> list[BlockExportInfo]:
    """List the exports, newest first."""
    return system.exports.query()
