"""``qmpfleece-qsd``, the drop-in for qemu-storage-daemon.

Options are processed in the order given. An error is one message on stderr, naming the option
as it was written, and exit status 1.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpfleece.base.errors import QmpError
from qmpfleece.base.loop import loop_factory
from qmpfleece.cli import keyval, options
from qmpfleece.cli.background import Background
from qmpfleece.cli.chardev import Chardev, absolute
from qmpfleece.cli.chardev import make as make_chardev
from qmpfleece.cli.object_help import object_help
from qmpfleece.cli.pidfile import PidFile
from qmpfleece.cli.qemuopts import check_id
from qmpfleece.cli.scan import Option, scan
from qmpfleece.control.visitor import visit
from qmpfleece.daemon import Daemon

if TYPE_CHECKING:
    from qmpfleece.cli.options import NbdServerOptions


class OptionError(Exception):
    """An option can't be processed; the text says which and why."""


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the daemon and return its exit status."""
    program = program or Path(sys.argv[0]).name
    logging.basicConfig(format=f"{program}: %(message)s", level=logging.WARNING)
    given: list[Option] = []
    try:
        for option in scan(sys.argv[1:] if argv is None else argv, options.SPECS):
            if _inform(option, program):
                return 0
            given.append(option)
        wanted = any(option.name == "daemonize" for option in given)
        with (
            Background(wanted=wanted) as background,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            runner.run(_serve(given, program, background))
    except (QmpError, OptionError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _inform(option: Option, program: str) -> bool:
    """Print what the user wants to know; tell whether that was all."""
    if option.name == "help":
        print(options.HELP.format(program=program, drivers=", ".join(_drivers())), end="")
    elif option.name == "version":
        from qmpfleece import __version__

        print(f"{program} version {__version__} (QMP of QEMU 7.2)")
    elif option.name == "object" and (help_text := object_help(option.value)):
        print(help_text)
    elif not (option.name == "trace" and keyval.is_help(option.value)):
        return False
    return True


def _drivers() -> Iterable[str]:
    from qmpfleece.daemon import load_packages
    from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS

    load_packages()
    return sorted(BLOCKDEV_MODELS)


async def _serve(given: Sequence[Option], program: str, background: Background) -> None:
    """Process the options, serve until asked to end, and end in order."""
    async with Daemon() as daemon:
        start = _Start(daemon, program, daemonized=background.wanted)
        try:
            with daemon.ending_on_signals():
                # A signal ends the daemon also while it waits for a client at its start.
                await daemon.unless_ended(start.process(given))
                if daemon.ended:
                    return
                # What exists now stays. Without this a full collection, which stops all
                # requests, takes 20 to 50 ms; with it less than 0.1 ms.
                gc.freeze()
                await start.serve()
                background.ready()
                await daemon.wait()
        finally:
            start.close()


class _Start:
    """What the options have made, until it is served.

    Args:
        daemon: What they act on.
        program: The name for messages.
        daemonized: It goes into the background, where there is no standard input.
    """

    def __init__(self, daemon: Daemon, program: str, *, daemonized: bool) -> None:
        self._daemon = daemon
        self._program = program
        self._daemonized = daemonized
        self._chardevs: dict[str, Chardev] = {}
        self._monitors: list[tuple[Chardev, bool]] = []
        self._pid_path = ""
        self._pid_file: PidFile | None = None

    async def process(self, given: Sequence[Option]) -> None:
        """Do what the options say, in order.

        Raises:
            OptionError: One can't be done.
        """
        handlers = {
            "blockdev": self._blockdev,
            "chardev": self._chardev,
            "daemonize": self._nothing,
            "export": self._export,
            "monitor": self._monitor,
            "nbd-server": self._nbd_server,
            "object": self._object,
            "pidfile": self._pidfile,
            "trace": self._trace,
        }
        for option in given:
            try:
                await handlers[option.name](option)
            except QmpError as error:
                raise OptionError(f"{option.where}: {error.desc}") from error
        if self._pid_path:
            self._pid_file = PidFile(self._pid_path)

    async def serve(self) -> None:
        """Let monitors be talked to."""
        for chardev, pretty in self._monitors:
            await chardev.serve(self._daemon.qmp, pretty=pretty)

    def close(self) -> None:
        """Close what was not handed on, and remove the pid file."""
        for chardev in self._chardevs.values():
            chardev.close()
        if self._pid_file is not None:
            self._pid_file.remove()

    def _report(self, option: Option, text: str) -> None:
        print(f"{self._program}: {option.where}: {text}", file=sys.stderr, flush=True)

    # -- one method an option ---------------------------------------------------------------

    async def _nothing(self, option: Option) -> None:
        """Going into the background is done before there is an event loop."""

    async def _trace(self, option: Option) -> None:
        name = option.value.removeprefix("enable=").partition(",")[0]
        self._report(option, f"warning: trace event '{name}' does not exist")

    async def _pidfile(self, option: Option) -> None:
        self._pid_path = option.value

    async def _blockdev(self, option: Option) -> None:
        await self._command("blockdev-add", option, "driver")

    async def _export(self, option: Option) -> None:
        await self._command("block-export-add", option, "type")

    async def _command(self, name: str, option: Option, implied: str) -> None:
        shape = self._daemon.arguments_of(name)
        await self._daemon.execute(name, options.structured(option.value, shape, implied))

    async def _nbd_server(self, option: Option) -> None:
        given: NbdServerOptions = options.parse_as(options.NbdServerOptions, option.value)
        if given.tls_creds is not None:
            raise QmpError(f"No TLS credentials with id '{given.tls_creds}'")
        if given.tls_authz is not None:
            raise QmpError("TLS is not supported")
        address = given.addr.to_wire()
        if self._daemonized and "path" in address:
            address["path"] = absolute(address["path"])
        # nbd-server-start takes the older form of an address.
        arguments: dict[str, Any] = {"addr": {"type": address.pop("type"), "data": address}}
        if given.max_connections is not None:
            arguments["max-connections"] = given.max_connections
        await self._daemon.execute("nbd-server-start", arguments)

    async def _chardev(self, option: Option) -> None:
        device = await make_chardev(option.value, lambda text: self._report(option, text))
        try:
            self._check_chardev(device)
        except QmpError:
            device.close()
            raise
        self._chardevs[device.name] = device

    def _check_chardev(self, device: Chardev) -> None:
        if device.stdio and self._daemonized:
            raise QmpError("cannot use stdio with -daemonize")
        if device.stdio and any(other.stdio for other in self._chardevs.values()):
            raise QmpError("cannot use stdio by multiple character devices")
        if device.name in self._chardevs:
            raise QmpError(
                f"attempt to add duplicate property '{device.name}' to object (type 'container')"
            )

    async def _monitor(self, option: Option) -> None:
        given = options.parse_as(options.MonitorOptions, option.value, "chardev")
        device = self._chardevs.get(given.chardev)
        if device is None:
            raise QmpError(f'chardev "{given.chardev}" not found')
        if given.mode == "readline":
            raise QmpError("Only QMP is supported")
        if device.taken:
            raise QmpError(f"Device '{device.name}' is in use")
        device.taken = True
        self._monitors.append((device, bool(given.pretty)))

    async def _object(self, option: Option) -> None:
        shape = self._daemon.arguments_of("object-add")
        given = options.structured(option.value, shape, "qom-type")
        visit(shape, given)
        check_id(given["id"])  # as object-add does, with more words
        await self._daemon.execute("object-add", given)
