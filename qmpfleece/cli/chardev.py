"""Character devices, as far as monitors need them: sockets and standard input and output.

A socket listens (or connects) when its option is processed, so that failures are reported
there; clients are served once all options are.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.sockets import family_of, inherited, invented_path, listen_on, peer_of
from qmpfleece.cli import qemuopts
from qmpfleece.cli.keyval import is_help
from qmpfleece.cli.qemuopts import switch
from qmpfleece.cli.words import Informed
from qmpfleece.control.option_text import number_of, signed
from qmpfleece.qmp import sockets
from qmpfleece.qmp.listener import Monitor, QmpServer
from qmpfleece.qmp.sockets import Address, TcpAddress, UnixAddress

_TEXTS: Final = (
    *("backend", "chardev", "fd", "host", "localaddr", "localport", "logfile", "name", "path"),
    *("port", "tls-authz", "tls-creds"),
)
_SWITCHES: Final = (
    *("abstract", "append", "clipboard", "delay", "ipv4", "ipv6", "logappend", "mouse", "mux"),
    *("nodelay", "server", "signal", "telnet", "tight", "tn3270", "wait", "websocket"),
)
_NUMBERS: Final = ("cols", "debug", "height", "reconnect", "rows", "to", "width")
#: Options that QEMU has, whatever the device.
_KNOWN: Final = {
    **dict.fromkeys(_TEXTS, "str"),
    **dict.fromkeys(_SWITCHES, "bool"),
    **dict.fromkeys(_NUMBERS, "number"),
    "size": "size",
}
#: Of those, what would change a socket in ways that there are not here.
_REFUSED: Final = frozenset(
    {"telnet", "tn3270", "websocket", "tls-creds", "tls-authz", "mux", "logfile"}
)
_TYPES: Final = "Available chardev backend types: \n  socket\n  stdio\n  null\n"
#: What follows ``tcp:``, up to the options.
_HOST_PORT: Final = re.compile(r"(?P<host>[^:,]*):(?P<port>[^,]+),?")


class Chardev:
    """A channel that a monitor may take.

    Args:
        name: Its id.
        listening: The sockets that listen, with their file.
        connections: Sockets that are connected already.
        stdio: It is standard input and output.
        shown: What it is called where nothing more is known of it.

    Attributes:
        taken: A monitor has it.
        place: The sockets that listen, also once a monitor has taken them.
    """

    def __init__(
        self,
        name: str,
        listening: Monitor | None = None,
        connections: Iterable[socket.socket] = (),
        *,
        stdio: bool = False,
        shown: str = "",
    ) -> None:
        self.name: Final = name
        self.listening = listening
        self.connections: Final = list(connections)
        self.stdio: Final = stdio
        self.shown: Final = shown
        self.place: Final = listening
        self.taken = False

    @property
    def qom_type(self) -> str:
        """Its type in the object tree."""
        return f"chardev-{self.shown if self.shown in {'null', 'stdio'} else 'socket'}"

    @property
    def frontend_open(self) -> bool:
        """Whether somebody serves whoever is at the other end."""
        return self.taken

    @property
    def filename(self) -> str:
        """What it is, in QEMU's words; of a socket also whether somebody is there."""
        place = self.place
        if place is None:
            return self.shown
        if isinstance(place.address, UnixAddress):
            if not (place.clients or self.connections):
                return f"disconnected:unix:{self.shown},server=on"
            return f"unix:{'' if place.address.abstract else self.shown},server=on"
        name = f"tcp:{_host_port(place.sockets[0].getsockname())},server=on"
        waiting = (peer_of(sock) for sock in self.connections)
        peers = place.clients or [peer for peer in waiting if peer is not None]
        return f"{name} <-> {_host_port(peers[0])}" if peers else f"disconnected:{name}"

    async def serve(self, server: QmpServer, *, pretty: bool, human: bool) -> None:
        """Hand everything to the QMP server, which owns it from now on."""
        for connection in self.connections:
            server.serve(connection, pretty=pretty, human=human, monitor=self.listening)
        self.connections.clear()
        if self.listening is not None:
            self.listening.pretty = pretty
            self.listening.human = human
            server.accept(self.listening)
            self.listening = None
        if self.stdio:
            await server.stdio(pretty=pretty, human=human)

    def close(self) -> None:
        """Close what no monitor has taken."""
        if self.listening is not None:
            self.listening.close()
        for connection in self.connections:
            connection.close()


def parse(text: str) -> dict[str, str]:
    """Return the options in ``text``.

    Raises:
        QmpError: It is malformed; QEMU's words.
        Informed: It asks what there is.
    """
    found = qemuopts.parse(text, "backend", _KNOWN, "chardev")
    if is_help(found.get("backend", "")):
        raise Informed(_TYPES)
    return found


def parse_short(text: str, name: str) -> dict[str, str] | None:
    """Return the options of the device that ``-qmp`` and its like describe: ``unix:q,server=on``.

    Args:
        text: The argument.
        name: The id that the device gets.

    Returns:
        The options; None for a network address without a port.

    Raises:
        QmpError: It is no kind of device that we have, or malformed.
    """
    kind, colon, rest = text.partition(":")
    found = {"id": name, "backend": "socket"}
    if text in {"null", "stdio"}:
        return found | {"backend": text}
    if colon and kind == "unix":
        return found | qemuopts.parse(rest, "path", _KNOWN)
    if colon and kind == "tcp":
        match = _HOST_PORT.match(rest)
        if match is None:
            return None
        found |= {"host": match["host"], "port": match["port"]}
        return found | qemuopts.parse(rest[match.end() :], "host", _KNOWN)
    raise QmpError(f"'{text}' is not a valid char driver")


