"""How every session begins and ends."""

from typing import Literal

from qmpfleece.control.command import command
from qmpfleece.control.system import System


@command("qmp_capabilities", exclusive=False)
async def qmp_capabilities(_system: System, enable: list[Literal["oob"]] | None = None) -> None:
    """Leave capabilities negotiation; the dispatcher remembers that for the client."""
    del enable


@command("quit", exclusive=False)
async def quit_(system: System) -> None:
    """End the program, after the reply."""
    system.quit()
