"""Properties of devices: what they are called, of which type they are, how text becomes a value.

Source: ``device-list-properties`` of QEMU 7.2, and what it says to values that are no good.
"""

import re
from typing import Any, Final, NamedTuple

from qmpfleece.base.digits import c_number
from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.numbers import read_size

_ENUMS: Final = {
    "OnOffAuto": ("auto", "on", "off"),
    "BiosAtaTranslation": ("auto", "none", "lba", "large", "rechs"),
    "FdcDriveType": ("144", "288", "120", "none", "auto"),
    "BlockdevOnError": ("report", "ignore", "enospc", "stop", "auto"),
}
_BITS: Final = {"uint16": 16, "uint32": 32, "uint64": 64, "int32": 32}
_SLOT: Final = re.compile(
    r"\s*\+?(?:0[xX])?([0-9a-fA-F]+)(?:\.\s*\+?(?:0[xX])?([0-9a-fA-F]+))?", re.ASCII
)
_SLOTS: Final = 32
_FUNCTIONS: Final = 8


class Property(NamedTuple):
    """A property that can be given when a device is made.

    Attributes:
        name: As the user says it.
        kind: Its QOM type, e.g. ``uint32``.
        default: Its value unless given, None where QEMU tells none.
        description: What QEMU says about it.
    """

    name: str
    kind: str
    default: Any = None
    description: str | None = None

    def parse(self, text: str, owner: str) -> Any:
        """Return the value that a text stands for.

        Args:
            text: What was given.
            owner: The type of the device, for messages.

        Raises:
            QmpError: It stands for none.
        """
        if self.name == "addr":
            return self._slot(text, owner)
        if self.kind == "bool":
            if text not in {"on", "off", "yes", "no", "true", "false", "y", "n"}:
                raise QmpError(f"Parameter '{self.name}' expects 'on' or 'off'")
            return text in {"on", "yes", "true", "y"}
        if self.kind in _ENUMS:
            if text not in _ENUMS[self.kind]:
                raise QmpError(f"Parameter '{self.name}' does not accept value '{text}'")
            return text
        if self.kind == "size":
            return self._size(text)
        if self.kind in _BITS:
            return self._integer(text)
        return text

    def _integer(self, text: str) -> int:
        value = c_number(text)
        if value is None:
            raise QmpError(f"Parameter '{self.name}' expects integer")
        bits = _BITS[self.kind]
        if self.kind == "uint64" and -(1 << 63) <= value < 0:
            return value + (1 << 64)
        low = 0 if self.kind.startswith("u") else -(1 << bits - 1)
        if not low <= value < low + (1 << bits):
            wide = bits == 64 or not -(1 << 63) <= value < 1 << 64
            raise QmpError(
                f"Parameter '{self.name}' expects {'integer' if wide else self.kind + '_t'}"
            )
        return value

    def _size(self, text: str) -> int:
        value = read_size(text)
        if value is None or value >> 64:
            raise QmpError(f"Parameter '{self.name}' expects size")
        return value

    def _slot(self, text: str, owner: str) -> int:
        """Return ``slot * 8 + function`` of a PCI address."""
        found = _SLOT.fullmatch(text)
        slot, function = (int(found[1], 16), int(found[2] or "0", 16)) if found else (_SLOTS, 0)
        if slot >= _SLOTS or function >= _FUNCTIONS:
            raise QmpError(f"Property '{owner}.{self.name}' doesn't take value '{text}'")
        return slot * _FUNCTIONS + function


def as_text(value: Any) -> str | None:
    """Return a JSON value as text, None for one that QEMU passes over without a word."""
    match value:
        case bool():
            return "on" if value else "off"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return f"{value:.17g}"
    return None
