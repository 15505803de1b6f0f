"""What listening needs wherever it is done, with QEMU's words for what can go wrong."""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import stat
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from qmpfleece.base.digits import decimal
from qmpfleece.base.errors import QmpError
from qmpfleece.base.files import c_string

log = logging.getLogger(__name__)

#: The kernel's limit for the path of a unix socket, its final zero included.
UNIX_PATH_BYTES: Final = 108
BACKLOG: Final = 128
#: How long to wait when the system has no descriptor left for a client, in seconds.
_SHORT_OF_DESCRIPTORS_S: Final = 0.1
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_DESCRIPTOR: Final = re.compile(r"\s*([+-]?)([0-9]+)", re.ASCII)
_LARGEST_INT: Final = (1 << 31) - 1

#: An address family and what ``bind`` and ``connect`` take for it.
Where: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]


def descriptor_number(text: str) -> int:
    """Return the number of a descriptor, which need not be open.

    Raises:
        QmpError: It can't be one.
    """
    match = _DESCRIPTOR.fullmatch(text)
    if match is None:
        raise QmpError(f"Unable to parse FD number {text}")
    number = decimal(match[2])
    # A C int: what is left of a larger number in one would be another descriptor.
    if number > _LARGEST_INT + (match[1] == "-"):
        raise QmpError(f"Unable to parse FD number {text}: Numerical result out of range")
    if number and match[1] == "-":
        raise QmpError(f"File descriptor '{text}' is not a socket")
    return number


def is_socket(fd: int) -> bool:
    """Tell whether a descriptor, which need not be open, is a socket."""
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def inherited(text: str) -> int:
    """Return the number of a socket that the program was started with; it is taken by that.

    Raises:
        QmpError: It is none: its own ones are not meant.
    """
    number = descriptor_number(text)
    if not is_socket(number) or not os.get_inheritable(number):
        raise QmpError(f"File descriptor '{text}' is not a socket")
    os.set_inheritable(number, False)
    return number


def fits_unix(path: str) -> bool:
    """Tell whether a unix socket can have this path."""
    return len(c_string(path)) < UNIX_PATH_BYTES


def invented_path() -> str:
    """Return where to listen if nobody has said it: a path as QEMU makes one up."""
    import tempfile

    return tempfile.mktemp(prefix="qemu-socket-")  # noqa: S306 - bind refuses what exists


def unix_name(path: str, *, abstract: bool, tight: bool) -> str | bytes:
    """Return what ``bind`` and ``connect`` take.

    Args:
        path: A path, or a name that is no file; checked by ``fits_unix``.
        abstract: It is no file.
        tight: That name ends where the path does, and is not filled up with zeroes.
    """
    if not abstract:
        return path
    name = b"\0" + c_string(path)
    return name if tight else name.ljust(UNIX_PATH_BYTES, b"\0")


def listen_on(number: int) -> socket.socket:
    """Return a descriptor, which the caller owns, as a non-blocking socket that listens.

    Raises:
        QmpError: It can't, and is closed; or it is no socket, and stays open.
    """
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise QmpError(f"File descriptor '{number}' is not a socket") from error
    try:
        return _listen(sock)
    except OSError as error:
        raise QmpError(f"Failed to listen on fd socket: {error.strerror}") from error


def listen_unix(path: str | bytes, shown: str) -> socket.socket:
    """Return a non-blocking socket that listens at a path, or at an abstract name (bytes).

    A socket file that an earlier process left there is removed. Differs: QEMU removes any
    file.

    Args:
        path: Where to listen; checked by ``fits_unix``.
        shown: The path in messages.

    Raises:
        QmpError: The path can't be used.
    """
    if isinstance(path, str):
        path = c_string(path)
        _remove_stale(path, shown)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _listen(sock, path)
    except OSError as error:
        raise QmpError(f"Failed to bind socket to {shown}: {error.strerror}") from error


def _listen(
    sock: socket.socket, where: Any = None, switches: Iterable[tuple[int, int]] = ()
) -> socket.socket:
    """Bind a socket, unless it is bound, and have it listen without blocking; else close it.

    Args:
        sock: The socket.
        where: What ``bind`` takes.
        switches: Levels and names of options that are to be on.
    """
    try:
        for level, name in switches:
            sock.setsockopt(level, name, 1)
        if where is not None:
            sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


async def accept(listening: socket.socket, whose: str) -> socket.socket:
    """Wait for a client; while the system has no descriptor left for it, try again.

    Args:
        listening: Where it comes to; does not block.
        whose: In the log: "an NBD" client.
    """
    loop, told = asyncio.get_running_loop(), False
    while True:
        try:
            return (await loop.sock_accept(listening))[0]
        except ConnectionError:
            pass  # gone before it was accepted
        except OSError as error:
            if not told:
                log.warning("can't accept %s client: %s", whose, error.strerror)
            told = True
            await asyncio.sleep(_SHORT_OF_DESCRIPTORS_S)


