"""Options of a node that were said as text: in a -drive, or to qemu-io's reopen.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2. Sizes have units, numbers don't.
"""

import re
from typing import Any, Final

from qmpfleece.base.digits import c_number, decimal
from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.numbers import parse_size
from qmpfleece.control.shape import Alternate, Builtin, Enum, Integer, Shape, Struct

#: Options that are numbers; all others are sizes.
_NUMBERS: Final = frozenset({"cache-clean-interval", "latency-ns"})
_LARGE: Final = re.compile(
    r"\s*\+?(?:0x(?P<hex>[0-9a-f]+)"
    r"|(?P<number>[0-9]+(?:\.[0-9]*(?=[kmgtpe]))?)(?P<unit>[bkmgtpe]?))",
    re.ASCII | re.IGNORECASE,
)
_NO_SIZE: Final = (
    "Parameter '{}' expects a non-negative number below 2^64\n"
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
    "and exabytes, respectively."
)
_MAX: Final = (1 << 63) - 1
_UNITS: Final = "bkmgtpe"
_SWITCH: Final = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}
_DISCARD: Final = {"off": "ignore", "ignore": "ignore", "on": "unmap", "unmap": "unmap"}


def value_of(shape: Shape, name: str, text: str) -> Any:
    """Return what ``text`` means for an option.

    Args:
        shape: What the option takes; that of a text is returned as it is.
        name: The option, with dots.
        text: What was said.

    Raises:
        QmpError: It is no value of this option.
    """
    if isinstance(shape, Alternate):
        arms = [arm for arm in shape.arms if not isinstance(arm, Struct)]
        shape = next((arm for arm in arms if arm == Builtin("str")), arms[0])
    if isinstance(shape, Enum):
        return _choice(shape, name, text)
    if isinstance(shape, Integer):
        if name not in _NUMBERS:
            return size_of(name, text)
        number = number_of(name, text)
        return signed(number, 64) if shape.signed else number
    if isinstance(shape, Builtin) and shape.name == "bool":
        if text not in _SWITCH:
            raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
        return _SWITCH[text]
    return text


def _choice(shape: Enum, name: str, text: str) -> str:
    if name == "discard":
        if text not in _DISCARD:
            raise QmpError("Invalid discard option")
        return _DISCARD[text]
    if text in shape.values:
        return text
    if name in {"overlap-check", "overlap-check.template"}:
        raise QmpError(
            f"Unsupported value '{text}' for qcow2 option 'overlap-check'."
            f" Allowed are any of the following: {', '.join(shape.values)}"
        )
    raise QmpError(f"invalid parameter value: {text}")


def number_of(name: str, text: str) -> int:
    """Return a number of 64 bits as C reads it, which wraps around: never negative.

    Raises:
        QmpError: It is none, or too large; QEMU's words for the option ``name``.
    """
    value = c_number(text)
    if value is None:
        raise QmpError(f"Parameter '{name}' expects a number")
    if abs(value) >> 64:
        raise QmpError(f"Value '{text}' is too large for parameter '{name}'")
    return value % (1 << 64)


def signed(value: int, bits: int) -> int:
    """Return what an unsigned number is in a signed one of ``bits`` bits."""
    value %= 1 << bits
    return value - (1 << bits) if value >> bits - 1 else value


def size_of(name: str, text: str) -> int:
    """Return a size in bytes; the largest stands for those that only QEMU can hold.

    Raises:
        QmpError: It is none, or too large; QEMU's words for the option ``name``.
    """
    try:
        return parse_size(text)
    except QmpError as error:
        match = _LARGE.fullmatch(text)
        if match is None:
            raise QmpError(_NO_SIZE.format(name)) from error
        if match["hex"]:
            number: float = int(match["hex"], 16)
        else:
            digits, unit = match["number"], match["unit"].lower() or "b"
            number = float(digits) if "." in digits else decimal(digits)
            number *= 1 << 10 * _UNITS.index(unit)
        if number < 1 << 64:
            return _MAX
        raise QmpError(f"Value '{text}' is out of range for parameter '{name}'") from error
