"""What options say about the machine's board, and the drives that it has without being asked.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from qmpfleece.base.digits import c_number
from qmpfleece.base.errors import QmpError
from qmpfleece.cli.scan import Option
from qmpfleece.control.devices.board import MACHINES, Extras
from qmpfleece.control.option_text import number_of, signed

#: Devices that, once asked for, stand in for parts that would be there by themselves.
_INSTEAD: Final = {
    "isa-serial": "serial",
    "isa-parallel": "parallel",
    "isa-fdc": "floppy",
    "floppy": "floppy",
    **dict.fromkeys(("ide-cd", "ide-hd", "scsi-cd", "scsi-hd"), "cdrom"),
    **dict.fromkeys(("VGA", "cirrus-vga", "isa-vga", "qxl-vga", "virtio-vga"), "vga"),
}
_TOPOLOGY: Final = ("cpus", "sockets", "dies", "clusters", "cores", "threads", "maxcpus")
_MOST_PROCESSORS: Final = {"pc": 255, "q35": 288, "none": 1}
_MACHINE_NAMES: Final = {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}
_VGA: Final = re.compile(r"(?:none|std|cirrus|vmware|virtio|qxl)(?:,retrace=(?:dumb|precise))*")


@dataclass
class Chosen:
    """The options about the board, in the order given.

    Attributes:
        bare: Nothing is there that was not asked for.
        given: The arguments of the options, by the options' names.
    """

    bare: bool = False
    given: dict[str, list[str]] = field(default_factory=dict)

    @property
    def topology(self) -> dict[str, int]:
        """What is said about the processors.

        Raises:
            QmpError: It is no good.
        """
        text = ",".join(self.given.get("smp", ()))
        found: dict[str, str] = {}
        for word in filter(None, text.split(",")):
            key, _, value = word.rpartition("=")
            found[key or "cpus"] = value
        numbers: dict[str, int] = {}
        for key in _TOPOLOGY:
            if key in found:
                count = c_number(found[key])
                if count is None or not -(1 << 63) <= count < 1 << 63:
                    raise QmpError(f"Parameter 'smp.{key}' expects integer")
                numbers[key] = count
        for key in found:
            if key not in _TOPOLOGY:
                raise QmpError(f"Parameter 'smp.{key}' is unexpected")
        return numbers

    def check_vga(self) -> None:
        """Refuse display adapters that nobody has heard of.

        Raises:
            QmpError: It is one.
        """
        for text in self.given.get("vga", ())[-1:]:
            if not _VGA.fullmatch(text):
                raise QmpError(f"unknown vga type: {text}")

    def check_processors(self, machine: str) -> None:
        """Refuse more processors than the machine can have.

        Raises:
            QmpError: There are more.
        """
        most = self._processors()[1]
        if most > _MOST_PROCESSORS[machine]:
            name = _MACHINE_NAMES.get(machine, machine)
            raise QmpError(
                f"Invalid SMP CPUs {signed(most, 32)}. The max CPUs supported by machine '{name}'"
                f" is {_MOST_PROCESSORS[machine]}"
            )

    def _processors(self) -> tuple[int, int]:
        """Return how many processors there are, and how many there may be.

        Raises:
            QmpError: What is said about them is contradictory.
        """
        # Of each number QEMU keeps 32 bits; 0 leaves it open.
        given = {key: count & 0xFFFFFFFF for key, count in self.topology.items()}
        cpus, most = given.get("cpus", 0), given.get("maxcpus", 0) or given.get("cpus", 0)
        sockets, cores, threads = (given.get(key, 0) for key in ("sockets", "cores", "threads"))
        dies, clusters = given.get("dies", 0) or 1, given.get("clusters", 0) or 1
        if not most:
            sockets, cores, threads = sockets or 1, cores or 1, threads or 1
        elif not cores:
            sockets, threads = sockets or 1, threads or 1
            cores = most // (sockets * dies * clusters * threads)
        elif not sockets:
            threads = threads or 1
            sockets = most // (dies * clusters * cores * threads)
        threads = threads or most // (sockets * dies * clusters * cores)
        product = sockets * dies * clusters * cores * threads & 0xFFFFFFFF
        most = most or product
        cpus = cpus or most
        shown = f"sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads})"
        if product != most:
            raise QmpError(
                "Invalid CPU topology: product of the hierarchy must match maxcpus: "
                f"{shown} != maxcpus ({most})"
            )
        if most < cpus:
            raise QmpError(
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
                f"{shown} == maxcpus ({most}) < smp_cpus ({cpus})"
            )
        return cpus, most

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
        return Extras(
            vga=self._has("vga", instead),
            nic=any(self._is_card(name) for name in nets) if nets else not self.bare,
            processors=self._processors()[0],
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
    value = signed(number_of(key, text), 32)
    return None if value == -1 else value
