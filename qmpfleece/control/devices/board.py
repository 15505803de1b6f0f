"""The machines: what is on their boards before the first option plugs anything in.

Only what shows is here: the types and the order of the parts, as their order makes their paths
(``/machine/unattached/device[N]``), their buses, and the PCI slots that they take.

Source: ``info qtree`` and ``qom-list`` of QEMU 7.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qmpfleece.control.devices.busses import Bus, Part
from qmpfleece.control.devices.pci import place

UNATTACHED: Final = "/machine/unattached"
_EEPROMS: Final = 8
_FLOPPIES: Final = 2


@dataclass(frozen=True)
class Machine:
    """A type of machine.

    Attributes:
        type: Its QOM type.
        root: What holds its PCI bus below /machine, its QOM type, and the bus's name and kind;
            None if it has none.
        hotplug: Whether devices may be plugged into that while it runs.
        units: How many disks an IDE bus has, 0 if there is no IDE bus.
        floppies: It has a drive for floppies unless told not to.
    """

    type: str
    root: tuple[str, str, str, str] | None
    hotplug: bool = True
    units: int = 0
    floppies: bool = False


#: The machines by their names and by the beginning of the names of their versions.
MACHINES: Final = {
    "pc": Machine(
        "pc-i440fx-7.2-machine", ("i440fx", "i440FX-pcihost", "pci.0", "PCI"), True, 2, True
    ),
    "q35": Machine("pc-q35-7.2-machine", ("q35", "q35-pcihost", "pcie.0", "PCIE"), False, 1),
    "none": Machine("none-machine", None),
}


@dataclass
class Extras:
    """What of the board can be chosen.

    Attributes:
        vga: It has a graphics card.
        nic: It has a network card.
        processors: How many.
        serial, parallel: How many ports of the kind.
        floppies: It has a controller for floppies, though it is none of the kind that always has.
    """

    vga: bool = False
    nic: bool = False
    processors: int = 1
    serial: int = 0
    parallel: int = 0
    floppies: bool = False


class Board:
    """The parts of one machine.

    Args:
        extras: What was chosen.

    Attributes:
        root: The bus that all others are below.
        parts: All of them, the oldest first.
        processors: How many of them are processors.
    """

    def __init__(self, extras: Extras) -> None:
        self.root: Final = Bus("main-system-bus", "System", f"{UNATTACHED}/sysbus", hotplug=False)
        self.parts: Final[list[Part]] = []
        self._made = 0
        self._extras = extras
        self.processors = 0

    def make(self, machine: Machine, plug_disks: Callable[[str, list[Bus]], None]) -> None:
        """Make the parts.

        Args:
            machine: The type of the machine.
            plug_disks: Called with the kind of a bus and those of the kind where the machine
                makes its disks; these take the next paths.

        Raises:
            QmpError: ``plug_disks`` has.
        """
        if machine.root is None:
            return
        self._plug_disks = plug_disks
        holder, typename, name, kind = machine.root
        bridge = Part(typename, f"/machine/{holder}", self.root)
        self._pci = Bus(
            name, kind, f"{bridge.path}/{name}", hotplug=machine.hotplug, guest_agrees=True
        )
        bridge.busses.append(self._pci)
        self.parts.append(bridge)
        self._make_processors()
        if kind == "PCI":
            self._make_pc()
        else:
            self._make_q35(machine)

    def next_path(self) -> str:
        """Return the path of the next device that the board makes."""
        self._made += 1
        return f"{UNATTACHED}/device[{self._made - 1}]"

    def _make_processors(self) -> None:
        self.processors = self._extras.processors
        for number in range(self.processors):
            self._add("qemu64-x86_64-cpu", None)
            if not number:
                self._add("kvmvapic", self.root)

    def _make_pc(self) -> None:
        extras = self._extras
        self._add_pci("i440FX", 0)
        isa = self._offer(self._add_pci("PIIX3", 8, multifunction=True), "isa.0", "ISA")
        self._all(isa, "i8257", "i8257", "isa-i8259", "isa-i8259")
        if extras.vga:
            self._add_pci("VGA")
        self._make_isa(isa, floppies=True)
        if extras.nic:
            self._add_pci("e1000")
        ide = self._add_pci("piix3-ide", 9)
        self._make_disks(ide, "IDE", ["ide.0", "ide.1"], 2)
        self._make_memory_bus(self._add_pci("PIIX4_PM", 11))

    def _make_q35(self, machine: Machine) -> None:
        extras = self._extras
        mch = Part("mch", "/machine/q35/mch", self._pci, slot=0)
        self.parts.append(mch)
        bridge = self._add_pci("ICH9-LPC", 0x1F << 3, multifunction=True)
        isa = self._offer(bridge, "isa.0", "ISA")
        self._all(isa, "i8257", "i8257", "isa-i8259", "isa-i8259")
        self._make_isa(isa, floppies=extras.floppies)
        ahci = self._add_pci("ich9-ahci", 0x1F << 3 | 2)
        self._make_disks(ahci, "IDE", [f"ide.{n}" for n in range(6)], machine.units)
        self._make_memory_bus(self._add_pci("ICH9-SMB", 0x1F << 3 | 3))
        if extras.vga:
            self._add_pci("VGA")
        if extras.nic:
            self._add_pci("e1000e")

    def _make_isa(self, isa: Bus, *, floppies: bool) -> None:
        extras = self._extras
        self._add("hpet", self.root)
        self._all(isa, "mc146818rtc", "isa-pit", "isa-pcspk")
        self._all(isa, *("isa-serial",) * extras.serial, *("isa-parallel",) * extras.parallel)
        if floppies:
            self._make_disks(self._add("isa-fdc", isa), "floppy-bus", ["floppy-bus.0"], _FLOPPIES)
        self._all(isa, "i8042", "vmport", "vmmouse", "port92")

    def _make_memory_bus(self, holder: Part) -> None:
        bus = self._offer(holder, "i2c", "i2c-bus")
        self._all(bus, *("smbus-eeprom",) * _EEPROMS)

    def _make_disks(self, holder: Part, kind: str, names: list[str], units: int) -> None:
        busses = [self._offer(holder, name, kind, units) for name in names]
        self._plug_disks(kind, busses)

    def _all(self, bus: Bus, *typenames: str) -> None:
        for typename in typenames:
            self._add(typename, bus)

    def _add(self, typename: str, bus: Bus | None) -> Part:
        part = Part(typename, self.next_path(), bus)
        self.parts.append(part)
        return part

    def _add_pci(self, typename: str, slot: int = -1, *, multifunction: bool = False) -> Part:
        slot = place(self._pci, typename, slot, multifunction=multifunction, hotplugged=False)
        path = self.next_path()
        part = Part(typename, path, self._pci, slot=slot, multifunction=multifunction)
        self.parts.append(part)
        return part

    def _offer(self, part: Part, name: str, kind: str, units: int = 0) -> Bus:
        bus = Bus(name, kind, f"{part.path}/{name}", hotplug=False, units=units)
        part.busses.insert(0, bus)
        return bus
