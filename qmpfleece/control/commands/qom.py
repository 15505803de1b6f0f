"""The commands on the object tree. Source: QAPI, qom.json."""

from typing import Any

from qmpfleece.control import qom
from qmpfleece.control.command import command
from qmpfleece.control.commands.devices import ObjectPropertyInfo
from qmpfleece.control.system import System


@command("qom-list", exclusive=False)
async def qom_list(system: System, path: str) -> list[ObjectPropertyInfo]:
    """List an object's properties, its children among them."""
    found = qom.list_properties(qom.resolve(system, path))
    return [ObjectPropertyInfo(name=name, type=kind) for name, kind in found.items()]


@command("qom-get", exclusive=False)
async def qom_get(system: System, path: str, property: str) -> Any:  # noqa: A002 - its name
    """Return a property's value."""
    return qom.get_property(qom.resolve(system, path), property)


@command("qom-set")
async def qom_set(system: System, path: str, property: str, value: Any) -> None:  # noqa: A002 - its name
    """Set a property; ``drive`` of a disk puts another node under the guest."""
    await qom.set_property(qom.resolve(system, path), property, value)
