"""A disk being fleeced: the daemon, its graph and exports, and the temporary image.

::

    guest (NBD, writable)           snapshot (NBD, read-only)
          |                                |
       fl-cbw  <------------------------ fl-access
        |   |
      disk temp
"""

import contextlib
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.copy_before_write import CopyBeforeWrite
from qmpfleece.cli import ending
from qmpfleece.cli.ending import Failure
from qmpfleece.daemon import Daemon
from qmpfleece.nbdclient.uri import NbdUri
from qmpfleece.qmp.sockets import UnixAddress

#: After this many seconds a temporary image is too slow for a guest to wait for it; guests give up
#: on a disk after 30.
SLOW_S: Final = 15


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to fleece, and how.

    Attributes:
        disk: The disk.
        format: Its format, a block driver's name.
        temp: Takes what the guest overwrites; None for a file of our own beside the disk.
        nbd: ``unix:PATH`` or ``HOST:PORT``; None for a socket in a directory of our own.
        qmp: The monitor's socket; None for one beside NBD's.
        on_error: Who suffers when saving old data fails.
        timeout_s: When saving old data counts as failed, in seconds, 0 for never. None for what
            keeps the guest from harm: ``SLOW_S`` if the snapshot is to suffer, else never.
    """

    disk: Path
    format: str = "raw"
    temp: Path | None = None
    nbd: str | None = None
    qmp: Path | None = None
    on_error: str = "break-snapshot"
    timeout_s: int | None = None

    @property
    def cbw_timeout_s(self) -> int:
        """``cbw-timeout`` of the filter, in seconds."""
        if self.timeout_s is not None:
            return self.timeout_s
        return SLOW_S if self.on_error == "break-snapshot" else 0


@dataclass(frozen=True, slots=True)
class Status:
    """How a fleecing goes.

    Attributes:
        copied: Clusters saved so far, in bytes.
        temp_used: Space that the temporary image takes, in bytes.
        clients: NBD connections.
        broken: Why the snapshot can't be read any more, None while it can.
    """

    copied: int
    temp_used: int
    clients: int
    broken: str | None


class Fleece:
    """A context in which a disk is fleeced; it cleans up after itself.

    Args:
        settings: What to fleece, and how.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings: Final = settings
        self._stack: Final = contextlib.AsyncExitStack()
        self.daemon: Final = Daemon()
        self.size = 0
        self.uri = ""
        self.guest_uri = ""
        self.qmp_path = Path()

    async def __aenter__(self) -> Self:
        _check_disk(self._settings.disk)
        async with contextlib.AsyncExitStack() as stack:
            temp = self._open_temp(stack)
            sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpfleece-")))
            await stack.enter_async_context(self.daemon)
            address, server = _nbd_address(self._settings.nbd, sockets / "nbd.sock")
            _check_unheard(server.path)
            try:
                await self._build(temp)
                self._watch(temp, stack)
                await self._export(address)
            except QmpError as error:
                raise Failure(_lock_error(self._settings, error.desc)) from error
            self.qmp_path = self._settings.qmp or sockets / "qmp.sock"
            _check_unheard(str(self.qmp_path))
            await self.daemon.qmp.listen(UnixAddress(str(self.qmp_path)))
            self.guest_uri = str(_named(server, "guest"))
            self.uri = str(_named(server, "snapshot"))
            self._stack.push_async_exit(stack.pop_all())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def status(self) -> Status:
        """Return how it goes. No I/O but a look at the temporary file's size.

        Over QMP anybody may have stopped the NBD server.
        """
        exports = self.daemon.system.exports
        return Status(
            copied=self._done.count,
            temp_used=os.fstat(self._temp).st_blocks * 512,
            clients=exports.nbd.connections if exports.nbd_running else 0,
            broken=self._filter.snapshot.broken_because,
        )

    # -- building -----------------------------------------------------------------------------

    def _open_temp(self, stack: contextlib.AsyncExitStack) -> Path:
        """Return the temporary file; one that we make is removed at the end.

        Raises:
            Failure: It can't be made, or holds data.
        """
        path, disk = self._settings.temp, self._settings.disk
        try:
            if path is None:
                beside = disk.parent if _is_regular(disk) else Path(tempfile.gettempdir())
                descriptor, name = tempfile.mkstemp(".temp", f".{disk.name}.", beside)
                path = Path(name)
            elif path.exists():
                if path.is_dir():
                    raise Failure(f"cannot write '{path}': it is a directory")
                if _holds_data(path):
                    raise Failure(f"'{path}' holds data already; give a new or an empty file")
                return path
            else:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError as error:
            raise Failure(f"cannot make a temporary file: {ending.words(error)}") from error
        os.close(descriptor)
        stack.callback(path.unlink, missing_ok=True)
        return path

    async def _build(self, temp: Path) -> None:
        settings = self._settings
        add = self.daemon.execute
        file = {"driver": _protocol(settings.disk), "filename": str(settings.disk)}
        common = {"discard": "unmap"}
        try:
            await add(
                "blockdev-add",
                common | {"driver": settings.format, "node-name": "disk", "file": file | common},
            )
        except QmpError as error:
            raise Failure(_open_error(settings.disk, error.desc)) from error
        self.size = self.daemon.system.graph.find("disk").length
        _lengthen(temp, self.size)
        await add(
            "blockdev-add",
            common | {"driver": _protocol(temp), "node-name": "temp", "filename": str(temp)},
        )
        await add(
            "blockdev-add",
            common
            | {
                "driver": "copy-before-write",
                "node-name": "fl-cbw",
                "file": "disk",
                "target": "temp",
                "on-cbw-error": settings.on_error,
                "cbw-timeout": settings.cbw_timeout_s,
            },
        )
        await add(
            "blockdev-add",
            common | {"driver": "snapshot-access", "node-name": "fl-access", "file": "fl-cbw"},
        )

    def _watch(self, temp: Path, stack: contextlib.AsyncExitStack) -> None:
        """Hold on to what the status is read from.

        Names would not do: over QMP anybody may delete the node or give it more bitmaps, and the
        file may lose its name, while the guest goes on.
        """
        node = self.daemon.system.graph.find("fl-cbw")
        assert isinstance(node.driver, CopyBeforeWrite)
        self._filter = node.driver
        _, self._done = node.bitmaps
        self._temp = os.open(temp, os.O_PATH)
        stack.callback(os.close, self._temp)

    async def _export(self, address: dict[str, Any]) -> None:
        add = self.daemon.execute
        await add("nbd-server-start", {"addr": address})
        for name, node, writable in (
            ("guest", "fl-cbw", True),
            ("snapshot", "fl-access", False),
        ):
            await add(
                "block-export-add",
                {"type": "nbd", "id": name, "name": name, "node-name": node, "writable": writable},
            )


