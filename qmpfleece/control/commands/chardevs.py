"""query-chardev. Source: QAPI, char.json."""

from qmpfleece.control.command import command
from qmpfleece.control.qom_listing import hashed
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Model


class ChardevInfo(Model):
    """QAPI ``ChardevInfo``."""

    label: str
    filename: str
    frontend_open: bool


@command("query-chardev")
async def query_chardev(system: System) -> list[ChardevInfo]:
    """List the character devices in the order in which the object tree has them."""
    found = {
        name: ChardevInfo(label=name, filename=device.filename, frontend_open=device.frontend_open)
        for name, device in system.chardevs.items()
    }
    return [found[name] for name in hashed(found)]
