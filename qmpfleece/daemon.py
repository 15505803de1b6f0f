"""The composition root: builds the program from its parts, and ends it in order.

::

    async with Daemon() as daemon:
        await daemon.execute("blockdev-add", {...})
        await daemon.qmp.listen(UnixAddress("qmp.sock"))
        await daemon.wait()

Nothing here is global: tests and the command line run as many daemons as they like in one
process. At the end no socket, file, thread or task of the daemon is left.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, Self

from qmpfleece.base import fdsets, signals, together
from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.drain import users_of
from qmpfleece.block.graph import Graph
from qmpfleece.block.throttling import Limits
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.control.shape import Shape
from qmpfleece.control.system import System
from qmpfleece.exports.manager import ExportManager
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qmp.listener import QmpServer

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Calls within each other: a request makes up to five for each node on its way down. The stack
#: that the system gives, 8 MiB, has room for twice as many.
_MAX_CALLS: Final = 4000


class Daemon:
    """A storage daemon in this process; a context in which it lives.

    Fixed once entered.

    Attributes:
        system: What commands act on.
        dispatcher: Runs them.
        qmp: The monitors.

    Args:
        has_machine: See ``System``.
    """

    system: System
    dispatcher: Dispatcher
    qmp: QmpServer

    def __init__(self, *, has_machine: bool = False) -> None:
        self._has_machine: Final = has_machine
        self._workers: Final = Workers()

    async def __aenter__(self) -> Self:
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _MAX_CALLS))
        bus = EventBus()
        graph = Graph(self._workers, bus)
        self.system = System(
            bus=bus,
            graph=graph,
            exports=ExportManager(graph, bus, self._is_iothread),
            has_machine=self._has_machine,
            fdsets=graph.fdsets,
        )
        self.dispatcher = Dispatcher(self.system)
        self.qmp = QmpServer(self.dispatcher)
        return self

    def _is_iothread(self, name: str) -> bool:
        return self.system.objects.find(name, "iothread") is not None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- commands -----------------------------------------------------------------------------

    def arguments_of(self, name: str) -> Shape:
        """Return what a command takes."""
        return self.dispatcher.commands[name].arguments

    async def execute(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a QMP command and return its result.

        Raises:
            QmpError: It is refused.
        """
        reply = await self.dispatcher.call(name, arguments)
        if "error" in reply:
            error = reply["error"]
            raise QmpError(error["desc"], ErrorClass(error["class"]))
        return reply["return"]

    # -- the end ------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the daemon has been asked to end."""
        return self.system.shutdown.is_set()

    def end(self) -> None:
        """Ask the daemon to end."""
        self.system.shutdown.set()

    async def wait(self) -> None:
        """Return when the daemon has been asked to end, by a command, signal or ``end``."""
        await self.system.shutdown.wait()

    async def unless_ended(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work``, and cancel it if the daemon is asked to end meanwhile.

        Raises:
            Exception: What ``work`` raised.
        """
        await together.unless(self.wait(), work)

    @contextlib.contextmanager
    def ending_on_signals(
        self, tell: Callable[[signal.struct_siginfo], None] | None = None
    ) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP end the daemon in order.

        To be entered before the daemon, so that a second signal, or one after ``quit``, does
        not kill a daemon that is closing its images; nor does it kill QEMU.

        Args:
            tell: Called with the signal that ends it.
        """
        if tell is None:
            attention = signals.handled(_SIGNALS, lambda _: self.system.end("host-signal"))
        else:
            attention = signals.attended(_SIGNALS, lambda info: self._take(tell, info))
        with attention:
            yield

    def _take(
        self, tell: Callable[[signal.struct_siginfo], None], info: signal.struct_siginfo
    ) -> None:
        try:
            if not self.ended:
                tell(info)
        finally:
            self.system.end("host-signal")

    async def close(self) -> None:
        """End everything: exports, jobs, nodes; monitors last, so that clients see it happen.

        The command that runs is waited for, no other one is begun. Requests that I/O limits
        hold back go at once.
        """
        self._lift_limits()  # on them the command that runs may wait
        async with self.dispatcher.alone():
            self._lift_limits()  # that it has set
            await self.system.background.close()
            await self.system.exports.close()
            await self.system.jobs.close(users_of(reversed(self.system.graph.nodes())))
            if self.system.has_machine:
                await self.system.devices.close()
            await self.system.drives.close()
            await self.system.graph.close()
            await self.qmp.close()
            self.system.fdsets.close()
            fdsets.close(*self.system.named_fds.values())
        self._workers.close()

    def _lift_limits(self) -> None:
        for group in self.system.graph.throttle_groups.values():
            group.configure(Limits())
