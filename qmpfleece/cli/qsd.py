"""``qmpfleece-qsd``, the drop-in for qemu-storage-daemon.

Options are processed in the order given. An error is one message on stderr, naming the option
as it was written, and exit status 1.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.base.sockets import inherited
from qmpfleece.cli import chardev, options
from qmpfleece.cli.chardev import absolute
from qmpfleece.cli.object_help import help_of
from qmpfleece.cli.qemuopts import check_id
from qmpfleece.cli.scan import Option, scan
from qmpfleece.cli.start import OptionError, Start, at, fail, run
from qmpfleece.cli.trace import NoFileError, trace
from qmpfleece.cli.words import Informed
from qmpfleece.control.shape import struct_of, struct_of_parameters
from qmpfleece.control.visitor import visit
from qmpfleece.daemon import Daemon
from qmpfleece.qmp.sockets import check_path


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the daemon and return its exit status."""
    program = program or os.path.basename(sys.argv[0])
    given: list[Option] = []
    try:
        for option in scan(sys.argv[1:] if argv is None else argv, options.SPECS):
            if _inform(option, program):
                return 0
            given.append(option)
        daemonize = any(option.name == "daemonize" for option in given)
        run(program, lambda daemon: _Start(daemon, program, given), daemonize=daemonize)
    except Informed as told:
        print(told.text, end="", flush=True)
        return told.status
    except NoFileError as error:
        print(f"{program}:{error}", file=sys.stderr)
        return 1
    except (QmpError, OptionError, OSError, ValueError) as error:
        return fail(program, error)
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
    else:
        return False
    return True


def _drivers() -> Iterable[str]:
    from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS

    return sorted(BLOCKDEV_MODELS)


class _Start(Start):
    """Processes the options in the order given."""

    def __init__(self, daemon: Daemon, program: str, given: Sequence[Option]) -> None:
        daemonized = any(option.name == "daemonize" for option in given)
        super().__init__(daemon, program, daemonized=daemonized)
        self._given = given
        self._pid_path: str | None = None

    async def process(self) -> None:
        """Do what the options say, in order."""
        handlers = {
            "": self._stray,
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
        for option in self._given:
            with at(option):
                await handlers[option.name](option)
        if self._pid_path is not None:
            self.write_pid_file(self._pid_path)

    # -- one method an option ---------------------------------------------------------------

    async def _stray(self, option: Option) -> None:
        raise QmpError("Unexpected argument")

    async def _nothing(self, option: Option) -> None:
        """Going into the background is done before there is an event loop."""

    async def _trace(self, option: Option) -> None:
        for place, warning in trace(option.value):
            if place:
                print(f"{self.program}:{place}: {warning}", file=sys.stderr, flush=True)
            else:
                self.report(option, warning)

    async def _pidfile(self, option: Option) -> None:
        self._pid_path = option.value

    async def _blockdev(self, option: Option) -> None:
        await self.command("blockdev-add", option, "driver")

    async def _export(self, option: Option) -> None:
        await self.command("block-export-add", option, "type")

    async def _nbd_server(self, option: Option) -> None:
        from qmpfleece.cli.nbd_server import NbdServerOptions

        given: NbdServerOptions = options.parse_as(struct_of(NbdServerOptions), option.value)
        if given.tls_creds is not None:
            raise QmpError(f"No TLS credentials with id '{given.tls_creds}'")
        address = given.addr.to_wire()
        # Here is no monitor that would have named descriptors: they have numbers.
        if "str" in address:
            self.daemon.system.named_fds[address["str"]] = inherited(address["str"])
        if "path" in address:
            check_path(address["path"])
        if self.daemonized and "path" in address:
            address["path"] = absolute(address["path"])
        # nbd-server-start takes the older form of an address.
        arguments: dict[str, Any] = {"addr": {"type": address.pop("type"), "data": address}}
        if given.max_connections is not None:
            arguments["max-connections"] = given.max_connections
        await self.daemon.execute("nbd-server-start", arguments)

    async def _chardev(self, option: Option) -> None:
        await self.make_chardev(option, chardev.parse(option.value))

    async def _monitor(self, option: Option) -> None:
        shape = struct_of_parameters(self._add_monitor)
        self._add_monitor(**options.parse_as(shape, option.value, "chardev"))

    def _add_monitor(
        self,
        *,
        id_: str | None = None,
        mode: Literal["readline", "control"] | None = None,
        pretty: bool | None = None,
        chardev: str,
    ) -> None:
        """QAPI ``MonitorOptions``: no model, for a monitor should greet soon."""
        del id_
        if mode == "readline" and chardev in self.chardevs:
            raise QmpError("Only QMP is supported")
        self.make_monitor(chardev, pretty=bool(pretty))

    async def _object(self, option: Option) -> None:
        shape = self.daemon.arguments_of("object-add")
        given = options.structured(option.value, shape, "qom-type", help_of)
        visit(shape, given)
        check_id(given["id"])  # as object-add does, with more words
        await self.daemon.execute("object-add", given)
