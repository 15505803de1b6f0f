"""What options say about the machine's board, and the drives that it has without being asked.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.scan import Option
from qmpfleece.control.devices.board import MACHINES, Extras

#: Devices that, once asked for, stand in for parts that would be there by themselves.
_INSTEAD: Final = {
    "isa-serial": "serial",
    "isa-parallel": "parallel",
    "isa-fdc": "floppy",
    "floppy": "floppy",
    **dict.fromkeys(("ide-cd", "ide-hd", "scsi-cd", "scsi-hd"), "cdrom"),
    **dict.fromkeys(("VGA", "cirrus-vga", "isa-vga", "qxl-vga", "virtio-vga"), "vga"),
}
_PROCESSORS: Final = re.compile(r"(?:cpus=)?(\d+)(?:,.*)?")


@dataclass
class Chosen:
    """The options about the board, in the order given.

    Attributes:
        bare: Nothing is there that was not asked for.
        given: The arguments of the options, by the options' names.
    """

    bare: bool = False
    given: dict[str, list[str]] = field(default_factory=dict)

    def add(self, option: Option) -> None:
        """Take note of an option."""
        self.given.setdefault(option.name, []).append(option.value)

    def extras(self, devices: Iterable[str]) -> Extras:
        """Return what the board has.

        Args:
            devices: The models of the devices that were asked for.
        """
        instead = {_INSTEAD[name] for name in devices if name in _INSTEAD}
        nets = [*self.given.get("net", ()), *self.given.get("nic", ())]
        smp = _PROCESSORS.fullmatch(self.given.get("smp", ["1"])[-1])
        return Extras(
            vga=self._has("vga", instead),
            nic=any(self._is_card(name) for name in nets) if nets else not self.bare,
            processors=int(smp[1]) if smp is not None else 1,
            serial=self._count("serial", instead),
            parallel=self._count("parallel", instead),
        )

    def drives(self, machine: str, devices: Iterable[str]) -> list[dict[str, str]]:
        """Return the options of the drives that are there by themselves.

        Args:
            machine: The kind of machine.
            devices: The models of the devices that were asked for.
        """
        known = MACHINES[machine]
        if self.bare or known.root is None:
            return []
        instead = {_INSTEAD[name] for name in devices if name in _INSTEAD}
        drives = []
        if "cdrom" not in instead:
            drives.append({"if": "ide", "index": "2", "media": "cdrom"})
        if known.floppies and "floppy" not in instead:
            drives.append({"if": "floppy", "index": "0"})
        return [*drives, {"if": "sd", "index": "0"}]

    def _has(self, name: str, instead: set[str]) -> bool:
        if name in self.given:
            return self.given[name][-1] != "none"
        return not self.bare and name not in instead

    def _count(self, name: str, instead: set[str]) -> int:
        if name in self.given:
            return sum(value != "none" for value in self.given[name])
        return int(not self.bare and name not in instead)

    def _is_card(self, name: str) -> bool:
        kind = name.partition(",")[0]
        return kind == "nic" or (kind != "none" and name in self.given.get("nic", ()))


def number(options: dict[str, Any], key: str) -> int | None:
    """Take a number out of options, as C reads it into an ``int``; -1 is no number.

    Raises:
        QmpError: It is none, or far too large.
    """
    text = options.pop(key, None)
    if text is None:
        return None
    found = re.fullmatch(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|[0-9]+)", text)
    digits = found[2] if found else ""
    octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    if found is None or (octal and set(digits) & {"8", "9"}):
        raise QmpError(f"Parameter '{key}' expects a number")
    value = int(digits, 8 if octal else 0)
    if value >= 1 << 64:
        raise QmpError(f"Value '{text}' is too large for parameter '{key}'")
    low = (-value if found[1] == "-" else value) & 0xFFFFFFFF
    value = low - (1 << 32) if low >= 1 << 31 else low
    return None if value == -1 else value
