"""Sockets to listen on and to connect to, with QEMU's words for what can go wrong."""

import asyncio
import os
import socket
from typing import Any, NamedTuple, TypeAlias

from qmpfleece.base import sockets
from qmpfleece.base.errors import QmpError


class UnixAddress(NamedTuple):
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return self.path


class TcpAddress(NamedTuple):
    """A host and a port, which may be a service name; port "0" lets the system choose."""

    host: str
    port: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Address: TypeAlias = UnixAddress | TcpAddress


def check_path(path: str) -> None:
    """Refuse a path that no unix socket can have.

    Raises:
        QmpError: QEMU's words for a terminal.
    """
    if not sockets.fits_unix(path):
        raise QmpError(
            f"UNIX socket path '{path}' is too long\n"
            f"Path must be less than {sockets.UNIX_PATH_BYTES} bytes"
        )


async def listen(
    address: Address, family: socket.AddressFamily = socket.AF_UNSPEC
) -> socket.socket:
    """Return a listening, non-blocking socket.

    Args:
        address: Where.
        family: Restricts what its host may stand for.

    Raises:
        QmpError: The address can't be used; QEMU's text.
    """
    if isinstance(address, UnixAddress):
        check_path(address.path)
        return sockets.listen_unix(address.path, address.path)
    failure = f"address resolution failed for {address}"
    found = await sockets.resolve(
        address.host, address.port, family=family, flags=socket.AI_PASSIVE
    )
    for where in found:
        try:
            return sockets.listen_tcp(*where)
        except OSError as error:
            failure = sockets.tcp_failure(error)
    raise QmpError(failure)


async def connect(
    address: Address, family: socket.AddressFamily = socket.AF_UNSPEC
) -> socket.socket:
    """Return a connected, non-blocking socket.

    Args:
        address: Of whoever listens.
        family: Restricts what its host may stand for.

    Raises:
        QmpError: Nobody listens there; QEMU's text.
    """
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        check_path(address.path)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        targets: list[tuple[socket.socket, Any]] = [(unix, address.path)]
    else:
        targets = [
            (socket.socket(family, socket.SOCK_STREAM), where)
            for family, where in await sockets.resolve(address.host, address.port, family=family)
        ]
    failure = ""
    for index, (sock, where) in enumerate(targets):
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            # asyncio has words of its own for strerror.
            reason = os.strerror(error.errno or 0)
            failure = f"Failed to connect to '{address}': {reason}"
        else:
            for spare, _ in targets[index + 1 :]:
                spare.close()
            return sock
    raise QmpError(failure)