class SocketFile:
    """The file of a socket that listens.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = c_string(path)
        self._inode = 0  # that of no file
        with contextlib.suppress(OSError):  # of a socket that somebody else has made, elsewhere
            found = os.stat(self._path)
            self._inode = found.st_ino if stat.S_ISSOCK(found.st_mode) else 0

    def remove(self) -> None:
        """Remove it, if it still can be and nobody has replaced it."""
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)


def _remove_stale(path: bytes, shown: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise QmpError(f"Failed to bind socket to {shown}: Address already in use")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise QmpError(f"Failed to unlink socket {shown}: {error.strerror}") from error


def family_of(*, ipv4: bool | None, ipv6: bool | None) -> socket.AddressFamily:
    """Return what a search for addresses is restricted to by leave for either protocol.

    Raises:
        QmpError: Both are refused.
    """
    if ipv4 is False and ipv6 is False:
        raise QmpError("Cannot disable IPv4 and IPv6 at same time")
    if ipv6 is False or (ipv4 and not ipv6):
        return socket.AF_INET
    if ipv4 is False or (ipv6 and not ipv4):
        return socket.AF_INET6
    return socket.AF_UNSPEC


async def resolve(
    host: str,
    port: str,
    *,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    flags: int = 0,
) -> list[Where]:
    """Return the addresses that a host and a port stand for.

    Args:
        host: A name or number; ``""`` for all interfaces, or this host.
        port: A number or service name.
        family: Restricts the search.
        flags: AI_* of getaddrinfo(3).

    Raises:
        QmpError: There are none.
    """
    loop = asyncio.get_running_loop()
    # An event loop may make a number of it by itself, whatever the flags.
    if port.startswith("-"):
        reason = "Servname not supported for ai_socktype"
        raise QmpError(f"address resolution failed for {host}:{port}: {reason}")
    if flags & socket.AI_NUMERICSERV and not port.lstrip(" +").isdecimal():
        reason = "Name or service not known"
        raise QmpError(f"address resolution failed for {host}:{port}: {reason}")
    if not port.isascii() or "\0" in port:
        reason = "Servname not supported for ai_socktype"
        raise QmpError(f"address resolution failed for {host}:{port}: {reason}")
    try:
        # As bytes: text would be taken for an international name, which not every one can be.
        found = await loop.getaddrinfo(
            c_string(host) or None, port, family=family, type=socket.SOCK_STREAM, flags=flags
        )
    except OSError as error:
        raise QmpError(f"address resolution failed for {host}:{port}: {error.strerror}") from error
    return [(socket.AddressFamily(family), where) for family, _, _, _, where in found]


def _listen_tcp(family: socket.AddressFamily, where: tuple[Any, ...]) -> socket.socket:
    """Return a non-blocking socket that listens at a resolved address.

    Raises:
        OSError: It can't be had.
    """
    switches = [(socket.SOL_SOCKET, socket.SO_REUSEADDR)]
    if family == socket.AF_INET6:
        switches.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return _listen(socket.socket(family, socket.SOCK_STREAM), where, switches)


async def listen_inet(
    host: str,
    port: str,
    *,
    to: int | None = None,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    numeric: bool = False,
) -> list[socket.socket]:
    """Return non-blocking sockets that listen at all addresses of a host that can be had.

    Args:
        host: A name or number; ``""`` for all interfaces.
        port: A number or service name; "0" lets the system choose one, the same for all addresses.
        to: The last port that is tried if others listen at the first ones.
        family: Restricts what the host may stand for.
        numeric: It is a number, and so is the port.

    Raises:
        QmpError: None can be had; QEMU's words.
    """
    flags = socket.AI_PASSIVE | (_NUMERIC if numeric else 0)
    listening: list[socket.socket] = []
    failure = f"address resolution failed for {host}:{port}"
    for found, where in await resolve(host, port, family=family, flags=flags):
        number, last = where[1], to
        if listening and not number:
            number, last = listening[0].getsockname()[1], None
        try:
            listening.append(_bind(found, (where[0], number, *where[2:]), last))
        except OSError as error:
            what = "find an available port" if error.errno == errno.EADDRINUSE else "bind socket"
            failure = f"Failed to {what}: {error.strerror}"
    if not listening:
        raise QmpError(failure)
    return listening


def _bind(family: socket.AddressFamily, where: tuple[Any, ...], to: int | None) -> socket.socket:
    """Return a socket that listens at the first free port, from that of ``where`` up to ``to``."""
    last = where[1] if to is None else to
    for port in range(where[1], last + 1):
        try:
            return _listen_tcp(family, (where[0], port, *where[2:]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == last:
                raise
    raise QmpError("Failed to create a socket")


def peer_of(sock: socket.socket) -> Any:
    """Return the address of who is at the other end, None once he has gone."""
    try:
        return sock.getpeername()
    except OSError:
        return None
