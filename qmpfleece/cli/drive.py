"""``-drive`` and its shorter forms: a named backend on a node, and what is to be plugged in.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2. Differs: I/O limits of drives and
copy-on-read are refused; the write cache is always on; flash memory is a backend that no device
holds.
"""

import os
import secrets
import string
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.creating import CREATE_MODELS
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Perm
from qmpfleece.cli import keyval
from qmpfleece.cli.drive_node import define, remember, texts_of, with_template
from qmpfleece.cli.qemu_board import number
from qmpfleece.cli.qemuopts import switch
from qmpfleece.cli.scan import Option
from qmpfleece.cli.start import OptionError
from qmpfleece.control import images
from qmpfleece.control.devices.board import MACHINES
from qmpfleece.control.system import System
from qmpfleece.qapi.blockdev import BlockdevOptions, validate_blockdev

#: Kinds of drives with how many fit on a bus, 0 for any number.
_UNITS: Final = {
    "none": 0, "ide": 2, "scsi": 7, "floppy": 0, "pflash": 0, "mtd": 0, "sd": 0, "virtio": 0,
    "xen": 0,
}  # fmt: skip
#: How many nodes QEMU makes, and drops, to create an image.
_NODES_OF_CREATION: Final = 3
#: How many disks the IDE buses have, all together.
_IDE_DISKS: Final = {"pc": 4, "q35": 6}
_FLOPPIES: Final = 2
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
_SWITCHED_OFF: Final = frozenset({"off", "no", "false", "n", "0"})
_RATES: Final = ("throttling.bps-", "throttling.iops-", "bps", "iops")
_RATE_NAMES: Final = {
    f"{unit}{kind}": f"throttling.{unit}-{name}"
    for unit in ("bps", "iops")
    for kind, name in (("", "total"), ("_rd", "read"), ("_wr", "write"))
}
#: What is counted; there are no guests whose requests could be.
_ACCOUNTING: Final = ("stats-account-invalid", "stats-account-failed")
_LETTERS: Final = string.ascii_letters + string.digits
#: The options that are a node's and do not ask for one by themselves.
_EMPTY: Final = frozenset({"read-only", "detect-zeroes", "cache.writeback"})


