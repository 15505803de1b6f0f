"""Requests of qemu-io that go on after their command: aio_read and aio_write of a device.

What they have to say goes to the program's output when they end. ``aio_flush`` waits for them.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from qmpfleece.base import together
from qmpfleece.base.errors import QmpError
from qmpfleece.block.graph import Graph
from qmpfleece.control.monitor.output import print_out


class Background:
    """The requests under way; owns their tasks.

    Args:
        graph: Has the threads that write to the output.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, request: Coroutine[Any, Any, str]) -> None:
        """Let a request run; it returns, or raises as a QmpError, what is to be printed."""
        task = asyncio.get_running_loop().create_task(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, request: Coroutine[Any, Any, str]) -> None:
        try:
            text = await request
        except QmpError as error:
            text = f"{error.desc}\n"
        await print_out(self._graph.workers, text)

    async def flush(self) -> None:
        """Wait until all have ended and said so."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Cancel what still runs: a request that a break point holds would never end."""
        await together.cancel(set(self._tasks))
