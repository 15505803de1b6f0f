"""``-drive`` and its shorter forms: a named backend on a node, and what is to be plugged in.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2. Differs: there are no IDE and
floppy controllers, so that drives of these kinds are backends that no device holds; I/O limits
of drives and copy-on-read are refused; the write cache is always on.
"""

import os
import secrets
import string
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.creating import CREATE_MODELS
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.cli.drive_node import define
from qmpfleece.cli.qemuopts import switch
from qmpfleece.control import images
from qmpfleece.control.system import System
from qmpfleece.qapi.blockdev import validate_blockdev

#: Kinds of drives with how many fit on a bus, 0 for any number.
_UNITS: Final = {
    "none": 0, "ide": 2, "scsi": 7, "floppy": 0, "pflash": 0, "mtd": 0, "sd": 0, "virtio": 0,
    "xen": 0,
}  # fmt: skip
#: Those that no machine of ours has a place for.
_HOMELESS: Final = ("scsi", "mtd", "sd", "xen")
_CACHE: Final = {
    # writeback, direct, no-flush
    "none": ("on", "on", "off"),
    "off": ("on", "on", "off"),
    "writeback": ("on", "off", "off"),
    "unsafe": ("on", "off", "on"),
    "directsync": ("off", "on", "off"),
    "writethrough": ("off", "off", "off"),
}
_CACHE_KEYS: Final = ("cache.writeback", "cache.direct", "cache.no-flush")
_DISCARD: Final = {"ignore": "ignore", "off": "ignore", "unmap": "unmap", "on": "unmap"}
_ON_ERROR: Final = ("report", "ignore", "enospc", "stop")
_ALIASES: Final = {"readonly": "read-only", "format": "driver"}
_REFUSED: Final = ("throttling.", "copy-on-read", "group", "bps", "iops")
_LETTERS: Final = string.ascii_letters + string.digits
#: The options that are a node's and do not ask for one by themselves.
_EMPTY: Final = frozenset({"read-only", "discard", "detect-zeroes", *_CACHE_KEYS})


class Drive(NamedTuple):
    """A drive that has been made.

    Attributes:
        name: Its backend's.
        device: What is to be plugged in for it: the arguments of device_add.
    """

    name: str
    device: dict[str, str] | None


@dataclass
class Drives:
    """Makes the drives of a command line.

    Attributes:
        system: Where they go.
        kind: What a drive is that doesn't say.
        snapshot: Write to temporary files, unless a drive says otherwise.
    """

    system: System
    kind: str
    snapshot: bool
    _places: set[tuple[str, int, int]] = field(default_factory=set)

    async def make(self, given: dict[str, str]) -> Drive:
        """Make a drive.

        Args:
            given: Its options.

        Raises:
            QmpError: It can't be made; nothing of it is left.
        """
        node_options = _without_aliases(given)
        kind = node_options.pop("if", self.kind)
        if kind not in _UNITS:
            raise QmpError(f"unsupported bus type '{kind}'")
        media = node_options.pop("media", "disk")
        if media not in {"disk", "cdrom"}:
            raise QmpError(f"'{media}' invalid media")
        _check_errors(node_options)
        if media == "cdrom":
            node_options.setdefault("read-only", "on")
        name = node_options.pop("id", None)
        place = self._place(kind, node_options)
        if kind in _HOMELESS:
            raise QmpError(
                f"machine type does not support if={kind},bus={place[0]},unit={place[1]}"
            )
        name = name or _default_name(kind, place, media)
        snapshot = switch(node_options, "snapshot", default=self.snapshot)
        node_options.pop("snapshot", None)
        await self._open(name, node_options, snapshot=snapshot)
        device = {"driver": "virtio-blk-pci", "drive": name} if kind == "virtio" else None
        return Drive(name, device)

    def _place(self, kind: str, options: dict[str, str]) -> tuple[int, int]:
        """Choose the bus and the unit of a drive."""
        most = _UNITS[kind]
        index, bus, unit = (_number(options, key) for key in ("index", "bus", "unit"))
        if index is not None:
            if bus or unit is not None:
                raise QmpError("index cannot be used with bus and unit")
            bus, unit = divmod(index, most) if most else (0, index)
        bus = bus or 0
        if unit is None:
            unit = 0
            while (kind, bus, unit) in self._places:
                bus, unit = divmod(bus * most + unit + 1, most) if most else (bus, unit + 1)
        if most and unit >= most:
            raise QmpError(f"unit {unit} too big (max is {most - 1})")
        if (kind, bus, unit) in self._places:
            index = bus * most + unit if most else unit
            raise QmpError(f"drive with bus={bus}, unit={unit} (index={index}) exists")
        self._places.add((kind, bus, unit))
        return bus, unit

    async def _open(self, name: str, options: dict[str, str], *, snapshot: bool) -> None:
        _split_cache(options)
        filename = options.pop("file", "") or None
        aio = options.pop("aio", None)
        if aio not in {None, "threads", "native", "io_uring"}:
            raise QmpError("invalid aio option")
        backend = Backend(self.system.graph, name, perm=Perm.NONE)
        if filename is None and _EMPTY.issuperset(options):
            self.system.drives.add(backend)
            return
        backend.perm = Perm.CONSISTENT_READ
        switch(options, "cache.writeback", default=True)
        options.pop("cache.writeback", None)
        zeroes = options.get("detect-zeroes", "off")
        if zeroes not in {"off", "on", "unmap"}:
            raise QmpError(f"invalid parameter value: {zeroes}")
        if (discard := options.get("discard")) is not None:
            if discard not in _DISCARD:
                raise QmpError("Invalid discard option")
            options["discard"] = _DISCARD[discard]
        if snapshot:
            node = await self._open_snapshot(options, filename, aio)
        else:
            node = await self._open_node(options, filename, aio)
        try:
            backend.attach(node)
            self.system.drives.add(backend)
        except BaseException:
            await backend.detach()
            await self.system.graph.release(node)
            raise

    async def _open_node(
        self, options: dict[str, str], filename: str | None, aio: str | None
    ) -> Node:
        graph = self.system.graph
        definition, probed = await define(graph, options, filename, aio)
        return await (images.open_probed(graph, definition) if probed else graph.open(definition))

    async def _open_snapshot(
        self, options: dict[str, str], filename: str | None, aio: str | None
    ) -> Node:
        """Open a temporary image over the drive's node; its file has no name any more."""
        graph = self.system.graph
        read_only = options.get("read-only") == "on"
        base = await self._open_node(options | {"read-only": "on"}, filename, aio)
        try:
            temporary = _temporary_file()
            file = {"driver": "file", "filename": temporary}
            try:
                image = {"driver": "qcow2", "file": validate_blockdev(file), "size": base.length}
                await CREATE_MODELS["qcow2"].model_validate(image).create(graph)
                overlay: dict[str, Any] = {"driver": "qcow2", "file": file, "backing": base.name}
                overlay |= {"cache": {"no-flush": True}, "read-only": read_only}
                return await graph.open(validate_blockdev(overlay))
            finally:
                os.unlink(temporary)
        finally:
            await graph.release(base)


