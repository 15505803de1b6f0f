"""A device and the buses: who sits where, under which name, with which disk."""

from typing import Any, Final

from qmpfleece.base.units import SECTOR
from qmpfleece.block.backend import Backend
from qmpfleece.control.devices.models import UNSET, DeviceModel

#: Where devices with an id are in QEMU's object tree, and those without.
PERIPHERAL: Final = "/machine/peripheral"
ANONYMOUS: Final = "/machine/peripheral-anon"


class Bus:
    """Where devices sit.

    Attributes:
        name: What ``bus`` of device_add says.
        kind: Which devices can sit here: ``PCI``, ``SCSI``.
        path: Where it is in the object tree.
        hotplug: Whether devices may come and go while the machine runs.
        guest_agrees: Whether devices only go when the guest has let them go.
        devices: Who sits here, the newest first.
    """

    __slots__ = ("devices", "guest_agrees", "hotplug", "kind", "name", "path")

    def __init__(
        self, name: str, kind: str, path: str, *, hotplug: bool = True, guest_agrees: bool = False
    ) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.path: Final = path
        self.hotplug: Final = hotplug
        self.guest_agrees: Final = guest_agrees
        self.devices: list[Device] = []


class Device:
    """A device of the machine.

    Attributes:
        model: What it is.
        id: What the user calls it, None for an anonymous one.
        path: Where it is in the object tree.
        values: The properties that were given, and those that were chosen: ``scsi-id``.
        bus: Where it sits.
        offers: The bus that it has itself.
        backend: Its handle on a disk; may be empty. None if it is no disk.
        hotplugged: It came while the machine was running.
        tray_open: Its tray is out, so that the medium can be changed.
        unplugging: Its removal waits for the guest.
    """

    __slots__ = (
        "backend",
        "bus",
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
        self.offers: Bus | None = None
        self.backend: Backend | None = None
        self.hotplugged = False
        self.tray_open = False
        self.unplugging = False

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

    def place(self) -> str | None:
        """Choose the address on a SCSI bus that was not given; return what is wrong with it.

        Source: what QEMU 7.2 says; the limits are those of virtio-scsi.
        """
        channel, target, unit = self.address
        if channel > 0:
            return f"bad scsi channel id: {channel}"
        if target != UNSET and target > _LAST_TARGET:
            return f"bad scsi device id: {target}"
        if unit != UNSET and unit > _LAST_UNIT:
            return f"bad scsi device lun: {unit}"
        taken = {other.address[1:]: other for other in self.bus.devices}
        if target == UNSET:
            unit = 0 if unit == UNSET else unit
            free = (n for n in range(_LAST_TARGET + 1) if (n, unit) not in taken)
            target = next(free, UNSET)
            if target == UNSET:
                return "no free target"
        elif unit == UNSET:
            unit = next(n for n in range(_LAST_UNIT + 1) if (target, n) not in taken)
        elif (holder := taken.get((target, unit))) is not None:
            return f"lun already used by '{holder.id or ''}'"
        self.values |= {"scsi-id": target, "lun": unit}
        return None


_LAST_TARGET: Final = 255
_LAST_UNIT: Final = 16383
