"""Sockets to listen on and to connect to, with QEMU's words for what can go wrong."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from qmpfleece.base import sockets
from qmpfleece.base.errors import QmpError


class UnixAddress(NamedTuple):
    """A unix socket.

    Attributes:
        path: Its file, or a name that is no file.
        abstract: It is no file.
        tight: That name is not filled up with zeroes.
    """

    path: str
    abstract: bool = False
    tight: bool = True

    @property
    def where(self) -> str | bytes:
        """What ``bind`` and ``connect`` take."""
        return sockets.unix_name(self.path, abstract=self.abstract, tight=self.tight)

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
    address: Address,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    *,
    to: int | None = None,
) -> list[socket.socket]:
    """Return listening, non-blocking sockets: at least one, of a host one for each address.

    Args:
        address: Where.
        family: Restricts what its host may stand for.
        to: The last port that is tried.

    Raises:
        QmpError: The address can't be used; QEMU's text.
    """
    if isinstance(address, UnixAddress):
        check_path(address.path)
        return [sockets.listen_unix(address.where, address.path)]
    return await sockets.listen_inet(address.host, address.port, to=to, family=family)


async def first_clients(listening: Iterable[socket.socket]) -> list[socket.socket]:
    """Wait for a client of any socket; return all that have come until then.

    Raises:
        OSError: One can't be accepted.
    """
    loop = asyncio.get_running_loop()
    listening = tuple(listening)
    come = asyncio.Event()
    # Not sock_accept: who had come when that is cancelled would be lost.
    clients: list[socket.socket] = []
    try:
        for sock in listening:
            loop.add_reader(sock, come.set)
        while not clients:
            await come.wait()
            come.clear()
            for sock in listening:
                with contextlib.suppress(BlockingIOError):
                    clients.append(sock.accept()[0])
    except BaseException:
        for client in clients:
            client.close()
        raise
    finally:
        for sock in listening:
            loop.remove_reader(sock)
    for client in clients:
        client.setblocking(False)
    return clients


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
        targets: list[tuple[socket.AddressFamily, Any]] = [(socket.AF_UNIX, address.where)]
    else:
        targets = [*await sockets.resolve(address.host, address.port, family=family)]
    failure = ""
    for family_of_target, where in targets:
        try:
            # The system need not know the family: a host may stand for what it can't reach.
            sock = socket.socket(family_of_target, socket.SOCK_STREAM)
        except OSError as error:
            failure = f"Failed to create socket: {error.strerror}"
            continue
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, where)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            # asyncio has words of its own for strerror.
            reason = os.strerror(error.errno or 0)
            failure = f"Failed to connect to '{address}': {reason}"
        else:
            return sock
    raise QmpError(failure)
