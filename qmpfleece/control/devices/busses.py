"""Buses and what sits on them, found by name, by kind, or by a path from bus to device to bus.

::

    main-system-bus - i440FX-pcihost - pci.0 - PIIX3 - isa.0 - isa-fdc - floppy-bus.0
                                             - piix3-ide - ide.0, ide.1
                                             - virtio-scsi-pci - virtio-bus
                                                 - virtio-scsi-device - scsi0.0 - scsi-hd

Source: QEMU's ``qbus_find``, observed on 7.2.
"""

from typing import Final, Protocol

from qmpfleece.base.errors import ErrorClass, QmpError


class Sitting(Protocol):
    """Whatever sits on a bus.

    Attributes:
        id: What the user calls it, None for an anonymous one.
        typename: Its QOM type.
        busses: The buses that it has, the newest first.
        slot: Its place on a PCI bus, ``slot * 8 + function``; -1 elsewhere.
        multifunction: Its slot may hold others.
    """

    @property
    def id(self) -> str | None: ...  # noqa: D102 - said above
    @property
    def typename(self) -> str: ...  # noqa: D102 - said above
    @property
    def busses(self) -> "list[Bus]": ...  # noqa: D102 - said above
    @property
    def slot(self) -> int: ...  # noqa: D102 - said above
    @property
    def multifunction(self) -> bool: ...  # noqa: D102 - said above


class Bus:
    """Where devices sit.

    Attributes:
        name: What ``bus`` of device_add says.
        kind: What messages call it.
        path: Where it is in the object tree.
        hotplug: Whether devices may come and go while the machine runs.
        guest_agrees: Whether devices only go when the guest has let them go.
        full: It takes nobody any more.
        units: How many can sit here, 0 if that is not counted.
        sitting: Who sits here, the newest first.
    """

    __slots__ = ("full", "guest_agrees", "hotplug", "kind", "name", "path", "sitting", "units")

    def __init__(
        self,
        name: str,
        kind: str,
        path: str,
        *,
        hotplug: bool = True,
        guest_agrees: bool = False,
        full: bool = False,
        units: int = 0,
    ) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.path: Final = path
        self.hotplug: Final = hotplug
        self.guest_agrees: Final = guest_agrees
        self.full: Final = full
        self.units: Final = units
        self.sitting: list[Sitting] = []

    def takes(self, kind: str) -> bool:
        """Tell whether devices that need this kind of bus can sit here."""
        return kind == self.kind or (kind == "PCI" and self.kind == "PCIE")


class Part:
    """A device that is there from the beginning, or inside another one; see ``Sitting``.

    Attributes:
        path: Where it is in the object tree.
        bus: Where it sits; a processor sits nowhere.
    """

    __slots__ = ("bus", "busses", "id", "multifunction", "path", "slot", "typename")

    def __init__(
        self,
        typename: str,
        path: str,
        bus: Bus | None,
        *,
        slot: int = -1,
        multifunction: bool = False,
    ) -> None:
        self.typename: Final = typename
        self.path: Final = path
        self.bus: Final = bus
        self.slot: Final = slot
        self.multifunction: Final = multifunction
        self.id: Final = None
        self.busses: list[Bus] = []
        if bus is not None:
            bus.sitting.insert(0, self)


def find_kind(start: Bus, kind: str) -> Bus | None:
    """Return the first bus below that takes such devices; a full one only if all are full."""
    return _search(start, None, kind)


def find_path(start: Bus, path: str) -> Bus:
    """Return the bus that a user means: by its name, and the way on from there.

    A name of its own may be followed by devices and their buses in turn; a device with a single
    bus stands for that. A path that begins with ``/`` begins at the root.

    Raises:
        QmpError: There is none, or it is full.
    """
    first, _, rest = path.partition("/")
    bus: Bus | None = start if path.startswith("/") else _search(start, first, None)
    if bus is None:
        raise QmpError(f"Bus '{first}' not found")
    names = [name for name in rest.split("/") if name]
    for at in range(0, len(names), 2):
        bus = _step(bus, names[at], names[at + 1] if at + 1 < len(names) else None)
    if bus.full:
        raise QmpError(f"Bus '{path}' is full")
    return bus


def _step(bus: Bus, device: str, name: str | None) -> Bus:
    found = next((item for item in bus.sitting if item.id == device), None) or next(
        (item for item in bus.sitting if item.typename == device), None
    )
    if found is None:
        raise QmpError(f"Device '{device}' not found", ErrorClass.DEVICE_NOT_FOUND)
    if name is None:
        if len(found.busses) == 1:
            return found.busses[0]
        what = "multiple child busses" if found.busses else "no child bus"
        raise QmpError(f"Device '{device}' has {what}")
    below = next((item for item in found.busses if item.name == name), None)
    if below is None:
        raise QmpError(f"Bus '{name}' not found")
    return below


def _search(bus: Bus, name: str | None, kind: str | None) -> Bus | None:
    picked: Bus | None = None
    if name == bus.name or (name is None and kind is not None and bus.takes(kind)):
        if name is not None or not bus.full:
            return bus
        picked = bus
    for item in bus.sitting:
        for below in item.busses:
            found = _search(below, name, kind)
            if found is not None and not found.full:
                return found
            picked = picked or found
    return picked