async def create(options: dict[str, str], report: Callable[[str], None]) -> Chardev:
    """Return the device that options describe.

    Args:
        options: As ``parse`` returns them.
        report: Told what the user may wait for.

    Raises:
        QmpError: It can't be made; QEMU's words.
    """
    if "id" not in options:
        raise QmpError("chardev: no id specified")
    name = options["id"]
    match options.get("backend"):
        case None:
            raise QmpError(f'chardev: "{name}" missing backend')
        case "null":
            return Chardev(name, shown="null")
        case "stdio":
            return Chardev(name, stdio=True, shown="stdio")
        case "socket":
            return await _socket(name, options, report)
        case other:
            raise QmpError(f"'{other}' is not a valid char driver name")


async def _socket(name: str, options: dict[str, str], report: Callable[[str], None]) -> Chardev:
    _check_socket(options)
    for key in options.keys() & _REFUSED:
        if options[key] not in {"off", "no", "false", "n"}:
            raise QmpError(f"chardev: socket: '{key}' is not supported")
    if signed(number_of("reconnect", options.get("reconnect", "0")), 64) > 0:
        raise QmpError("chardev: socket: 'reconnect' is not supported")
    if not switch(options, "server", default=False):
        connection = await _connect(options)
        return Chardev(name, connections=[connection], shown=_client_name(connection))
    wait = switch(options, "wait", default=True)
    address, listening_at = await _listen(options)
    kept = address
    shown = str(address)
    if isinstance(address, UnixAddress) and address.abstract:
        shown += ",abstract=on" + (",tight=on" if address.tight else "")
    elif isinstance(address, UnixAddress):
        # The directory may change before the file is to be removed.
        kept = UnixAddress(absolute(address.path))
    listening = Monitor(kept, listening_at, pretty=False)
    device = Chardev(name, listening=listening, shown=shown)
    if wait:
        # Users know this text, QEMU's name included.
        kind = "unix" if isinstance(address, UnixAddress) else "tcp"
        report(f"info: QEMU waiting for connection on: disconnected:{kind}:{shown},server=on")
        try:
            device.connections.extend(await sockets.first_clients(listening_at))
        except BaseException:
            device.close()
            raise
    return device


def _check_socket(options: Mapping[str, str]) -> None:
    """Refuse options that contradict each other.

    Raises:
        QmpError: QEMU's words.
    """
    if len(options.keys() & {"path", "fd", "host"}) > 1:
        raise QmpError("None or one of 'path', 'fd' or 'host' option required.")
    serves = switch(options, "server", default=False)
    if "reconnect" in options and serves:
        raise QmpError("'reconnect' option is incompatible with socket in server listen mode")
    if "wait" in options and not serves:
        raise QmpError("'wait' option is incompatible with socket in client connect mode")


def _host_port(name: tuple[Any, ...]) -> str:
    """Return an internet address as it is written."""
    host, port = map(str, name[:2])  # of other families they are numbers
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _client_name(connection: socket.socket) -> str:
    """Return what QEMU calls a socket that has connected to somebody."""
    own = connection.getsockname()
    if connection.family == socket.AF_UNIX:
        return f"unix:{own if isinstance(own, str) else ''}"
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return "unknown"
    peer = peer_of(connection)
    return f"tcp:{_host_port(own)}" + (f" <-> {_host_port(peer)}" if peer is not None else "")


def absolute(path: str) -> str:
    """Return the name of a socket file for ever after."""
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError:  # the working directory is gone, and so is all that was in it
        return path


async def _connect(options: dict[str, str]) -> socket.socket:
    if "fd" in options:
        connection = socket.socket(fileno=inherited(options["fd"]))
        connection.setblocking(False)
        return connection
    return await sockets.connect(*_address(options))


async def _listen(options: dict[str, str]) -> tuple[Address, list[socket.socket]]:
    """Return where a device listens, and the sockets that do."""
    if "fd" in options:
        sock = listen_on(inherited(options["fd"]))
        return _address_of(sock), [sock]
    address, family = _address(options)
    if isinstance(address, UnixAddress) and not (address.path or address.abstract):
        address = address._replace(path=invented_path())
    # Of the number QEMU keeps 16 bits.
    to = number_of("to", options["to"]) & 0xFFFF if "to" in options else None
    return address, await sockets.listen(address, family, to=to)


def _address_of(sock: socket.socket) -> Address:
    """Return where a socket listens that somebody else has made."""
    name = sock.getsockname()
    if isinstance(name, bytes):
        return UnixAddress(os.fsdecode(name[1:]), abstract=True)
    return UnixAddress(name) if isinstance(name, str) else TcpAddress(name[0], str(name[1]))


def _address(options: dict[str, str]) -> tuple[Address, socket.AddressFamily]:
    """Return where a device is to be, and what its host may stand for."""
    if "path" in options:
        abstract = switch(options, "abstract", default=False)
        tight = switch(options, "tight", default=True)
        return UnixAddress(options["path"], abstract, tight), socket.AF_UNSPEC
    if "host" in options:
        if "port" not in options:
            raise QmpError("chardev: socket: no port given")
        family = family_of(
            **{
                key: switch(options, key, default=True) if key in options else None
                for key in ("ipv4", "ipv6")
            }
        )
        return TcpAddress(options["host"], options["port"]), family
    raise QmpError("chardev: socket: neither path nor host and port given")
