"""The options of ``qmpfleece-qemu``: which there are, and what they say.

qemu-system takes options with one dash or two, by their whole name only, and an argument as the
next word. It first reads all of them; what can be seen to be wrong in one by itself is told
then, in the order given. What they describe is made afterwards, kind by kind, see ``qemu``.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.cli import chardev, options, qemuopts
from qmpfleece.cli.qemu_board import Chosen
from qmpfleece.cli.qemuopts import check_id
from qmpfleece.cli.scan import Option, UsageError
from qmpfleece.cli.start import OptionError, at
from qmpfleece.control.shape import Shape
from qmpfleece.control.visitor import visit

#: Options without an argument.
_FLAGS: Final = frozenset(
    {
        "S", "daemonize", "h", "help", "no-reboot", "no-shutdown", "no-user-config",
        "nodefaults", "nographic", "snapshot", "version",
    }
)  # fmt: skip
#: Options with an argument that say something about a machine's other half: taken, not used.
_IGNORED: Final = frozenset(
    {"boot", "cpu", "display", "msg", "net", "nic", "qtest-log", "rtc", "smp", "vga"}
)
_DISKS: Final = ("hda", "hdb", "hdc", "hdd", "cdrom")
_FLOPPIES: Final = ("fda", "fdb")
#: Options that say what is on the board.
_BOARD: Final = ("net", "nic", "smp", "vga")
_ARGUMENT: Final = _IGNORED.union(
    {
        "M", "accel", "add-fd", "blockdev", "chardev", "device", "drive", "incoming", "m",
        "machine", "mon", "monitor", "name", "object", "parallel", "pidfile", "qmp",
        "qmp-pretty", "qtest", "serial", "uuid",
    },
    _DISKS,
    _FLOPPIES,
)  # fmt: skip

_MEMORY: Final = {"size": "size", "slots": "number", "maxmem": "size"}
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NAME: Final = {"guest": "str", "process": "str", "debug-threads": "bool"}
_FD: Final = {"fd": "number", "set": "number", "opaque": "str"}
_MON: Final = {"mode": "str", "chardev": "str", "pretty": "bool"}


#: What an option's argument says, key by key; strings unless it was JSON.
Given: TypeAlias = dict[str, Any]


def scan(words: Sequence[str]) -> Iterator[Option]:
    """Yield the options in order; a word that is no option is the image of a disk.

    Raises:
        UsageError: There is no such option, or it lacks its argument.
    """
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield Option("hda", word, word)
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        if name in _FLAGS:
            yield Option(name, "", word)
        elif name in _ARGUMENT:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{word}: requires an argument")
            yield Option(name, value, f"{word} {value}")
        else:
            raise UsageError(f"{word}: invalid option")


class Wanted:
    """What the options say.

    Attributes:
        paused: The guest does not run at first.
        daemonize: Go into the background once everything exists.
        snapshot: Drives write to temporary files.
        name: What query-name says.
        uuid: What query-uuid says.
        pidfile: The PID file's path, None for none.
        machine: The argument of ``-machine``, "" for none.
        accels: Those of ``-accel``.
        incoming: That of ``-incoming``, None for none.
        qtest: The device of the qtest protocol.
        board: What is said about the board.
        fds: Descriptors that were handed over, with where they go.
        objects, chardevs, monitors, blockdevs, drives, devices: What is to be made of each
            kind, in the order given, and the option that says so.
        json_devices: The devices that are described in JSON: made after all others, and whatever
            the JSON holds.
    """

    def __init__(self) -> None:
        self.paused = False
        self.daemonize = False
        self.snapshot = False
        self.name: str | None = None
        self.uuid: str | None = None
        self.pidfile: str | None = None
        self.machine = ""
        self.accels: list[Option] = []
        self.incoming: Option | None = None
        self.qtest: Option | None = None
        self.board = Chosen()
        self.fds: list[tuple[Option, Given]] = []
        self.objects: list[Given] = []
        self.chardevs: list[tuple[Option, Given]] = []
        self.monitors: list[tuple[Option, Given]] = []
        self.blockdevs: list[tuple[Option, Given]] = []
        self.drives: list[tuple[Option, Given]] = []
        self.devices: list[tuple[Option, Given]] = []
        self.json_devices: list[tuple[Option, Given]] = []

    def models(self) -> list[str]:
        """Return what the models of devices are called that are asked for."""
        given = (device.get("driver") for _, device in (*self.devices, *self.json_devices))
        return [model for model in given if isinstance(model, str)]


class Reader:
    """Reads the options, one after the other, into ``wanted``.

    Args:
        arguments_of: Returns what a QMP command takes.
    """

    def __init__(self, arguments_of: Callable[[str], Shape]) -> None:
        self.wanted: Final = Wanted()
        self._arguments_of = arguments_of
        self._ids: set[tuple[str, str]] = set()
        self._short_monitors = 0
        self._handlers: Final[dict[str, Callable[[Option], None]]] = {
            "S": self._stopped,
            "daemonize": self._daemonize,
            "M": self._machine,
            "machine": self._machine,
            "accel": self._accel,
            "add-fd": self._add_fd,
            "blockdev": self._blockdev,
            "chardev": self._chardev,
            "device": self._device,
            "drive": self._drive,
            "incoming": self._incoming,
            "m": self._memory,
            "mon": self._mon,
            "monitor": self._monitor,
            "name": self._name,
            "object": self._object,
            "parallel": self._serial,
            "pidfile": self._pidfile,
            "qmp": self._qmp,
            "qmp-pretty": self._qmp,
            "qtest": self._qtest,
            "serial": self._serial,
            "snapshot": self._snapshot,
            "uuid": self._uuid,
            **dict.fromkeys(_DISKS, self._disk),
            **dict.fromkeys(_FLOPPIES, self._floppy),
            **dict.fromkeys(_BOARD, self._board),
            "nodefaults": self._bare,
        }

    def read(self, option: Option) -> None:
        """Take note of an option.

        Raises:
            OptionError: It says something that is wrong by itself.
        """
        handler = self._handlers.get(option.name)
        if handler is None:
            return
        with at(option):
            handler(option)

    def _unique(self, kind: str, given: dict[str, Any]) -> None:
        """Refuse an id that another option of the kind has."""
        name = given.get("id")
        if name is None:
            return
        if (kind, name) in self._ids:
            raise QmpError(f"Duplicate ID '{name}' for {kind}")
        self._ids.add((kind, name))

    # -- one method an option ---------------------------------------------------------------

    def _stopped(self, _option: Option) -> None:
        self.wanted.paused = True

    def _snapshot(self, _option: Option) -> None:
        self.wanted.snapshot = True

    def _daemonize(self, _option: Option) -> None:
        self.wanted.daemonize = True

    def _machine(self, option: Option) -> None:
        first, *others = option.value.split(",")
        for word in (f"type={first}" if "=" not in first else first, *others):
            key, _, value = word.partition("=")
            if key == "type":
                self.wanted.machine = value
            elif key == "accel":
                self.wanted.accels.append(Option("accel", value, ""))

    def _accel(self, option: Option) -> None:
        self.wanted.accels.append(option)

    def _memory(self, option: Option) -> None:
        qemuopts.parse(option.value, "size", _MEMORY)

    def _name(self, option: Option) -> None:
        given = qemuopts.parse(option.value, "guest", _NAME)
        self.wanted.name = given.get("guest")

    def _uuid(self, option: Option) -> None:
        if not _UUID.fullmatch(option.value):
            raise QmpError("failed to parse UUID string: wrong format")
        self.wanted.uuid = option.value.lower()

    def _pidfile(self, option: Option) -> None:
        self.wanted.pidfile = option.value

    def _incoming(self, option: Option) -> None:
        self.wanted.incoming = option

    def _add_fd(self, option: Option) -> None:
        self.wanted.fds.append((option, qemuopts.parse(option.value, None, _FD)))

    def _blockdev(self, option: Option) -> None:
        shape = self._arguments_of("blockdev-add")
        given = options.structured(option.value, shape, "driver")
        visit(shape, given)
        self.wanted.blockdevs.append((option, given))

    def _object(self, option: Option) -> None:
        shape = self._arguments_of("object-add")
        given = options.structured(option.value, shape, "qom-type")
        visit(shape, given)
        check_id(given["id"])
        self._unique("object", given)
        self.wanted.objects.append(given)

    def _drive(self, option: Option) -> None:
        given = qemuopts.parse(option.value, None, None)
        self._unique("drive", given)
        self.wanted.drives.append((option, given))

    def _disk(self, option: Option) -> None:
        given = {"file": option.value}
        if option.name == "cdrom":
            given |= {"media": "cdrom", "index": "2"}
        else:
            given["index"] = str(_DISKS.index(option.name))
        self.wanted.drives.append((option, given))

    def _floppy(self, option: Option) -> None:
        index = str(_FLOPPIES.index(option.name))
        self.wanted.drives.append((option, {"if": "floppy", "index": index, "file": option.value}))

    def _board(self, option: Option) -> None:
        self.wanted.board.add(option)

    def _bare(self, _option: Option) -> None:
        self.wanted.board.bare = True

    def _device(self, option: Option) -> None:
        if option.value.startswith("{"):
            # What is wrong with it is found out when it is made.
            self.wanted.json_devices.append((option, options.json_object(option.value)))
            return
        given = qemuopts.parse(option.value, "driver", None)
        if "driver" not in given:
            raise QmpError("Parameter 'driver' is missing")
        self._unique("device", given)
        self.wanted.devices.append((option, given))

    def _chardev(self, option: Option) -> None:
        given = chardev.parse(option.value)
        self._unique("chardev", given)
        self.wanted.chardevs.append((option, given))

    def _mon(self, option: Option) -> None:
        given = qemuopts.parse(option.value, "chardev", _MON)
        if "chardev" not in given:
            raise QmpError("Parameter 'chardev' is missing")
        self._unique("mon", given)
        self.wanted.monitors.append((option, given))

    def _qmp(self, option: Option) -> None:
        self._monitor_on(option, {"mode": "control"})

    def _monitor(self, option: Option) -> None:
        if option.value != "none":
            self._monitor_on(option, {"mode": "readline"})

    def _monitor_on(self, option: Option, given: dict[str, str]) -> None:
        kind, colon, name = option.value.partition(":")
        if not colon or kind != "chardev":
            name = f"compat_monitor{self._short_monitors}"
            self.wanted.chardevs.append((option, _short(option, name, "parse error: ")))
        if option.name == "qmp-pretty":
            given["pretty"] = "on"
        self._short_monitors += 1
        self.wanted.monitors.append((option, given | {"chardev": name}))

    def _serial(self, option: Option) -> None:
        kind = option.value.partition(":")[0]
        if option.value not in {"none", "null", "stdio", "mon:stdio"} and kind != "chardev":
            raise OptionError(
                f"{option.where}: '{option.value}' is not a valid char driver",
                f"{option.where}: could not connect {option.name} device to character backend"
                f" '{option.value}'",
            )
        self.wanted.board.add(option)

    def _qtest(self, option: Option) -> None:
        self.wanted.qtest = option


def _short(option: Option, name: str, prefix: str) -> dict[str, str]:
    """Return the options of the character device that another option describes.

    Raises:
        OptionError: It can't be understood.
    """
    complaint = f"{option.where}: {prefix}{option.value}"
    try:
        given = chardev.parse_short(option.value, name)
    except QmpError as error:
        raise OptionError(f"{option.where}: {error.desc}", complaint) from error
    if given is None:
        raise OptionError(complaint)
    return given
