"""The commands on objects that users make."""

from typing import Annotated

from qmpfleece.control.command import Boxed, command
from qmpfleece.control.objects import ObjectOptions
from qmpfleece.control.system import System


@command("object-add")
async def object_add(system: System, options: Annotated[ObjectOptions, Boxed]) -> None:
    """Make an object, or nothing of it."""
    await system.objects.create(system, options)


@command("object-del")
async def object_del(system: System, id: str) -> None:  # noqa: A002 - its name on the wire
    """Remove an object that nobody uses."""
    system.objects.remove(id)
