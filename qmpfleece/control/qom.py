"""Objects by their paths, and what they show and let be set; see ``qom_tree``.

Source: ``qom-list-types``, ``qom-list`` and ``qom-get`` of QEMU 7.2.
"""

from typing import Any, Final

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.control import qom_listing
from qmpfleece.control.devices.device import PERIPHERAL
from qmpfleece.control.devices.manager import not_found
from qmpfleece.control.devices.models import MODELS
from qmpfleece.control.objects import OBJECT_TYPES
from qmpfleece.control.qom_tree import QomObject, properties_of_model, root
from qmpfleece.control.system import System

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
        found = {"type": "string"} | dict(made.properties)
        return {name: found[name] for name in qom_listing.sort(typename, found)}
    for model in MODELS.values():
        if typename in {model.name, model.inner}:
            return properties_of_model(model, typename)
    return {"type": "string"}


def descriptions_of_type(typename: str) -> dict[str, str | None]:
    """Return what is said about properties that devices of a type have, by their names."""
    return {
        item.name: item.description
        for model in MODELS.values()
        if typename in {model.name, model.inner}
        for item in model.properties
    }


def resolve(system: System, path: str, *, listing: bool = False) -> QomObject:
    """Return the object at a path; a relative one may begin anywhere, if that is unambiguous.

    Args:
        system: Where it is.
        path: Its names, ``/`` between them.
        listing: It is to be listed; else QEMU does not tell more than one from none.

    Raises:
        QmpError: There is none, or more than one.
    """
    found = _all_at(system, path)
    if listing and len(found) > 1:
        raise QmpError(f"Path '{path}' is ambiguous")
    if len(found) != 1 or not path:
        raise not_found(path)
    return found[0]


def exists(system: System, path: str) -> bool:
    """Tell whether a path leads anywhere."""
    return bool(_all_at(system, path))


def check_device(system: System, name: str) -> None:
    """Refuse the id or path of something that is no device.

    Raises:
        QmpError: There is such a thing, and it is none.
    """
    if system.devices.find(name) is not None:
        return
    absolute = name if name.startswith("/") else f"{PERIPHERAL}/{name}"
    if _walk(root(system), [part for part in absolute.split("/") if part]) is not None:
        raise QmpError(f"{name} is not a hotpluggable device")


def _all_at(system: System, path: str) -> list[QomObject]:
    names = [name for name in path.split("/") if name]
    top = root(system)
    starts = [top] if path.startswith("/") else _everything(top)
    return [end for start in starts if (end := _walk(start, names)) is not None]


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
    everything = dict(found.properties()) | children
    return {name: everything[name] for name in found.order()}


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
