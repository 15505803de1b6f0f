"""A device: where it sits, under which name, with which disk."""

from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR
from qmpfleece.block.backend import Backend
from qmpfleece.control.devices.busses import Bus
from qmpfleece.control.devices.models import UNSET, DeviceModel

#: Where devices with an id are in QEMU's object tree, and those without.
PERIPHERAL: Final = "/machine/peripheral"
ANONYMOUS: Final = "/machine/peripheral-anon"


class Device:
    """A device of the machine.

    Attributes:
        model: What it is.
        id: What the user calls it, None for an anonymous one.
        path: Where it is in the object tree.
        values: The properties that were given, and those that were chosen: ``scsi-id``.
        bus: Where it sits.
        busses: The buses that it has itself; that of a virtio device is full.
        offers: The bus that the device inside it has.
        backend: Its handle on a disk; may be empty. None if it is no disk.
        hotplugged: It came while the machine was running.
        tray_open: Its tray is out, so that the medium can be changed.
        unplugging: Its removal waits for the guest.
    """

    __slots__ = (
        "backend",
        "bus",
        "busses",
        "hotplugged",
        "id",
        "model",
        "offers",
        "path",
        "tray_open",
        "unplugging",
        "values",
    )

    def __init__(self, model: DeviceModel, ident: str | None, path: str, bus: Bus) -> None:
        self.model: Final = model
        self.id: Final = ident
        self.path: Final = path
        self.bus: Final = bus
        self.values: dict[str, Any] = {}
        self.busses: list[Bus] = []
        self.offers: Bus | None = None
        self.backend: Backend | None = None
        self.hotplugged = False
        self.tray_open = False
        self.unplugging = False

    @property
    def typename(self) -> str:
        """Its QOM type."""
        return self.model.name

    @property
    def slot(self) -> int:
        """Its place on a PCI bus, ``slot * 8 + function``; -1 elsewhere."""
        return int(self.value("addr")) if self.model.bus == "PCI" else -1

    @property
    def multifunction(self) -> bool:
        """Whether its PCI slot may hold others."""
        return self.model.bus == "PCI" and bool(self.value("multifunction"))

    @property
    def inner_path(self) -> str:
        """Where the device is that has the backend."""
        return f"{self.path}/virtio-backend" if self.model.inner else self.path

    @property
    def name(self) -> str:
        """What messages and query-block call the disk: the id, or the path."""
        return self.inner_path if self.model.inner else self.id or self.path

    def value(self, name: str) -> Any:
        """Return a property's value, the default if it was not given."""
        if name in self.values:
            return self.values[name]
        return self.model.by_name[name].default

    def shown(self, name: str) -> Any:
        """Return what qom-get says of a property: as it works out, where QEMU says so."""
        value = self.value(name)
        if value is None:
            return -1 if name == "bootindex" else ""
        if name in {"logical_block_size", "physical_block_size"}:
            return value or SECTOR
        return value

    @property
    def address(self) -> tuple[int, int, int]:
        """Channel, target and unit on a SCSI bus; UNSET where nothing was chosen yet."""
        return self.value("channel"), self.value("scsi-id"), self.value("lun")

    def place(self) -> None:
        """Choose the address on a SCSI bus that was not given.

        Source: what QEMU 7.2 says; the limits are those of virtio-scsi.

        Raises:
            QmpError: It is out of range, or taken.
        """
        channel, target, unit = self.address
        if channel > 0:
            raise QmpError(f"bad scsi channel id: {channel}")
        if target != UNSET and target > _LAST_TARGET:
            raise QmpError(f"bad scsi device id: {target}")
        if unit != UNSET and unit > _LAST_UNIT:
            raise QmpError(f"bad scsi device lun: {unit}")
        sitting = [other for other in self.bus.sitting if isinstance(other, Device)]
        taken = {other.address[1:]: other for other in sitting}
        if target == UNSET:
            unit = 0 if unit == UNSET else unit
            free = (n for n in range(_LAST_TARGET + 1) if (n, unit) not in taken)
            target = next(free, UNSET)
            if target == UNSET:
                raise QmpError("no free target")
        elif unit == UNSET:
            unit = next(n for n in range(_LAST_UNIT + 1) if (target, n) not in taken)
        elif (holder := taken.get((target, unit))) is not None:
            raise QmpError(f"lun already used by '{holder.id or ''}'")
        self.values |= {"scsi-id": target, "lun": unit}

    def place_unit(self) -> None:
        """Choose the unit on a bus of a few numbered ones that was not given.

        Raises:
            QmpError: It is out of range, or taken.
        """
        units, ide = self.bus.units, self.model.bus == "IDE"
        taken = {other.value("unit") for other in self.bus.sitting if isinstance(other, Device)}
        unit = self.value("unit")
        if unit == UNSET:
            # An IDE bus looks at the first one only.
            unit = int(0 in taken) if ide else next(n for n in range(units + 1) if n not in taken)
        if unit >= units:
            kind = "IDE" if ide else "floppy"
            raise QmpError(f"Can't create {kind} unit {unit}, bus supports only {units} units")
        if unit in taken:
            raise QmpError(f"{'IDE' if ide else 'Floppy'} unit {unit} is in use")
        self.values["unit"] = unit


_LAST_TARGET: Final = 255
_LAST_UNIT: Final = 16383
