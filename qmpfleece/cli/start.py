"""How the daemons start: what their options make, one event loop, the end in order.

``qmpfleece-qsd`` and ``qmpfleece-qemu`` differ in their options and in the order in which these
are processed; character devices, monitors, nodes and the PID file are the same.
"""

import asyncio
import contextlib
import gc
import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qmpfleece.base.errors import QmpError
from qmpfleece.base.loop import loop_factory
from qmpfleece.base.registry import Folder
from qmpfleece.cli import chardev, options
from qmpfleece.cli.background import Background
from qmpfleece.cli.chardev import Chardev
from qmpfleece.cli.scan import Option
from qmpfleece.cli.words import complain
from qmpfleece.daemon import Daemon

if TYPE_CHECKING:
    from qmpfleece.cli.pidfile import PidFile


class OptionError(Exception):
    """An option can't be processed.

    Args:
        texts: What the user reads, each after the program's name.
    """

    def __init__(self, *texts: str) -> None:
        super().__init__(*texts)
        self.texts = texts


@contextlib.contextmanager
def at(option: Option) -> Iterator[None]:
    """Let an error name the option, as it was written.

    Raises:
        OptionError: In place of a ``QmpError`` or an ``OSError``.
    """
    try:
        yield
    except (QmpError, OSError) as error:
        raise OptionError(f"{option.where}: {_words(error)}") from error


class Start(ABC):
    """What the options have made, until it is served.

    Args:
        daemon: What they act on.
        program: The name for messages.
        daemonized: It goes into the background, where there is no standard input.
    """

    def __init__(self, daemon: Daemon, program: str, *, daemonized: bool) -> None:
        self.daemon = daemon
        self.program = program
        self.daemonized = daemonized
        self.chardevs: dict[str, Chardev] = {}
        daemon.system.chardevs = self.chardevs
        self._monitors: list[tuple[Chardev, bool, bool]] = []
        self._pid_file: PidFile | None = None

    @abstractmethod
    async def process(self) -> None:
        """Do what the options say.

        Raises:
            OptionError: One can't be done.
            QmpError: The same, where no option is named.
        """

    async def live(self, background: Background) -> None:
        """Process the options, serve until asked to end, and leave nothing behind."""
        try:
            # A signal ends the daemon also while it waits for a client at its start.
            await self.daemon.unless_ended(self.process())
            if self.daemon.ended:
                return
            # What exists now stays. Without this a full collection, which stops all
            # requests, takes 20 to 50 ms; with it less than 0.1 ms. (Until now there
            # may be no collection at all, see ``programs``.) So do the modules that
            # commands import.
            gc.freeze()
            Folder.lasting = True
            gc.enable()
            for device, pretty, human in self._monitors:
                await device.serve(self.daemon.qmp, pretty=pretty, human=human)
            background.ready()
            await self.daemon.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close what was not handed on."""
        for device in self.chardevs.values():
            device.close()

    def remove_pid_file(self) -> None:
        """Say that the process is gone: the last that it does. Its disks are closed."""
        if self._pid_file is not None:
            self._pid_file.remove()

    def report(self, option: Option, text: str) -> None:
        """Tell the user something about an option."""
        complain(self.program, f"{option.where}: {text}")

    # -- what options make ------------------------------------------------------------------

    async def command(self, name: str, option: Option, implied: str) -> None:
        """Run a QMP command whose arguments an option gives.

        Raises:
            QmpError: They don't fit, or the command is refused.
        """
        shape = self.daemon.arguments_of(name)
        await self.daemon.execute(name, options.structured(option.value, shape, implied))

    async def make_chardev(self, option: Option, given: dict[str, str]) -> None:
        """Make a character device.

        Raises:
            QmpError: It can't be made.
        """
        device = await chardev.create(given, lambda text: self.report(option, text))
        try:
            self._check_chardev(device)
        except QmpError:
            device.close()
            raise
        self.chardevs[device.name] = device

    def _check_chardev(self, device: Chardev) -> None:
        if device.stdio and self.daemonized:
            raise QmpError("cannot use stdio with -daemonize")
        if device.stdio and any(other.stdio for other in self.chardevs.values()):
            raise QmpError("cannot use stdio by multiple character devices")
        if device.name in self.chardevs:
            raise QmpError(
                f"attempt to add duplicate property '{device.name}' to object (type 'container')"
            )

    def make_monitor(self, name: str, *, pretty: bool, human: bool = False) -> None:
        """Let a character device be a monitor, once everything exists.

        Raises:
            QmpError: There is none of that name, or it is taken.
        """
        device = self.chardevs.get(name)
        if device is None:
            raise QmpError(f'chardev "{name}" not found')
        if device.taken:
            raise QmpError(f"Device '{name}' is in use")
        device.taken = True
        self._monitors.append((device, pretty, human))

    def write_pid_file(self, path: str) -> None:
        """Say which process this is.

        Raises:
            QmpError: The file can't be made, or another process holds it.
        """
        from qmpfleece.cli.pidfile import PidFile

        self._pid_file = PidFile(path)


def fail(program: str, error: Exception) -> int:
    """Tell why the start has failed and return the exit status."""
    for text in error.texts if isinstance(error, OptionError) else (_words(error),):
        complain(program, text)
    return 1


def _words(error: Exception) -> str:
    if isinstance(error, QmpError):
        return error.desc  # with the hint that QEMU may give at a terminal
    from qmpfleece.cli.ending import words  # it imports what no start needs

    return words(error)


def run(
    program: str,
    start: Callable[[Daemon], Start],
    *,
    daemonize: bool,
    tell: Callable[[signal.struct_siginfo], None] | None = None,
    **of: Any,
) -> None:
    """Run a daemon to its end.

    Args:
        program: The name for messages.
        start: Makes what processes the options.
        daemonize: Go into the background once everything exists.
        tell: Called with the signal that ends the daemon.
        of: For ``Daemon``.

    Raises:
        OptionError: The start has failed.
        QmpError: The same.
        ValueError: The environment asks for what is not there.
    """
    logging.basicConfig(format=f"{program}: %(message)s", level=logging.WARNING)

    async def serve() -> None:
        daemon = Daemon(**of)
        with daemon.ending_on_signals(tell):
            begun: Start | None = None
            try:
                async with daemon:
                    begun = start(daemon)
                    await begun.live(background)
            finally:
                if begun is not None:
                    begun.remove_pid_file()

    background = Background(wanted=daemonize)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())
