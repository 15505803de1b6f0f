"""The options about the machine itself: its type, accelerators, migration, descriptors.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

import fcntl
import re
from collections.abc import Sequence
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.scan import Option
from qmpfleece.cli.start import OptionError
from qmpfleece.control.option_text import number_of, signed

_ACCELS: Final = ("qtest", "tcg", "kvm")
#: A version of a machine: those of earlier QEMUs do what the newest one does.
_VERSION: Final = re.compile(r"pc-(?P<kind>i440fx|q35)-\d+\.\d+")
_KINDS: Final = {"i440fx": "pc", "q35": "q35"}
_STANDARD_FDS: Final = 3

MACHINES: Final = """\
Supported machines are:
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
none                 empty machine
"""
ACCELS: Final = "\n".join(["Accelerators supported in QEMU binary:", *_ACCELS, ""])


def machine_kind(name: str) -> str:
    """Return which machine a name means: pc, q35 or none.

    Args:
        name: The argument of ``-machine``, "" for none.

    Raises:
        QmpError: There is no such machine.
    """
    if name in {"", "pc", "q35", "none"}:
        return name or "pc"
    if version := _VERSION.fullmatch(name):
        return _KINDS[version["kind"]]
    raise QmpError("unsupported machine type\nUse -machine help to list supported machines")


def check_accels(given: Sequence[Option]) -> None:
    """Refuse accelerators that there are not; those that there are make no difference.

    Raises:
        OptionError: There is none of that name.
    """
    for option in given:
        for name in option.value.partition(",")[0].split(":"):
            if name.removeprefix("accel=") not in _ACCELS:
                place = f"{option.where}: " if option.where else ""
                raise OptionError(f"{place}invalid accelerator {name}")


def check_incoming(option: Option | None) -> None:
    """Refuse to be migrated to.

    Raises:
        OptionError: It is not only prepared for.
    """
    if option is not None and option.value != "defer":
        raise OptionError(f"{option.where}: unknown migration protocol: {option.value}")


def check_fd(given: dict[str, Any]) -> tuple[int, int]:
    """Return the descriptor that is handed over, and the set that it goes into.

    Raises:
        QmpError: It is not open, one of the standard ones, or its set is not named.
    """
    # A C int, and one of 64 bits.
    numbers = {
        key: signed(number_of(key, given.get(key, "-1")), bits)
        for key, bits in (("fd", 32), ("set", 64))
    }
    if numbers["fd"] < 0:
        raise QmpError("fd option is required and must be non-negative")
    if numbers["fd"] < _STANDARD_FDS:
        raise QmpError("fd cannot be a standard I/O stream")
    if not _is_inherited(numbers["fd"]):
        raise QmpError("fd is not valid or already in use")
    if numbers["set"] < 0:
        raise QmpError("set option is required and must be non-negative")
    return numbers["fd"], numbers["set"]


def _is_inherited(fd: int) -> bool:
    """Tell whether the program was started with a descriptor: its own are not passed on."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except (OSError, OverflowError):
        return False
