"""Sockets to listen on and to connect to, with QEMU's words for what can go wrong."""

import asyncio
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from qmpfleece.base.errors import QmpError

#: The kernel's limit for the path of a unix socket, its final zero included.
_PATH_BYTES: Final = 108


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port, which may be a service name; port "0" lets the system choose."""

    host: str
    port: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Address: TypeAlias = UnixAddress | TcpAddress


def _unix(address: UnixAddress) -> socket.socket:
    if len(os.fsencode(address.path)) >= _PATH_BYTES:
        raise QmpError(
            f"UNIX socket path '{address.path}' is too long\n"
            f"Path must be less than {_PATH_BYTES} bytes"
        )
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _remove_stale(path: str) -> None:
    """Remove a socket file that an earlier process left. Differs: QEMU removes any file."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise QmpError(f"Failed to bind socket to {path}: Address already in use")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise QmpError(f"Failed to unlink socket {path}: {error.strerror}") from error


async def _resolve(
    address: TcpAddress, flags: int
) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags
        )
    except OSError as error:
        raise QmpError(f"address resolution failed for {address}: {error.strerror}") from error
    return [(socket.AddressFamily(family), where) for family, _, _, _, where in found]


async def listen(address: Address) -> socket.socket:
    """Return a listening, non-blocking socket.

    Raises:
        QmpError: The address can't be used; QEMU's text.
    """
    if isinstance(address, UnixAddress):
        sock = _unix(address)
        try:
            _remove_stale(address.path)
            sock.bind(address.path)
            sock.listen()
        except OSError as error:
            sock.close()
            raise QmpError(f"Failed to bind socket to {address.path}: {error.strerror}") from error
        except QmpError:
            sock.close()
            raise
    else:
        sock = await _listen_tcp(address)
    sock.setblocking(False)
    return sock


async def _listen_tcp(address: TcpAddress) -> socket.socket:
    failure = f"address resolution failed for {address}"
    for family, where in await _resolve(address, socket.AI_PASSIVE):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen()
        except OSError as error:
            sock.close()
            what = "find an available port" if error.errno == errno.EADDRINUSE else "bind socket"
            failure = f"Failed to {what}: {error.strerror}"
        else:
            return sock
    raise QmpError(failure)


async def connect(address: Address) -> socket.socket:
    """Return a connected, non-blocking socket.

    Raises:
        QmpError: Nobody listens there; QEMU's text.
    """
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        targets: list[tuple[socket.socket, Any]] = [(_unix(address), address.path)]
    else:
        targets = [
            (socket.socket(family, socket.SOCK_STREAM), where)
            for family, where in await _resolve(address, 0)
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
