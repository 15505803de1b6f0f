"""The object tree: containers, the devices of the machine, and what users have made.

::

    /objects/ID                            what object-add has made
    /machine/peripheral/ID                 devices
    /machine/peripheral-anon/device[N]     devices without an id
    /machine/unattached/device[N]          those of the board
    .../virtio-backend                     the device inside a virtio disk or controller

Nothing is kept here: the tree is drawn up when somebody asks, which is seldom.

Source: ``qom-list`` and ``qom-get`` of QEMU 7.2. Differs: what only emulates something is listed,
but has no properties, and those of the machine can't be read.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from qmpfleece.base.errors import QmpError
from qmpfleece.control import qom_listing
from qmpfleece.control.devices.board import UNATTACHED
from qmpfleece.control.devices.device import ANONYMOUS, PERIPHERAL, Device
from qmpfleece.control.devices.models import DeviceModel
from qmpfleece.control.objects import UserObject
from qmpfleece.control.system import System

#: What every device has besides its own properties.
_OF_DEVICES: Final = {
    "type": "string",
    "parent_bus": "link<bus>",
    "realized": "bool",
    "hotplugged": "bool",
    "hotpluggable": "bool",
}


class QomObject(Protocol):
    """Something with a path and properties.

    Attributes:
        qom_type: The name of its type.
        path: Where it is.
    """

    @property
    def qom_type(self) -> str: ...  # noqa: D102 - said above
    @property
    def path(self) -> str: ...  # noqa: D102 - said above

    def children(self) -> "Mapping[str, QomObject]":
        """Return what is below, by name."""

    def properties(self) -> Mapping[str, str]:
        """Return the types of the properties by their names, children left out."""

    def order(self) -> list[str]:
        """Return the names of the properties and children in QEMU's order."""

    def get(self, name: str) -> Any:
        """Return the value of one of the properties, as JSON."""

    async def set(self, name: str, value: Any) -> None:
        """Set one of the properties.

        Args:
            name: It is not ``type``.
            value: JSON that nobody has checked.

        Raises:
            QmpError: It can't be set, or not to this.
        """


class _Container:
    """Something that only holds others."""

    def __init__(
        self, path: str, children: Mapping[str, QomObject], qom_type: str = "container"
    ) -> None:
        self.qom_type: Final = qom_type
        self.path: Final = path
        self._children: Final = children

    def children(self) -> Mapping[str, QomObject]:
        return self._children

    def properties(self) -> Mapping[str, str]:
        return {"type": "string"}

    def order(self) -> list[str]:
        return ["type", *qom_listing.hashed(self._children)]

    def get(self, name: str) -> Any:
        assert name == "type"
        return self.qom_type

    async def set(self, name: str, value: Any) -> None:
        raise AssertionError("a container has nothing to set")


class _Machine(_Container):
    """The machine, whose own properties are only listed."""

    def __init__(self, children: Mapping[str, QomObject], qom_type: str) -> None:
        listed = qom_listing.machine_properties(qom_type)
        shown: dict[str, QomObject] = {
            name: _Container(f"/machine/{name}", {}, kind[6:-1])
            for name, kind in listed.items()
            if kind.startswith("child<")
        }
        super().__init__("/machine", shown | dict(children), qom_type)
        self._listed: Final = listed

    def properties(self) -> Mapping[str, str]:
        own = {name: kind for name, kind in self._listed.items() if name not in self._children}
        return {"type": "string"} | own

    def order(self) -> list[str]:
        return ["type", *(self._listed or self._children)]

    def get(self, name: str) -> Any:
        if name != "type":
            raise QmpError(f"Property '{self.qom_type}.{name}' is not readable")
        return self.qom_type

    async def set(self, name: str, value: Any) -> None:
        raise QmpError(f"Property '{self.qom_type}.{name}' is not writable")


class _Made:
    """What a user has made with object-add."""

    def __init__(self, name: str, made: UserObject) -> None:
        self.qom_type: Final = made.qom_type
        self.path: Final = f"/objects/{name}"
        self._made: Final = made

    def children(self) -> Mapping[str, QomObject]:
        return {}

    def properties(self) -> Mapping[str, str]:
        return {"type": "string"} | dict(self._made.properties)

    def order(self) -> list[str]:
        return qom_listing.sort(self.qom_type, self.properties())

    def get(self, name: str) -> Any:
        return self._made.get_property(name)

    async def set(self, name: str, value: Any) -> None:
        self._made.set_property(name, value)


