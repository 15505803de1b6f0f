"""Places on a PCI bus: 32 slots with 8 functions each.

Source: what QEMU 7.2 says.
"""

from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.control.devices.busses import Bus, Sitting

_FUNCTIONS: Final = 8
_PLACES: Final = 32 * _FUNCTIONS


def place(bus: Bus, typename: str, asked: int, *, multifunction: bool, hotplugged: bool) -> int:
    """Return the place of a new device, ``slot * 8 + function``.

    Args:
        bus: Where it is to sit.
        typename: Its QOM type.
        asked: The place that the user wants, -1 for any.
        multifunction: It leaves the other functions of its slot to others.
        hotplugged: The guest runs: it looks at a slot when its function 0 comes.

    Raises:
        QmpError: It can't be had.
    """
    taken = {item.slot: item for item in bus.sitting}
    if asked < 0:
        free = (number for number in range(0, _PLACES, _FUNCTIONS) if number not in taken)
        asked = next(free, -1)
        if asked < 0:
            raise QmpError(
                f"PCI: no slot/function available for {typename}, all in use or reserved"
            )
    slot, function = divmod(asked, _FUNCTIONS)
    if (holder := taken.get(asked)) is not None:
        raise QmpError(
            f"PCI: slot {slot} function {function} not available for {typename},"
            f" in use by {holder.typename},id={holder.id or '(null)'}"
        )
    first = taken.get(asked - function)
    if hotplugged and first is not None:
        raise QmpError(
            f"PCI: slot {slot} function 0 already occupied by {first.typename},"
            f" new func {typename} cannot be exposed to guest."
        )
    _check_alone(taken, slot, function, multifunction=multifunction)
    return asked


def _check_alone(
    taken: dict[int, Sitting], slot: int, function: int, *, multifunction: bool
) -> None:
    """Refuse neighbours of a device that has its slot for itself."""
    base = slot * _FUNCTIONS
    if function:
        first = taken.get(base)
        if first is not None and not first.multifunction:
            raise QmpError(
                f"PCI: single function device can't be populated in function {slot:x}.{function:x}"
            )
    elif not multifunction:
        for other in range(1, _FUNCTIONS):
            if base + other in taken:
                raise QmpError(
                    f"PCI: {slot:x}.0 indicates single function,"
                    f" but {slot:x}.{other:x} is already populated."
                )
