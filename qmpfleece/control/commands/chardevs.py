"""query-chardev. Source: QAPI, char.json."""

from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Model


class ChardevInfo(Model):
    """QAPI ``ChardevInfo``."""

    label: str
    filename: str
    frontend_open: bool


@command("query-chardev")
async def query_chardev(system: System) -> list[ChardevInfo]:
    """List the character devices, newest first; QEMU's order is that of a hash table."""
    return [
        ChardevInfo(label=name, filename=device.filename, frontend_open=device.frontend_open)
        for name, device in reversed([*system.chardevs.items()])
    ]