def _without_aliases(given: dict[str, str]) -> dict[str, str]:
    """Return the options by their proper names.

    Raises:
        QmpError: One is given by both names, or is not supported.
    """
    options = dict(given)
    for alias, name in _ALIASES.items():
        if alias not in options:
            continue
        if name in options:
            raise QmpError(
                "Cannot specify both 'driver' and 'format'"
                if name == "driver"
                else f"'{name}' and its alias '{alias}' can't be used at the same time"
            )
        options[name] = options.pop(alias)
    for key, value in options.items():
        if key.startswith(_REFUSED) and value not in {"off", "0"}:
            raise QmpError(f"'{key}' is not supported")
    return {key: value for key, value in options.items() if not key.startswith(_REFUSED)}


def _check_errors(options: dict[str, str]) -> None:
    """Take what is to be done on errors out of the options; there is no guest to see them."""
    for key, what in (("werror", "write"), ("rerror", "read")):
        action = options.pop(key, "report")
        if action not in _ON_ERROR or (what == "read" and action == "enospc"):
            raise QmpError(f"'{action}' invalid {what} error action")


def _split_cache(options: dict[str, str]) -> None:
    """Turn ``cache`` into the options that it stands for; those that are given win."""
    mode = options.pop("cache", None)
    if mode is None:
        return
    if mode not in _CACHE:
        raise QmpError("invalid cache option")
    for key, value in zip(_CACHE_KEYS, _CACHE[mode], strict=True):
        options.setdefault(key, value)


def _number(options: dict[str, str], key: str) -> int | None:
    text = options.pop(key, None)
    if text is None:
        return None
    if not text.isdecimal():
        raise QmpError(f"Parameter '{key}' expects a number")
    return int(text)


def _default_name(kind: str, place: tuple[int, int], media: str) -> str:
    bus, unit = place
    suffix = {"disk": "-hd", "cdrom": "-cd"}[media] if kind in {"ide", "scsi"} else ""
    return f"{kind}{bus}{suffix}{unit}" if _UNITS[kind] else f"{kind}{suffix}{unit}"


def _temporary_file() -> str:
    """Make an empty file where QEMU would, called as QEMU would call it."""
    folder = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - made in one step, or not at all
    while True:
        name = f"{folder}/vl.{''.join(secrets.choice(_LETTERS) for _ in range(6))}"
        try:
            os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        except OSError as error:
            raise QmpError(f"Could not open temporary file '{name}': {error.strerror}") from error
        return name
