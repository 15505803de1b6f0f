"""What a command may touch: the one object that every handler is given.

Built by the composition root, which also waits for ``shutdown`` and then ends everything in
order. Handlers reach the rest of the program through it and through nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from qmpfleece.base.fdsets import FdSets
from qmpfleece.control.drives import Drives
from qmpfleece.control.objects import Objects
from qmpfleece.control.qemu_io.background import Background
from qmpfleece.jobs.manager import JobManager
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.block.graph import Graph
    from qmpfleece.control.devices.manager import Devices
    from qmpfleece.exports.manager import ExportManager

log = logging.getLogger(__name__)

#: QAPI ``ShutdownCause``, those that there are without a guest.
ShutdownCause: TypeAlias = Literal["host-qmp-quit", "host-signal"]
#: QAPI ``RunState``, those that there are without a guest.
RunState: TypeAlias = Literal["prelaunch", "inmigrate", "running", "paused"]
#: What is to be done once a reply is out; may be a coroutine function.
Follow = Callable[[], Awaitable[None] | None]


class CharacterDevice(Protocol):
    """What is told of a channel to the outside."""

    @property
    def qom_type(self) -> str:
        """The type of it as an object."""

    @property
    def filename(self) -> str:
        """What it is."""

    @property
    def frontend_open(self) -> bool:
        """Whether somebody uses it."""


#: The descriptors that came with the command that this context runs, or before it; who takes
#: one out of the list owns it.
RECEIVED: Final[ContextVar[list[int] | None]] = ContextVar("received", default=None)


class AfterReply:
    """What one command has put off until its reply is out."""

    def __init__(self) -> None:
        self._follows: list[Follow] = []
        self._replied = False

    @property
    def replied(self) -> bool:
        """Tell whether the reply is out; later callers need not wait."""
        return self._replied

    def add(self, follow: Follow) -> None:
        """Put ``follow`` off."""
        self._follows.append(follow)

    async def run(self) -> None:
        """Do what was put off, in order; each is done even if another one fails."""
        self._replied = True
        for follow in self._follows:
            try:
                result = follow()
                if result is not None:
                    await result
            except Exception:  # the edge of a command: others must be served
                log.exception("what follows a reply has failed")
        self._follows.clear()


#: The command that this context runs. A context variable, because the queries of other
#: sessions are answered while a command waits.
RUNNING: Final[ContextVar[AfterReply | None]] = ContextVar("running", default=None)


class System:
    """The program, as commands see it.

    Args:
        bus: Where events are emitted.
        graph: The block nodes.
        exports: The block exports and the NBD server.
        has_machine: The program stands for qemu-system, not for qemu-storage-daemon: it has
            devices with the commands on them, and emits SHUTDOWN on quit.

    Attributes:
        run_state: What query-status says; there is no guest, stop and cont change nothing else.
        name: What query-name says.
        uuid: What query-uuid says.
        jobs: The long operations; closed by whoever made the system, before the graph.
        drives: The named backends; closed after the jobs.
        objects: What object-add has made.
        background: Requests of qemu-io that go on after their commands; closed first.
        chardevs: The character devices by their ids; those who made them close them.
        fdsets: Descriptors that were handed over, the graph's.
        named_fds: What getfd has given names to; they are closed with the program.
        shutdown: Set when the program is asked to end.
    """

    def __init__(
        self,
        *,
        bus: EventBus,
        graph: "Graph",
        exports: "ExportManager",
        has_machine: bool = False,
        fdsets: FdSets | None = None,
    ) -> None:
        self.bus: Final = bus
        self.graph: Final = graph
        self.exports: Final = exports
        self.has_machine = has_machine
        self.run_state: RunState = "running"
        self.name: str | None = None
        self.uuid = "00000000-0000-0000-0000-000000000000"
        self.jobs: Final = JobManager(bus)
        self.drives: Final = Drives(graph)
        self.objects: Final = Objects()
        self.background: Final = Background(graph)
        self.chardevs: Mapping[str, CharacterDevice] = {}
        self.fdsets: Final = fdsets or FdSets()
        self.fdsets.keeps = lambda: self.run_state != "running"
        self.named_fds: dict[str, int] = {}
        self.shutdown: Final = asyncio.Event()

    @cached_property
    def devices(self) -> "Devices":
        """The machine with the guest's disks; closed before the drives, if there is a machine."""
        from qmpfleece.control.devices.manager import Devices

        return Devices(self.graph, self.drives, self.objects, self._is_object)

    def _is_object(self, path: str) -> bool:
        from qmpfleece.control import qom

        return qom.exists(self, path)

    def after_reply(self, follow: Follow) -> None:
        """Run ``follow`` when the reply of the running command is in the outgoing queue.

        QEMU emits the events that a command itself causes first, then its reply, then what
        the command started. Call this for that last part; an awaitable result is awaited
        before the session's next command, and before the next exclusive one, is run. When
        no reply is pending ``follow`` runs at once, and must then not be a coroutine function.
        """
        running = RUNNING.get()
        if running is not None and not running.replied:
            running.add(follow)
            return
        if follow() is not None:
            raise RuntimeError("nobody is there to await what follows the reply")

    def quit(self) -> None:
        """End the program once the reply is out."""
        self.after_reply(self._announce_shutdown)

    def _announce_shutdown(self) -> None:
        self.end("host-qmp-quit")

    def end(self, reason: ShutdownCause) -> None:
        """Ask the program to end; the first reason is told."""
        if self.has_machine and not self.shutdown.is_set():
            from qmpfleece.control.events import Shutdown

            self.bus.emit(Shutdown(guest=False, reason=reason))
        self.shutdown.set()