class _DeviceObject:
    """A device, or the one inside it."""

    def __init__(self, system: System, device: Device, *, inner: bool = False) -> None:
        self._system: Final = system
        self._device: Final = device
        self._inner: Final = inner
        model = device.model
        self.qom_type: Final = model.inner if inner else model.name
        self.path: Final = device.inner_path if inner else device.path

    def children(self) -> Mapping[str, QomObject]:
        found: dict[str, QomObject] = {}
        for name in qom_listing.LISTED.get(self.qom_type, ()):
            if kind := qom_listing.inner_child(name):
                found[name] = _Container(f"{self.path}/{name}", {}, kind)
        if self._inner:
            if (bus := self._device.offers) is not None:
                found[bus.name] = _Container(f"{self.path}/{bus.name}", {}, bus.kind)
        elif self._device.model.inner:
            found["virtio-backend"] = _DeviceObject(self._system, self._device, inner=True)
        return found

    def properties(self) -> Mapping[str, str]:
        return properties_of_model(self._device.model, self.qom_type)

    def order(self) -> list[str]:
        return qom_listing.sort(self.qom_type, [*self.properties(), *self.children()])

    def get(self, name: str) -> Any:
        device = self._device
        match name:
            case "type":
                return self.qom_type
            case "parent_bus":
                return device.bus.path
            case "realized" | "hotpluggable":
                return True
            case "hotplugged":
                return device.hotplugged
            case "legacy-addr":
                return f"{device.slot >> 3:02x}.{device.slot & 7:x}"
            case "drive":
                return _drive_name(device)
            case "legacy-iothread":
                raise QmpError(f"Property '{self.qom_type}.{name}' is not readable")
            case "iothread":
                found = device.value("iothread")
                return f"/objects/{found}" if found else ""
        return device.shown(name)

    async def set(self, name: str, value: Any) -> None:
        device = self._device
        if name.startswith("legacy-"):
            raise QmpError(f"Property '{self.qom_type}.{name}' is not writable")
        if name != "drive":
            raise QmpError(
                f"Attempt to set property '{name}' on device '{device.id or ''}'"
                f" (type '{self.qom_type}') after it was realized"
            )
        if not isinstance(value, str):
            raise QmpError("Invalid parameter type for 'drive', expected: string")
        node = self._system.graph.get(value)
        if node is None:
            raise QmpError(f"Cannot find device='' nor node-name='{value}'")
        assert device.backend is not None
        await device.backend.replace(node)


def properties_of_model(model: DeviceModel, typename: str) -> dict[str, str]:
    """Return the types of the properties of a device, or of the one inside it, by their names."""
    found = _OF_DEVICES | {item.name: item.kind for item in model.properties}
    listed = qom_listing.LISTED.get(typename, ())
    found |= {name: "str" for name in listed if name.startswith("legacy-")}
    return {name: found[name] for name in listed if name in found} or found


def _drive_name(device: Device) -> str:
    """Return what QEMU says a device's drive is: the name of a -drive, or that of a node."""
    backend = device.backend
    if backend is None:
        return ""
    if backend.name or backend.node is None:
        return backend.name
    return backend.node.name


def root(system: System) -> QomObject:
    """Draw up the tree as it is now."""
    below: dict[str, QomObject] = {}
    objects: dict[str, QomObject] = {}
    if system.has_machine:
        below["machine"] = _machine(system)
        if system.devices.machine.root is not None:
            objects["pc.ram"] = _Container("/objects/pc.ram", {}, "memory-backend-ram")
    below["chardevs"] = _Container(
        "/chardevs",
        {
            name: _Container(f"/chardevs/{name}", {}, device.qom_type)
            for name, device in system.chardevs.items()
        },
    )
    objects |= {name: _Made(name, made) for name, made in system.objects.items()}
    if objects or system.objects.used:
        below["objects"] = _Container("/objects", objects)
    return _Container("/", below)


def _machine(system: System) -> QomObject:
    devices = system.devices
    machine: dict[str, QomObject] = {}
    for place in (PERIPHERAL, ANONYMOUS, UNATTACHED):
        found: dict[str, QomObject] = {
            device.path.removeprefix(f"{place}/"): _DeviceObject(system, device)
            for device in devices.all()
            if device.path.startswith(f"{place}/")
        }
        if place == UNATTACHED:
            found = _parts(system, found)
        machine[place.rpartition("/")[2]] = _Container(place, found)
    return _Machine(machine, devices.machine.type)


def _parts(system: System, disks: Mapping[str, QomObject]) -> dict[str, QomObject]:
    """Return all that the board is made of, the disks that it was given among them."""
    parts = system.devices.board.parts
    kinds = {part.path.rpartition("/")[2]: part.typename for part in parts if _numbered(part.path)}
    kinds |= {name: disk.qom_type for name, disk in disks.items()}
    devices = [kinds[f"device[{number}]"] for number in range(len(kinds))]
    return {
        name: disks.get(name) or _Container(f"{UNATTACHED}/{name}", {}, kind)
        for name, kind in qom_listing.unattached(devices).items()
    }


def _numbered(path: str) -> bool:
    return path.startswith(f"{UNATTACHED}/device[")
