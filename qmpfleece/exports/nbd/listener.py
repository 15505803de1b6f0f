"""Listening sockets for the NBD server: unix, TCP over IPv4 and IPv6, inherited descriptors.

A name that stands for several addresses, such as localhost, is listened on at all of them.
Texts are QEMU's.
"""

import socket
from typing import Final

from qmpfleece.base import sockets
from qmpfleece.base.errors import QmpError
from qmpfleece.exports.options import (
    FdSocketAddress,
    InetSocketAddress,
    ListenAddress,
    UnixSocketAddress,
)


class Listener:
    """A listening socket.

    Args:
        sock: Non-blocking.
        path: The socket file to remove in the end, None if there is none.
    """

    def __init__(self, sock: socket.socket, path: str | None = None) -> None:
        self.sock: Final = sock
        self._file = sockets.SocketFile(path) if path is not None else None

    def close(self) -> None:
        """Stop listening; remove the socket file unless somebody has replaced it."""
        self.sock.close()
        if self._file is not None:
            self._file.remove()
            self._file = None


async def open_listener(address: ListenAddress) -> list[Listener]:
    """Listen at an address.

    Raises:
        QmpError: It can't be done; nothing is left open.
    """
    if isinstance(address, UnixSocketAddress):
        return [_listen_unix(address)]
    if isinstance(address, InetSocketAddress):
        return await _listen_inet(address)
    if isinstance(address, FdSocketAddress):
        return [Listener(sockets.listen_on(int(address.str_)))]
    raise QmpError("socket family AF_VSOCK unsupported")


def _listen_unix(address: UnixSocketAddress) -> Listener:
    abstract, tight = bool(address.abstract), address.tight is not False
    path = address.path if address.path or abstract else sockets.invented_path()
    if not sockets.fits_unix(path):
        raise QmpError(f"UNIX socket path '{path}' is too long")
    where = sockets.unix_name(path, abstract=abstract, tight=tight)
    return Listener(sockets.listen_unix(where, path), None if abstract else path)


async def _listen_inet(address: InetSocketAddress) -> list[Listener]:
    listening = await sockets.listen_inet(
        address.host,
        address.port,
        to=address.to,
        family=sockets.family_of(ipv4=address.ipv4, ipv6=address.ipv6),
        numeric=bool(address.numeric),
    )
    return [Listener(sock) for sock in listening]
