"""The programs as they are installed: they start and end without waste.

A third of a short life would go to collecting garbage while modules are imported, when nothing
is garbage yet, and to taking apart at the end what the system takes away with the process.
"""

import gc
import os
import sys
from typing import NoReturn

from qmpfleece.cli import streams


def qsd() -> NoReturn:
    """Be ``qmpfleece-qsd``."""
    _begin()
    from qmpfleece.cli import qsd as program

    _end(program.main())


def qemu() -> NoReturn:
    """Be ``qmpfleece-qemu``."""
    _begin()
    from qmpfleece.cli import qemu as program

    _end(program.main())


def _begin() -> None:
    """Prepare streams and imports: collect no garbage, look for no plugins of pydantic."""
    streams.begin()
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _end(status: int) -> NoReturn:
    """End the process: ``main`` has closed everything, only output may still be buffered."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody reads it, or it was closed
    os._exit(status)
