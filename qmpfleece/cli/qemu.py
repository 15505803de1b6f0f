"""``qmpfleece-qemu``, the drop-in for the block half of qemu-system-x86_64.

All options are read first, then what they describe is made, kind by kind, in the order of
``_Start.process``. There is a machine with disks on its buses, but no guest that would run. An
error is one message on stderr and exit status 1.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qmpfleece.base import fdsets
from qmpfleece.base.errors import QmpError
from qmpfleece.base.signals import sender
from qmpfleece.cli import chardev
from qmpfleece.cli.chardev import Chardev
from qmpfleece.cli.drive import Drives
from qmpfleece.cli.qemu_help import inform
from qmpfleece.cli.qemu_machine import check_accels, check_fd, check_incoming, machine_kind
from qmpfleece.cli.qemu_options import Reader, Wanted, scan
from qmpfleece.cli.qemuopts import switch
from qmpfleece.cli.qtest import QTest
from qmpfleece.cli.scan import Option
from qmpfleece.cli.start import OptionError, Start, at, fail, run
from qmpfleece.cli.words import Informed, complain
from qmpfleece.control.command import COMMANDS
from qmpfleece.daemon import Daemon


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the daemon and return its exit status."""
    program = program or Path(sys.argv[0]).name
    try:
        given = list(scan(sys.argv[1:] if argv is None else argv))
        reader = Reader(lambda name: COMMANDS[name].arguments)
        for option in given:
            if inform(option, program):
                return 0
            reader.read(option)
        wanted = reader.wanted
        run(
            program,
            lambda daemon: _Start(daemon, program, wanted),
            daemonize=wanted.daemonize,
            tell=lambda info: complain(
                program, f"terminating on signal {info.si_signo}{sender(info)}"
            ),
            has_machine=True,
        )
    except Informed as told:
        print(told.text, end="", flush=True)
        return told.status
    except (QmpError, OptionError, OSError, ValueError) as error:
        return fail(program, error)
    except KeyboardInterrupt:
        return 0
    return 0


class _Start(Start):
    """Makes what is wanted, in QEMU's order."""

    def __init__(self, daemon: Daemon, program: str, wanted: Wanted) -> None:
        super().__init__(daemon, program, daemonized=wanted.daemonize)
        self._wanted = wanted
        self._qtest: QTest | None = None

    async def close(self) -> None:
        """Close what was not handed on."""
        if self._qtest is not None:
            await self._qtest.close()
        await super().close()

    async def process(self) -> None:
        """Make everything."""
        wanted, system, execute = self._wanted, self.daemon.system, self.daemon.execute
        system.name = wanted.name
        if wanted.incoming is not None:
            system.run_state = "inmigrate"
        elif wanted.paused:
            system.run_state = "prelaunch"
        system.uuid = wanted.uuid or system.uuid
        inherited: list[int] = []
        for option, given in wanted.fds:
            with at(option):
                fd, number = check_fd(given)
            system.graph.fdsets.add(os.dup(fd), number, given.get("opaque"))
            inherited.append(fd)
        fdsets.close(*inherited)
        if wanted.pidfile is not None:
            self.write_pid_file(wanted.pidfile)
        machine = machine_kind(wanted.machine)
        wanted.board.check_vga()
        for given in wanted.objects:
            await execute("object-add", given)
        for option, given in wanted.chardevs:
            with at(option):
                await self.make_chardev(option, given)
        for option, given in wanted.blockdevs:
            with at(option):
                await execute("blockdev-add", given)
        drives = await self._make_drives(machine)
        devices = [*wanted.devices, *drives.devices, *wanted.json_devices]
        wanted.board.check_processors(machine)
        check_accels(wanted.accels)
        extras = wanted.board.extras(wanted.models())
        extras.floppies = "floppy-bus" in drives.disks
        system.devices.set_machine(machine, extras, drives.disks)
        drives.check_homes()
        if wanted.qtest is not None:
            self._qtest = QTest(await self._make_qtest_device(wanted.qtest))
        for option, given in wanted.monitors:
            with at(option):
                mode = given.get("mode", "readline")
                if mode not in {"readline", "control"}:
                    raise QmpError(f"Parameter 'mode' does not accept value '{mode}'")
                pretty = switch(given, "pretty", default=False)
                self.make_monitor(given["chardev"], pretty=pretty, human=mode == "readline")
        for option, given in devices:
            with at(option):
                if not isinstance(given.get("driver"), str):
                    raise QmpError("Parameter 'driver' is missing")
                await execute("device_add", given)
        check_incoming(wanted.incoming)
        system.devices.running = True

    async def _make_drives(self, machine: str) -> Drives:
        """Make the drives: those asked for, then those that the machine has by itself."""
        wanted = self._wanted
        drives = Drives(self.daemon.system, machine, snapshot=wanted.snapshot)
        for option, given in wanted.drives:
            with at(option):
                await drives.make(given, option)
        for given in wanted.board.drives(machine, wanted.models()):
            if not drives.taken(given):
                await drives.make(given, None)
        return drives

    async def _make_qtest_device(self, option: Option) -> Chardev:
        """Make what the qtest protocol is spoken over."""
        complaint = f'Failed to initialize device for qtest: "{option.value}"'
        try:
            given = chardev.parse_short(option.value, "qtest")
            if given is None:
                raise OptionError(complaint)
            return await chardev.create(given, lambda text: self.report(option, text))
        except QmpError as error:
            raise OptionError(error.desc, complaint) from error
