"""The commands on the object tree. Source: QAPI, qom.json."""

from typing import Any

from qmpfleece.control import qom
from qmpfleece.control.command import command
from qmpfleece.control.commands.devices import ObjectPropertyInfo
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Model


@command("qom-list", exclusive=False)
async def qom_list(system: System, path: str) -> list[ObjectPropertyInfo]:
    """List an object's properties, its children among them."""
    found = qom.list_properties(qom.resolve(system, path, listing=True))
    return [ObjectPropertyInfo(name=name, type=kind) for name, kind in found.items()]


@command("qom-get", exclusive=False)
async def qom_get(system: System, path: str, property: str) -> Any:  # noqa: A002 - its name
    """Return a property's value."""
    return qom.get_property(qom.resolve(system, path), property)


class ObjectTypeInfo(Model):
    """QAPI ``ObjectTypeInfo``."""

    name: str
    abstract: bool | None = None
    parent: str | None = None


@command("qom-list-types", exclusive=False)
async def qom_list_types(
    system: System,
    implements: str | None = None,
    abstract: bool | None = None,  # noqa: FBT001 - members come by name
) -> list[ObjectTypeInfo]:
    """List the types that objects can be made of.

    Args:
        system: What to look at.
        implements: List only what is this type, or has it as its parent.
        abstract: Taken; we know of no abstract types.
    """
    del abstract
    return [
        ObjectTypeInfo(name=name, parent=parent)
        for name, parent in qom.types(system).items()
        if implements in {None, name, parent, "object"}
    ]


@command("qom-list-properties", exclusive=False)
async def qom_list_properties(system: System, typename: str) -> list[ObjectPropertyInfo]:
    """List the properties of objects of a type."""
    found = qom.properties_of_type(system, typename)
    said = qom.descriptions_of_type(typename)
    return [
        ObjectPropertyInfo(name=name, type=kind, description=said.get(name))
        for name, kind in found.items()
    ]


@command("qom-set")
async def qom_set(system: System, path: str, property: str, value: Any) -> None:  # noqa: A002 - its name
    """Set a property; ``drive`` of a disk puts another node under the guest."""
    await qom.set_property(qom.resolve(system, path), property, value)
