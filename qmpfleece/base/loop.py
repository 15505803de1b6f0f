"""Which event loop runs: uvloop where it is installed, else the standard library's."""

import asyncio
import os
from collections.abc import Callable

#: Set to ``asyncio`` to use the standard library's loop, to ``uvloop`` to insist on uvloop.
VARIABLE = "QMPFLEECE_LOOP"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop, for ``asyncio.Runner``.

    Raises:
        ValueError: The environment asks for a loop that we don't have.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in {"", "asyncio", "uvloop"}:
        raise ValueError(f"{VARIABLE} must be asyncio or uvloop, not '{wanted}'")
    if wanted == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        if wanted:
            raise ValueError(f"{VARIABLE} asks for uvloop, which is not installed") from None
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
