"""What ``qmpfleece-qemu`` says about itself: its version, options, machines, devices, formats."""

import json
from collections.abc import Callable
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.keyval import is_help
from qmpfleece.cli.object_help import object_help
from qmpfleece.cli.qemu_machine import ACCELS, MACHINES
from qmpfleece.cli.scan import Option
from qmpfleece.cli.start import at
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS

_ASKING: Final = ("help", "?")
_HELP: Final = """\
usage: {program} [options] [disk_image]

The block half of qemu-system-x86_64: block nodes, drives, jobs, exports, bitmaps and
the disks of a guest that never runs. Options have one dash or two.

  -blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]
             open a block node
  -drive [file=FILE][,format=FORMAT][,if=none|virtio|scsi|ide][,id=NAME]
         [,media=disk|cdrom][,cache=MODE][,snapshot=on|off][,OPTION=VALUE...]
             open a block node with a named backend, and a disk on it unless if=none
  -hda FILE, -fda FILE, -cdrom FILE, DISK_IMAGE
             the same as -drive file=FILE
  -device DRIVER[,id=NAME][,drive=DRIVE][,PROPERTY=VALUE...]
             plug a device in; -device help lists them, -device DRIVER,help its properties
  -object TYPE,id=NAME[,PROPERTY=VALUE...]
             make an object; -object help lists the types
  -chardev socket,id=ID,path=PATH|host=HOST,port=PORT|fd=FD[,server=on][,wait=off]
  -chardev stdio,id=ID
             a channel for a monitor
  -mon [chardev=]ID,mode=control[,pretty=on]
             speak QMP on a channel
  -qmp stdio|unix:PATH|tcp:HOST:PORT[,server=on][,wait=off], -qmp-pretty ...
             the same, channel included
  -qtest unix:PATH
             answer the commands of qtest: clock_step
  -add-fd fd=FD,set=SET[,opaque=TEXT]
             let FD be opened as /dev/fdset/SET
  -incoming defer
             wait for a migration that never comes
  -name NAME, -uuid UUID
             what query-name and query-uuid say
  -S         do not run the guest until it is told to
  -pidfile FILE, -daemonize, -version, -help
  -machine TYPE, -M TYPE, -accel NAME, -cpu NAME, -m SIZE, -smp N, -boot X, -rtc X,
  -display X, -vga X, -nographic, -nodefaults, -no-user-config, -no-shutdown,
  -no-reboot, -serial X, -parallel X, -net X, -nic X, -msg X, -qtest-log FILE
             taken, so that command lines made for QEMU work

QMPFLEECE_LOOP=asyncio in the environment selects Python's own event loop.
"""


def inform(option: Option, program: str) -> bool:
    """Print what an option asks for, if it is one that asks; tell whether that was all."""
    answer = _ANSWERS.get(option.name)
    with at(option):
        text = answer(option.value) if answer else ""
    if text:
        print(text.format(program=program) if text is _HELP else text, end="", flush=True)
    return bool(text)


def _version(_value: str) -> str:
    from qmpfleece import __version__

    return f"QEMU emulator version 7.2.0 (qmpfleece {__version__})\n"


def _object(value: str) -> str:
    text = object_help(value)
    return f"{text}\n" if text else ""


def _machine(value: str) -> str:
    return MACHINES if is_help(value) else ""


def _accel(value: str) -> str:
    return ACCELS if is_help(value) else ""


def _device(value: str) -> str:
    name, *rest = value.split(",")
    if is_help(name):
        return _DEVICES
    if not any(is_help(word) for word in rest):
        return ""
    return _properties(name.removeprefix("driver="))


def _properties(name: str) -> str:
    from qmpfleece.control.devices.models import ALIASES, MODELS

    model = MODELS.get(ALIASES.get(name, name))
    if model is None:
        raise QmpError(f"Device '{name}' not found")
    lines = [f"  virtio-backend=<child<{model.inner}>>"] if model.inner else []
    for item in model.properties:
        line = f"  {item.name}=<{item.kind}>"
        if item.description is not None or item.default is not None:
            line = f"{line:<24} - {item.description or ''}"
        if item.default is not None:
            line += f" (default: {json.dumps(item.default)})"
        lines.append(line)
    return "\n".join([f"{model.name} options:", *sorted(lines), ""])


_DEVICES: Final = """\
Storage devices:
name "scsi-cd", bus SCSI, desc "virtual SCSI CD-ROM"
name "scsi-hd", bus SCSI, desc "virtual SCSI disk"
name "virtio-blk-pci", bus PCI, alias "virtio-blk"
name "virtio-scsi-pci", bus PCI, alias "virtio-scsi"
"""


def _drive(value: str) -> str:
    words = value.split(",")
    if not any(f"{key}={word}" in words for key in ("format", "driver") for word in _ASKING):
        return ""
    names = " ".join(sorted(BLOCKDEV_MODELS))
    return f"Supported formats: {names}\nSupported formats (read-only): {names}\n"


_ANSWERS: Final[dict[str, Callable[[str], str]]] = {
    "h": lambda _: _HELP,
    "help": lambda _: _HELP,
    "version": _version,
    "object": _object,
    "machine": _machine,
    "M": _machine,
    "accel": _accel,
    "device": _device,
    "drive": _drive,
}