@dataclass
class Drives:
    """Makes the drives of a command line.

    Attributes:
        system: Where they go.
        machine: The kind of machine.
        snapshot: Write to temporary files, unless a drive says otherwise.
        devices: What is to be plugged in for them: the arguments of device_add.
        disks: The disks that the machine makes for them, see ``Devices.set_machine``.
    """

    system: System
    machine: str
    snapshot: bool
    devices: list[tuple[Option, dict[str, Any]]] = field(default_factory=list)
    disks: dict[str, list[tuple[str, int, dict[str, str]]]] = field(default_factory=dict)
    _places: set[tuple[str, int, int]] = field(default_factory=set)
    _homeless: list[tuple[Option, str]] = field(default_factory=list)

    async def make(self, given: dict[str, str], option: Option | None) -> None:
        """Make a drive.

        Args:
            given: Its options.
            option: Where they come from, None if nobody has asked for it.

        Raises:
            QmpError: It can't be made; nothing of it is left.
        """
        node_options = _without_aliases(given)
        kind = node_options.pop("if", "none" if self.machine == "none" else "ide")
        if kind not in _UNITS:
            raise QmpError(f"unsupported bus type '{kind}'")
        media = node_options.pop("media", "disk")
        if media not in {"disk", "cdrom"}:
            raise QmpError(f"'{media}' invalid media")
        _check_errors(node_options)
        if media == "cdrom":
            switch(node_options, "read-only", default=True)
            node_options["read-only"] = "on"  # whatever was said
        name = node_options.pop("id", None)
        place = self._place(kind, node_options)
        name = name or self._default_name(kind, place, media)
        snapshot = switch(node_options, "snapshot", default=self.snapshot)
        node_options.pop("snapshot", None)
        await self._open(name, node_options, snapshot=snapshot)
        self._find_home(kind, place, "ide-cd" if media == "cdrom" else "ide-hd", name, option)

    def taken(self, given: dict[str, str]) -> bool:
        """Tell whether there is a drive in the place that options with an index name."""
        kind, most = given["if"], self._units(given["if"])
        index = int(given["index"])
        return (kind, *(divmod(index, most) if most else (0, index))) in self._places

    def check_homes(self) -> None:
        """Refuse drives that the machine has no place for.

        Raises:
            OptionError: There are some.
        """
        if self._homeless:
            raise OptionError(*(f"{option.where}: {text}" for option, text in self._homeless))

    def _find_home(
        self, kind: str, place: tuple[int, int], ide: str, name: str, option: Option | None
    ) -> None:
        bus, unit = place
        machine = MACHINES[self.machine]
        inner = {"drive": name, "unit": str(unit)}
        if kind == "virtio" and option is not None:
            self.devices.append((option, {"driver": "virtio-blk-pci", "drive": name}))
        elif kind == "ide" and bus * machine.units < _IDE_DISKS.get(self.machine, 0):
            self.disks.setdefault("IDE", []).append((ide, bus, inner))
        elif kind == "floppy" and machine.root is not None and unit < _FLOPPIES:
            self.disks.setdefault("floppy-bus", []).append(("floppy", 0, inner))
        elif kind not in {"none", "pflash"} and option is not None:
            text = f"machine type does not support if={kind},bus={bus},unit={unit}"
            self._homeless.append((option, text))
        for found in self.disks.values():
            found.sort(key=lambda disk: (disk[1], int(disk[2]["unit"])))

    def _units(self, kind: str) -> int:
        return MACHINES[self.machine].units or 2 if kind == "ide" else _UNITS[kind]

    def _default_name(self, kind: str, place: tuple[int, int], media: str) -> str:
        bus, unit = place
        suffix = {"disk": "-hd", "cdrom": "-cd"}[media] if kind in {"ide", "scsi"} else ""
        return f"{kind}{bus}{suffix}{unit}" if self._units(kind) else f"{kind}{suffix}{unit}"

    def _place(self, kind: str, options: dict[str, str]) -> tuple[int, int]:
        """Choose the bus and the unit of a drive."""
        most = self._units(kind)
        index, bus, unit = (number(options, key) for key in ("index", "bus", "unit"))
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
            read_only = switch(options, "read-only", default=False)
            given = BlockdevOptions(
                driver="raw", read_only=read_only, detect_zeroes=_zeroes(options)
            )
            backend.last = NodeOptions(given)  # for the first medium
            backend.last.aio = aio
            self.system.drives.add(backend)
            return
        backend.perm = Perm.CONSISTENT_READ
        options.setdefault("auto-read-only", "on")
        switch(options, "cache.writeback", default=True)
        options.pop("cache.writeback", None)
        zeroes = _zeroes(options)
        if (discard := options.get("discard")) is not None:
            if discard not in _DISCARD:
                raise QmpError("Invalid discard option")
            options["discard"] = _DISCARD[discard]
        if snapshot:
            node = await self._open_snapshot(options, filename, aio)
        else:
            node = await self._open_node(options, filename, aio)
        remember(node, {} if snapshot else texts_of(filename))
        remember(node, {} if snapshot else keyval.tree_of(with_template(options).items()))
        # Not checked against ``discard``, as it would be for a node.
        node.options.detect_zeroes = zeroes
        node.options.aio = aio
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
        read_only = switch(options, "read-only", default=False)
        base = await self._open_node(options | {"read-only": "on"}, filename, aio)
        remember(base, keyval.tree_of(with_template(options).items()))
        try:
            temporary = _temporary_file()
            file = {"driver": "file", "filename": temporary}
            try:
                image = {"driver": "qcow2", "file": validate_blockdev(file), "size": base.length}
                with graph.names_unused():
                    await CREATE_MODELS["qcow2"].model_validate(image).create(graph)
                graph.use_up_names(_NODES_OF_CREATION)
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
    for key in _ACCOUNTING:
        switch(options, key, default=True)
        options.pop(key, None)
    for key, value in options.items():
        if not key.startswith(_REFUSED):
            continue
        if key == "copy-on-read":
            switch(options, key, default=False)
        elif key.startswith(_RATES) and not value.isdecimal():
            name = _RATE_NAMES.get(key, key)
            raise QmpError(f"Parameter '{name}' expects a number")
        if value not in _SWITCHED_OFF:
            raise QmpError(f"'{key}' is not supported")
    return {key: value for key, value in options.items() if not key.startswith(_REFUSED)}


def _check_errors(options: dict[str, str]) -> None:
    """Take what is to be done on errors out of the options; there is no guest to see them."""
    for key, what in (("werror", "write"), ("rerror", "read")):
        action = options.pop(key, "report")
        if action not in _ON_ERROR or (what == "read" and action == "enospc"):
            raise QmpError(f"'{action}' invalid {what} error action")


def _zeroes(options: dict[str, str]) -> Literal["off", "on", "unmap"]:
    """Take ``detect-zeroes`` out of the options.

    Raises:
        QmpError: There is no such value.
    """
    match options.pop("detect-zeroes", "off"):
        case "off" | "on" | "unmap" as value:
            return value
        case value:
            raise QmpError(f"invalid parameter value: {value}")


def _split_cache(options: dict[str, str]) -> None:
    """Turn ``cache`` into the options that it stands for; those that are given win."""
    mode = options.pop("cache", None)
    if mode is None:
        return
    if mode not in _CACHE:
        raise QmpError("invalid cache option")
    for key, value in zip(_CACHE_KEYS, _CACHE[mode], strict=True):
        options.setdefault(key, value)


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
