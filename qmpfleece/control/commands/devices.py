"""device_add, device_del and what else is done to the machine's devices.

Source: QAPI, qdev.json and machine.json.
"""

from typing import Annotated, Any, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.control import qom
from qmpfleece.control.command import Unchecked, command
from qmpfleece.control.commands import io_limits
from qmpfleece.control.devices.device import Device
from qmpfleece.control.devices.models import properties_of
from qmpfleece.control.devices.properties import as_text
from qmpfleece.control.system import System
from qmpfleece.qapi.events import Event
from qmpfleece.qapi.model import Model


class DeviceDeleted(Event, name="DEVICE_DELETED"):
    """A device is gone; its id may be used again. An anonymous one has only a path."""

    device: str | None = None
    path: str


class Reset(Event, name="RESET"):
    """The machine was reset."""

    guest: bool
    reason: Literal["host-qmp-system-reset"]


class DeviceAdd(Model):
    """What device_add takes besides the properties of the device."""

    driver: str
    bus: str | None = None
    id: str | None = None


class ObjectPropertyInfo(Model):
    """QAPI ``ObjectPropertyInfo``."""

    name: str
    type: str
    description: str | None = None
    default_value: Any = None


@command("device_add", machine=True)
async def device_add(
    system: System, options: Annotated[dict[str, Any], Unchecked(DeviceAdd)]
) -> None:
    """Plug a device in. Values are taken as text, those that are none are passed over."""
    driver = as_text(options.pop("driver", None))
    if driver is None:
        raise QmpError("Parameter 'driver' is missing")
    await system.devices.add(driver, options)


@command("device_del", machine=True)
async def device_del(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Take a device out by its id or path; DEVICE_DELETED follows the reply.

    One on the PCI bus goes when the guest lets it go, thus with system_reset.
    """
    qom.check_device(system, id)
    device = system.devices.find_removable(id)
    if device.bus.guest_agrees:
        device.unplugging = True
        return
    gone = await _take_out(system, device)
    system.after_reply(lambda: _announce(system, gone))


@command("system_reset", machine=True)
async def system_reset(system: System) -> None:
    """Reset the machine; devices go whose removal waits for the guest.

    A machine that does not run is then as it was before its start.
    """
    if system.run_state == "paused":
        system.run_state = "prelaunch"
    gone: list[Device] = []
    for device in system.devices.all():
        if device.unplugging:
            gone += await _take_out(system, device)
    system.bus.emit(Reset(guest=False, reason="host-qmp-system-reset"))
    system.after_reply(lambda: _announce(system, gone))


async def _take_out(system: System, device: Device) -> list[Device]:
    """Take a device out with all on its bus; whoever plays the guest over NBD is thrown out."""
    for disk in (device, *(device.offers.sitting if device.offers is not None else ())):
        if isinstance(disk, Device) and disk.backend is not None:
            io_limits.move(system, disk.backend, None)  # what waits is not to hold us up
            await system.exports.delete_of(disk.backend)
    return await system.devices.remove(device)


def _announce(system: System, gone: list[Device]) -> None:
    for device in gone:
        if device.model.inner:
            system.bus.emit(DeviceDeleted(path=device.inner_path))
        system.bus.emit(DeviceDeleted(device=device.id, path=device.path))


@command("device-list-properties", machine=True, exclusive=False)
async def device_list_properties(_system: System, typename: str) -> list[ObjectPropertyInfo]:
    """List what devices of a type can be given."""
    return [
        ObjectPropertyInfo(
            name=item.name,
            type=item.kind,
            description=item.description,
            default_value=item.default,
        )
        for item in properties_of(typename)
    ]
