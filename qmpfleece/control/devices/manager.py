"""All devices of the machine: plugged in, found, taken out.

What depends on a guest's answer waits for ever, as no guest runs; ``reset`` stands in for it, as
QEMU's does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.base.names import well_formed
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.control.devices import pci
from qmpfleece.control.devices.board import MACHINES, Board, Extras
from qmpfleece.control.devices.busses import Bus, Part, find_kind, find_path
from qmpfleece.control.devices.device import ANONYMOUS, PERIPHERAL, Device
from qmpfleece.control.devices.disk import (
    check_block_size,
    check_disk,
    find_drive,
    take_permissions,
)
from qmpfleece.control.devices.models import DeviceModel, find_model
from qmpfleece.control.devices.properties import as_text
from qmpfleece.control.drives import Drives
from qmpfleece.control.objects import Objects
from qmpfleece.qapi.order import ordered

#: What of device_add is no property.
_NO_PROPERTY: Final = frozenset({"driver", "id", "bus"})
#: Properties of every device that only tell something. Differs: QEMU has ``realized``, too,
#: and crashes when device_add sets it.
READ_ONLY: Final = frozenset({"type", "parent_bus", "hotplugged", "hotpluggable", "realized"})


#: Disks of a board; see ``Devices.set_machine``.
Disks: TypeAlias = Sequence[tuple[str, int, Mapping[str, str]]]
NO_DISKS: Final[Mapping[str, Disks]] = {}


class Devices:
    """The devices of one machine.

    Args:
        graph: Where the nodes are.
        drives: The named backends, which devices take over.
        objects: Where I/O threads are looked up.
        is_object: Tells whether a path leads to anything in the tree of objects.

    Attributes:
        machine: Its type; fixed before the first device comes.
        board: What it has from the beginning.
        running: The machine has been set up: what comes now is plugged in while it runs.
    """

    def __init__(
        self, graph: Graph, drives: Drives, objects: Objects, is_object: Callable[[str], bool]
    ) -> None:
        self._graph = graph
        self._drives = drives
        self._objects = objects
        self._is_object = is_object
        self._devices: dict[str, Device] = {}
        self._unnamed_busses = 0
        self._anonymous = 0
        self.running = False
        self.set_machine("pc", Extras())

    def set_machine(
        self, name: str, extras: Extras, disks: Mapping[str, Disks] = NO_DISKS
    ) -> None:
        """Make the machine, before devices are added to it.

        Args:
            name: Its type.
            extras: What of its board can be chosen.
            disks: The disks that come with it, by the kind of their bus: for each its model,
                the number of the bus, and its properties.

        Raises:
            QmpError: One of the disks can't be used.
        """
        assert not self._devices

        def plug(kind: str, busses: list[Bus]) -> None:
            for driver, number, properties in disks.get(kind, ()):
                bus, path = busses[number], board.next_path()
                self._plug(Device(find_model(driver), None, path, bus), properties)

        self.machine = MACHINES[name]
        self.board = board = Board(extras)
        board.make(self.machine, plug)

    # -- finding ------------------------------------------------------------------------------

    def all(self) -> list[Device]:
        """Return all devices, the oldest first."""
        return list(self._devices.values())

    def at(self, path: str) -> Device | None:
        """Return the device at a path of the object tree; a virtio disk is at two."""
        outside = path.removesuffix("/virtio-backend")
        device = self._devices.get(outside)
        return device if device is None or path in {outside, device.inner_path} else None

    def find(self, name: str) -> Device | None:
        """Return the device of an id or path."""
        return self.at(name if name.startswith("/") else f"{PERIPHERAL}/{name}")

    def holder(self, backend: Backend) -> Device | None:
        """Return the device that has a backend."""
        return next((item for item in self.all() if item.backend is backend), None)

    # -- coming -------------------------------------------------------------------------------

    async def add(self, driver: str, options: dict[str, Any]) -> Device:
        """Make a device and plug it in. Source: QAPI ``device_add``.

        Args:
            driver: The model, or an alias of it.
            options: ``id``, ``bus`` and the properties, as JSON values.

        Raises:
            QmpError: It can't be done; nothing has changed.
        """
        given = {name: as_text(options[name]) for name in ordered(options)}
        ident = given.get("id") if isinstance(options.get("id"), str) else None
        if ident is not None and not well_formed(ident):
            raise QmpError("Parameter 'id' expects an identifier")
        model = find_model(driver)
        bus = self._choose_bus(model, given.get("bus"))
        if self.running and not bus.hotplug:
            raise QmpError(f"Bus '{bus.name}' does not support hotplugging")
        path = f"{PERIPHERAL}/{ident}" if ident is not None else self._anonymous_path()
        if path in self._devices:
            raise QmpError(f"Duplicate device ID '{ident}'")
        device = Device(model, ident, path, bus)
        device.hotplugged = self.running
        try:
            self._plug(device, {name: text for name, text in given.items() if text is not None})
        except BaseException:
            await self._give_back(device)
            raise
        return device

    def _plug(self, device: Device, given: Mapping[str, str]) -> None:
        for name, text in given.items():
            if name not in _NO_PROPERTY:
                self._set(device, name, text)
        self._realize(device)
        self._devices[device.path] = device
        device.bus.sitting.insert(0, device)

    def _choose_bus(self, model: DeviceModel, name: str | None) -> Bus:
        if name is None:
            bus = find_kind(self.board.root, model.bus)
            if bus is None or bus.full:
                raise QmpError(f"No '{model.bus}' bus found for device '{model.name}'")
            return bus
        bus = find_path(self.board.root, name)
        if not bus.takes(model.bus):
            raise QmpError(f"Device '{model.name}' can't go on {bus.kind} bus")
        return bus

    def _anonymous_path(self) -> str:
        """Return the path of the next device without an id; it is used up, come what may."""
        self._anonymous += 1
        return f"{ANONYMOUS}/device[{self._anonymous - 1}]"

    def _set(self, device: Device, name: str, text: str) -> None:
        model = device.model
        known = model.by_name.get(name)
        if known is None:
            what = "is not writable" if name in READ_ONLY else "not found"
            raise QmpError(f"Property '{model.name}.{name}' {what}")
        if name == "drive":
            if text:
                held = [item.backend for item in self.all() if item.backend is not None]
                device.backend = find_drive(self._graph, self._drives, device, text, held)
            return
        if name == "iothread" and text:
            text = self._find_iothread(text)
        device.values[name] = known.parse(text, model.name)
        if name.endswith("al_block_size"):
            check_block_size(device, name)

    def _find_iothread(self, path: str) -> str:
        """Return the id of an I/O thread.

        Raises:
            QmpError: The path leads to none, or to more than one.
        """
        made = self._objects.find(path, "iothread")
        if made is not None:
            return made.name
        if self._is_object(path):
            raise QmpError("Invalid parameter type for 'iothread', expected: iothread")
        raise not_found(path)

    def _realize(self, device: Device) -> None:
        model = device.model
        if model.bus == "SCSI":
            device.place()
        elif model.bus == "PCI":
            device.values["addr"] = pci.place(
                device.bus,
                model.name,
                device.slot,
                multifunction=device.multifunction,
                hotplugged=device.hotplugged,
            )
        else:
            device.place_unit()
        if model.has_drive:
            if device.backend is None and model.removable:
                device.backend = Backend(self._graph, perm=Perm.NONE)
            check_disk(device)
            assert device.backend is not None
            device.backend.device = device.name
            take_permissions(device, device.backend.node)
        if model.inner:
            virtio = Bus("virtio-bus", "virtio-pci-bus", f"{device.path}/virtio-bus", full=True)
            device.busses.append(virtio)
            inner = Part(model.inner, device.inner_path, virtio)
            if model.offers:
                device.offers = self._make_bus(device)
                inner.busses.append(device.offers)

    def _make_bus(self, device: Device) -> Bus:
        kind = device.model.offers
        if device.id is not None:
            name = f"{device.id}.0"
        else:
            name = f"{kind.lower()}.{self._unnamed_busses}"
            self._unnamed_busses += 1
        return Bus(name, kind, f"{device.inner_path}/{name}")

    # -- going --------------------------------------------------------------------------------

    def find_removable(self, name: str) -> Device:
        """Return the device that device_del names.

        Raises:
            QmpError: There is none, or it can't be taken out.
        """
        device = self.find(name)
        if device is None:
            raise not_found(name)
        if device.model.inner and name.endswith("/virtio-backend"):
            raise QmpError("Bus 'virtio-bus' does not support hotplugging")
        if self.running and not device.bus.hotplug:
            raise QmpError(f"Bus '{device.bus.name}' does not support hotplugging")
        if device.unplugging:
            raise QmpError(f"Device {name} is already in the process of unplug")
        return device

    async def remove(self, device: Device) -> list[Device]:
        """Take a device out, with those on its bus; return them in the order of their going.

        Requests in flight are waited for. The backend of a -drive goes with its device.
        """
        gone: list[Device] = []
        if device.offers is not None:
            for below in tuple(device.offers.sitting):
                assert isinstance(below, Device)
                gone += await self.remove(below)
        device.bus.sitting.remove(device)
        del self._devices[device.path]
        backend = device.backend
        if backend is not None:
            await backend.detach()
            if backend.name:
                self._drives.forget(backend.name)
        return [*gone, device]

    async def _give_back(self, device: Device) -> None:
        """Undo the taking of a backend by a device that has failed to become one."""
        backend = device.backend
        if backend is None:
            return
        backend.device = ""
        if not backend.name:
            await backend.detach()

    async def close(self) -> None:
        """Let go of all nodes, without a word."""
        for device in reversed(self.all()):
            if device.backend is not None:
                await device.backend.detach()
        self._devices.clear()


def not_found(name: str) -> QmpError:
    """Return the error for a name that no device has."""
    return QmpError(f"Device '{name}' not found", ErrorClass.DEVICE_NOT_FOUND)