def _check_disk(path: Path) -> None:
    """Say early what is wrong with a disk.

    Raises:
        Failure: It is not there, or is a directory.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise Failure(f"cannot open '{path}': {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise Failure(f"cannot open '{path}': it is a directory")


def _check_unheard(path: str) -> None:
    """Leave other servers alone: listening would take their socket away, as QEMU's does.

    Raises:
        Failure: Somebody listens at the unix socket.
    """
    if not path:
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            pass  # it has no time for us
        except OSError:
            return
    raise Failure(f"another server listens at '{path}'")


def _open_error(path: Path, desc: str) -> str:
    """Return why a disk can't be opened, with its name, which not all of QEMU's texts have."""
    return desc if str(path) in desc else f"cannot open '{path}': {desc}"


def _lock_error(settings: Settings, desc: str) -> str:
    """Return why the files can't be written to, with what QEMU's texts leave out."""
    if not desc.endswith(" lock"):
        return desc
    files = f"'{settings.disk}'" + (f" or '{settings.temp}'" if settings.temp else "")
    return f"{desc}; is another process using {files}?"


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode)


def _holds_data(path: Path) -> bool:
    """Tell whether anything would be lost. Devices are taken for empty: they can't tell."""
    if not _is_regular(path):
        return False
    if path.stat().st_blocks:
        return True
    # Some file systems, of FUSE for one, tell of no blocks.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _lengthen(path: Path, size: int) -> None:
    """Make a file at least ``size`` bytes long, sparse."""
    if _is_regular(path) and path.stat().st_size < size:
        os.truncate(path, size)


def _protocol(path: Path) -> str:
    """Return the driver that opens a path."""
    with contextlib.suppress(OSError):
        if stat.S_ISBLK(path.stat().st_mode):
            return "host_device"
    return "file"


def _nbd_address(text: str | None, default: Path) -> tuple[dict[str, Any], NbdUri]:
    """Return where to listen, as nbd-server-start takes it, and as clients see it.

    Raises:
        Failure: It is no address.
    """
    if text is None or (text.startswith("unix:") and text != "unix:"):
        path = str(default if text is None else Path(text.removeprefix("unix:")).absolute())
        return {"type": "unix", "data": {"path": path}}, NbdUri(path=path)
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise Failure(f"--nbd takes unix:PATH, HOST:PORT or [ADDRESS]:PORT, not '{text}'", 2)
    data = {"host": host, "port": port}
    return {"type": "inet", "data": data}, NbdUri(host=host, port=int(port))


def _named(server: NbdUri, name: str) -> NbdUri:
    return NbdUri(name, path=server.path, host=server.host, port=server.port)
