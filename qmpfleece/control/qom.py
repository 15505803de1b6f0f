"""The object tree: containers, the devices of the machine, and what users have made.

::

    /objects/ID                            what object-add has made
    /machine/peripheral/ID                 devices
    /machine/peripheral-anon/device[N]     devices without an id
    .../virtio-backend                     the device inside a virtio disk or controller

Nothing is kept here: the tree is drawn up when somebody asks, which is seldom.

Source: ``qom-list`` and ``qom-get`` of QEMU 7.2, which has more below /machine.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.control.devices.device import ANONYMOUS, PERIPHERAL, Device
from qmpfleece.control.devices.manager import not_found
from qmpfleece.control.devices.models import MODELS, DeviceModel
from qmpfleece.control.objects import OBJECT_TYPES, UserObject
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

    def get(self, name: str) -> Any:
        assert name == "type"
        return self.qom_type

    async def set(self, name: str, value: Any) -> None:
        raise AssertionError("a container has nothing to set")


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
        if self._inner or not self._device.model.inner:
            return {}
        return {"virtio-backend": _DeviceObject(self._system, self._device, inner=True)}

    def properties(self) -> Mapping[str, str]:
        return properties_of_model(self._device.model)

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
            case "drive":
                return _drive_name(device)
            case "iothread":
                found = device.value("iothread")
                return f"/objects/{found}" if found else ""
        return device.shown(name)

    async def set(self, name: str, value: Any) -> None:
        device = self._device
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


def properties_of_model(model: DeviceModel) -> dict[str, str]:
    """Return the types of a device's properties by their names."""
    return _OF_DEVICES | {item.name: item.kind for item in model.properties}


#: The types that can be made, with their parents. Source: ``qom-list-types`` of QEMU 7.2.
_PARENTS: Final = {
    "container": "object",
    "iothread": "event-loop-base",
    "secret": "secret_common",
    "throttle-group": "object",
}
_PARENTS_OF_DEVICES: Final = {
    "scsi-cd": "scsi-disk-base",
    "scsi-hd": "scsi-disk-base",
    "virtio-blk-device": "virtio-device",
    "virtio-blk-pci": "virtio-blk-pci-base",
    "virtio-scsi-device": "virtio-scsi-common",
    "virtio-scsi-pci": "virtio-scsi-pci-base",
}


def types(system: System) -> dict[str, str]:
    """Return the types that the program knows, with their parents."""
    return _PARENTS | (_PARENTS_OF_DEVICES if system.has_machine else {})


def properties_of_type(system: System, typename: str) -> dict[str, str]:
    """Return the types of the properties that objects of a type have.

    Raises:
        QmpError: There is no such type.
    """
    if typename not in types(system):
        raise QmpError(f"Class '{typename}' not found", ErrorClass.DEVICE_NOT_FOUND)
    made = OBJECT_TYPES.get(typename)
    if made is not None:
        return {"type": "string"} | dict(made.properties)
    for model in MODELS.values():
        if typename in {model.name, model.inner}:
            return properties_of_model(model)
    return {"type": "string"}


def _drive_name(device: Device) -> str:
    """Return what QEMU says a device's drive is: the name of a -drive, or that of a node."""
    backend = device.backend
    if backend is None:
        return ""
    if backend.name or backend.node is None:
        return backend.name
    return backend.node.name


def _root(system: System) -> QomObject:
    objects = {name: _Made(name, made) for name, made in system.objects.items()}
    below: dict[str, QomObject] = {"objects": _Container("/objects", objects)}
    if system.has_machine:
        machine: dict[str, QomObject] = {}
        for place in (PERIPHERAL, ANONYMOUS):
            found = {
                device.path.removeprefix(f"{place}/"): _DeviceObject(system, device)
                for device in system.devices.all()
                if device.path.startswith(f"{place}/")
            }
            machine[place.rpartition("/")[2]] = _Container(place, found)
        kind = system.devices.machine.type
        below["machine"] = _Container("/machine", machine, kind)
    return _Container("/", below)


def resolve(system: System, path: str) -> QomObject:
    """Return the object at a path; a relative one may begin anywhere, if that is unambiguous.

    Raises:
        QmpError: There is none, or more than one.
    """
    names = [name for name in path.split("/") if name]
    root = _root(system)
    starts = [root] if path.startswith("/") else _everything(root)
    found = [end for start in starts if (end := _walk(start, names)) is not None]
    if len(found) != 1 or not path:
        raise not_found(path)
    return found[0]


def check_device(system: System, name: str) -> None:
    """Refuse the id or path of something that is no device.

    Raises:
        QmpError: There is such a thing, and it is none.
    """
    if system.devices.find(name) is not None:
        return
    absolute = name if name.startswith("/") else f"{PERIPHERAL}/{name}"
    if _walk(_root(system), [part for part in absolute.split("/") if part]) is not None:
        raise QmpError(f"{name} is not a hotpluggable device")


def _walk(start: QomObject, names: list[str]) -> QomObject | None:
    at: QomObject | None = start
    for name in names:
        at = at.children().get(name) if at is not None else None
    return at


def _everything(start: QomObject) -> list[QomObject]:
    found = [start]
    for child in start.children().values():
        found += _everything(child)
    return found


def list_properties(found: QomObject) -> dict[str, str]:
    """Return the types of an object's properties, its children among them."""
    children = {name: f"child<{child.qom_type}>" for name, child in found.children().items()}
    return dict(found.properties()) | children


def get_property(found: QomObject, name: str) -> Any:
    """Return a property's value; that of a child is its path.

    Raises:
        QmpError: There is none of that name.
    """
    child = found.children().get(name)
    if child is not None:
        return child.path
    _check_there(found, name)
    return found.get(name)


async def set_property(found: QomObject, name: str, value: Any) -> None:
    """Set a property.

    Raises:
        QmpError: There is none of that name, it can't be set, or not to this.
    """
    if name == "type" or name in found.children():
        raise QmpError(f"Property '{found.qom_type}.{name}' is not writable")
    _check_there(found, name)
    await found.set(name, value)


def _check_there(found: QomObject, name: str) -> None:
    if name not in found.properties():
        raise QmpError(f"Property '{found.qom_type}.{name}' not found")
